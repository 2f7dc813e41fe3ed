#!/usr/bin/env bash
# What train_tiny.sh and teach_policy.sh share; sourced by them. They set work, and say what the variables below mean.
set -euo pipefail
python=${PYTHON:-python3} settings=${SETTINGS:-config/training/tiny.yaml} device=${DEVICE:-cuda}
out=${OUT:-$work}
export PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
[ -e "$vendor" ] && export __EGL_VENDOR_LIBRARY_FILENAMES="$vendor"
gpus=${GPUS:-$({ nvidia-smi -L 2>/dev/null || true; } | wc -l)} cores=${CORES:-$(nproc --all)} began=$(date +%s)
mkdir -p "$work/log" "$out"
now() { echo $(($(date +%s) - began)); }
note() { echo "[$(now) s] $*" | tee -a "$work/log/times.log"; }
pack() { tar czf "$out/$1.tgz.part" -C "$work" "${@:2}" && mv "$out/$1.tgz.part" "$out/$1.tgz"; note "$1.tgz packed"; }
last() { tail -n 1 "$work/log/$1.log" | cut -c1-"${2:-300}"; }
trainers=${TRAINERS:-$((cores / 4 < 16 ? (cores / 4 > 1 ? cores / 4 : 1) : 16))}
case $gpus in 0 | 1) all=0 ;; 2 | 3) all=0,1 ;; *) all=0,1,2,3 ;; esac
# Which processors: all, or a part while trainers and recorders share the machine.
train_on=0-$((cores - 1)) record_on=0-$((cores - 1))

record() {  # name, task, options
  local workers
  workers=$(taskset -c "$record_on" nproc)
  MUJOCO_EGL_DEVICE_ID=${RENDERERS:-$all} OMP_NUM_THREADS=1 taskset -c "$record_on" \
    "$python" -m cosmos3_ros.cli.main sim record --task "$2" --workers "$((workers > 8 ? workers - 2 : workers))" \
    --out "$work/$1" --json "${@:3}" > "$work/log/record_$1.log" 2>&1 \
    || { note "record $1 failed: $(last "record_$1")"; return 1; }
  note "$1 recorded: $(last "record_$1")"
}
one_look=(--width 160 --no-facts --set failure_share=0 --set anomaly_share=0 --set light_variation=0
  --set colour_variation=0 --set camera_variation=0 --set fewest_cubes=3)
some_glances=("${one_look[@]}" --set glances=50 --set alternatives=4)
some_episodes=("${one_look[@]}" --set alternatives=3 --set alternatives_every=8)
train() {  # GPUs, log, stage, checkpoint, options
  local launch=("$python" -m) on=${on:-$train_on}
  local commas=${1//[^,]/}
  [ -z "$commas" ] || launch=("$python" -m torch.distributed.run --standalone --nproc-per-node $((${#commas} + 1)) -m)
  # Few threads: a step waits for the GPU.
  CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=4 taskset -c "$on" "${launch[@]}" cosmos3_ros.cli.main train "$settings" \
    --device "$device" --json --stage "$3" --out "$work/$4" "${@:5}" > "$work/log/$2.log" 2>&1 \
    || { note "$2 failed: $(last "$2")"; return 1; }
  note "$2: $(last "$2")"
}
fit() { [ -n "${NO_FIT:-}" ] || echo "--fit-minutes $("$python" -c "print(max(0.1, ($1 - $(now)) / 60))")"; }  # until
prepare() { train "$1" "prepare_$3_$2" "$3" "$4" --prepare "${@:5}"; }  # GPU, name, stage, checkpoint, options

encode() {  # GPU, checkpoint, names; waits for each to be recorded; the first makes the checkpoint where there is none
  local name resume on=$record_on
  for name in "${@:3}"; do
    until grep -q "$name recorded" "$work/log/times.log"; do sleep 1; kill -0 "$recording" 2>/dev/null || break; done
    resume=()
    [ ! -e "$work/$2/cosmos3_ros.json" ] || resume=(--resume)
    prepare "$1" "$name" generator "$2" "${resume[@]}" --data "$work/$name"
  done
}
as_many() {  # like which recording, of how many episodes, in so many seconds; at least 8
  local took
  took=$(last "record_$1" 2000 | sed -n 's/.*"wall_seconds": \([0-9]*\).*/\1/p')
  "$python" -c "print(max(8, int($2 * $3 / (${took:-1} + 1))))"
}
spread() {  # GPUs, stage, checkpoint, options; on the first of them if they do not work together
  train "$1" "$2" "$2" "$3" --resume "${@:4}" || { [[ $1 == *,* ]] && train "${1%%,*}" "$2" "$2" "$3" --resume "${@:4}"; }
}
train_tower() {  # percentage of the time that is left for actions alone, recordings
  local data=() name end left
  for name in "${@:2}"; do data+=(--data "$work/$name"); done
  end=$(cat "$work/end" 2>/dev/null || echo "${END:-1650}")
  left=$((end - $(now)))
  note "$left s for the tower"
  # shellcheck disable=SC2046  # two words or none
  spread "$all" actions tiny "${data[@]}" $(fit $(($(now) + left * $1 / 100)))
  pack actions tiny/transformer tiny/cosmos3_ros.json
  # shellcheck disable=SC2046
  spread "$all" generator tiny "${data[@]}" $(fit "$end")
  pack generator tiny/transformer tiny/cosmos3_ros.json tiny/README.md tiny/losses.png
}
sed "s/^  workers: .*/  workers: $((cores > 8 ? cores - 4 : cores))/" "$settings" > "$work/settings.yaml" && settings="$work/settings.yaml"
