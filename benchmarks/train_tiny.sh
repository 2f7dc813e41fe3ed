#!/usr/bin/env bash
# cosmos3-tiny from nothing: record, train, measure, on a machine with one GPU or two.
#
#   benchmarks/train_tiny.sh WORK [EPISODES_WITH_FACTS] [EPISODES_FOR_THE_POLICY]
#
# With two GPUs the autoencoder and the reasoner are trained side by side, while the policy's episodes are
# recorded. What is finished is packed into $OUT (if that is set) at once, in files of less than 16 MiB: a lent
# machine may go back half a minute after a command, with everything on it. Runs from the repository's root.
# PYTHON names the interpreter, SETTINGS the file, DEVICE cuda or cpu, RENDERERS the numbers of the EGL devices
# that draw the first recording; a failed step ends the script.
set -euo pipefail
work=$1 facts=${2:-1500} policy=${3:-6000}
python=${PYTHON:-python3} settings=${SETTINGS:-config/training/tiny.yaml} device=${DEVICE:-cuda}
out=${OUT:-$work}
export PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
[ -e "$vendor" ] && export __EGL_VENDOR_LIBRARY_FILENAMES="$vendor"
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l) cores=$(nproc --all) began=$(date +%s)
mkdir -p "$work/log"
cosmos3() { "$python" -m cosmos3_ros.cli.main "$@"; }
note() {
  echo "[$(($(date +%s) - began)) s] $*" | tee -a "$work/log/times.log"
  [ "$out" = "$work" ] || cp -r "$work"/log/*.log "$out"/
}
pack() { tar czf "$out/$1.tgz" -C "$work" "${@:2}"; note "$1.tgz packed"; }
last() { tail -n 1 "$work/log/$1.log" | cut -c1-"${2:-300}"; }

record() {  # name, GPUs, workers, options
  MUJOCO_EGL_DEVICE_ID=$2 OMP_NUM_THREADS=1 cosmos3 sim record --task all --workers "$3" --out "$work/$1" --json "${@:4}" \
    > "$work/log/record_$1.log" 2>&1 || { note "record $1 failed: $(last "record_$1")"; return 1; }
  note "$1 recorded: $(last "record_$1")"
}
pin=()
train() {  # GPU, log, stage, checkpoint, options
  # Few threads: a step waits for the GPU, and threads that spin take cores from the recorders.
  CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=4 "${pin[@]}" "$python" -m cosmos3_ros.cli.main train "$settings" --device "$device" --json --stage "$3" --out "$work/$4" "${@:5}" \
    > "$work/log/$2.log" 2>&1 || { note "$2 failed: $(last "$2")"; return 1; }
  note "$2: $(last "$2")"
}
both=(--data "$work/facts" --data "$work/policy")
record_policy() {
  local workers=$((cores > 8 ? cores - 4 : cores))
  record policy 0 "$workers" --episodes "$policy" --seed 1 --width 160 --no-facts --set failure_share=0 --set anomaly_share=0 \
    --set light_variation=0 --set colour_variation=0 --set camera_variation=0 --set fewest_cubes=3
}

note "$gpus GPUs, $cores cores, revision $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
second=$((gpus > 1 ? 1 : 0))
record facts "${RENDERERS:-$(seq -s, 0 "$second")}" "$cores" --episodes "$facts" --seed 0 --width 320
# The autoencoder sees every look there is in the first recording; the second one shows one of them.
if [ "$gpus" -gt 1 ]; then
  [ "$cores" -gt 16 ] && pin=(taskset -c "$((cores - 8))-$((cores - 1))")
  train 1 reasoner reasoner tiny --data "$work/facts" & reasoner=$!
  [ "$cores" -gt 16 ] && pin=(taskset -c "$((cores - 16))-$((cores - 9))")
  train 0 vae vae other --data "$work/facts" & vae=$!
  pin=()
  record_policy
  wait "$vae"
  train 0 encode generator other --resume --prepare "${both[@]}"
  wait "$reasoner"
  "$python" benchmarks/join_stages.py "$work/tiny" "$work/other"
else
  record_policy
  train 0 vae vae tiny --data "$work/facts"
  train 0 reasoner reasoner tiny --resume --data "$work/facts"
fi
pack reasoner --exclude=tiny/transformer tiny
pack towers tiny/transformer
train 0 generator generator tiny --resume "${both[@]}"
pack generator tiny/transformer
pack card tiny/cosmos3_ros.json tiny/README.md tiny/losses.png
CUDA_VISIBLE_DEVICES=$second timeout 300 "$python" benchmarks/reasoner_accuracy.py "$settings" --data "$work/facts" --out "$work/tiny" \
  --clips 500 --device "$device" --processes 6 --log "$work/log/answers.jsonl" --json > "$work/log/reasoner_accuracy.log" 2>&1 & accuracy=$!
OMP_NUM_THREADS=1 "$python" benchmarks/closed_loop.py --checkpoint "$work/tiny" --episodes 50 --workers $((cores > 12 ? cores - 8 : cores)) \
  --json --log "$work/log/closed_loop.jsonl" > "$work/log/closed_loop.log" 2>&1
note "closed loop: $(last closed_loop 900)"
wait "$accuracy" || note 'reasoner_accuracy ended early'
note "reasoner: $(last reasoner_accuracy 1500)"
