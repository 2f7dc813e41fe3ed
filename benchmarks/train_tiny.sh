#!/usr/bin/env bash
# cosmos3-tiny from nothing: record, train, pack, on a machine with one GPU or two.
#
#   benchmarks/train_tiny.sh WORK [EPISODES_WITH_FACTS] [EPISODES_OF_REACH]
#
# PIECE says what of it: `understanding` records episodes with facts and trains the autoencoder and the reasoner (nine
# minutes on two GPUs); `policy` goes on with WORK/tiny, records the policy's episodes and trains the generator;
# `all` (default) is one after the other. A trainer's step waits for its host thread, so nothing is recorded beside
# the reasoner: with windows being decoded and encoded beside it its step took 0.27 instead of 0.07 s.
#
# With two GPUs the autoencoder and the reasoner are trained side by side, and the generator on both (torchrun). What
# is finished is packed into $OUT (or WORK) at once, in files of less than 16 MiB: a lent machine may go back half a
# minute after a command, with everything on it. Runs from the repository's root; a failed step ends the script.
#
# PYTHON names the interpreter, SETTINGS the file, DEVICE cuda or cpu, RENDERERS the numbers of the EGL devices.
# POLICY is the number of episodes in each of the policy's two longer recordings; without it as many as are done
# RECORD_UNTIL seconds after that piece began. STEPS is the generator's; without it as many as are done END seconds
# after (a file WORK/end, if there is one when the generator begins, says it better).
set -euo pipefail
work=$1 facts=${2:-1200} reach=${3:-4000}
python=${PYTHON:-python3} settings=${SETTINGS:-config/training/tiny.yaml} device=${DEVICE:-cuda}
out=${OUT:-$work} piece=${PIECE:-all} record_until=${RECORD_UNTIL:-450} end=${END:-1100}
export PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
[ -e "$vendor" ] && export __EGL_VENDOR_LIBRARY_FILENAMES="$vendor"
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l) cores=$(nproc --all) began=$(date +%s)
mkdir -p "$work/log" "$out"
now() { echo $(($(date +%s) - began)); }
note() { echo "[$(now) s] $*" | tee -a "$work/log/times.log"; }
pack() { tar czf "$out/$1.tgz.part" -C "$work" "${@:2}" && mv "$out/$1.tgz.part" "$out/$1.tgz"; note "$1.tgz packed"; }
last() { tail -n 1 "$work/log/$1.log" | cut -c1-"${2:-300}"; }
second=$((gpus > 1 ? 1 : 0)) workers=$((cores > 8 ? cores - 4 : cores))

record() {  # name, task, options
  MUJOCO_EGL_DEVICE_ID=${RENDERERS:-$(seq -s, 0 "$second")} OMP_NUM_THREADS=1 "$python" -m cosmos3_ros.cli.main sim record \
    --task "$2" --workers "$workers" --out "$work/$1" --json "${@:3}" > "$work/log/record_$1.log" 2>&1 \
    || { note "record $1 failed: $(last "record_$1")"; return 1; }
  note "$1 recorded: $(last "record_$1")"
}
one_look=(--width 160 --no-facts --set failure_share=0 --set anomaly_share=0 --set light_variation=0
  --set colour_variation=0 --set camera_variation=0 --set fewest_cubes=3)
train() {  # GPUs, log, stage, checkpoint, options
  local launch=("$python" -m)
  [[ $1 == *,* ]] && launch=("$python" -m torch.distributed.run --standalone --nproc-per-node 2 -m)
  # Few threads: a step waits for the GPU.
  CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=4 "${launch[@]}" cosmos3_ros.cli.main train "$settings" --device "$device" --json \
    --stage "$3" --out "$work/$4" "${@:5}" > "$work/log/$2.log" 2>&1 || { note "$2 failed: $(last "$2")"; return 1; }
  note "$2: $(last "$2")"
}
encode() { train "$1" "encode_$2" generator tiny --resume --prepare --data "$work/$2"; }

record_policy() {
  local from rate frames each
  from=$(now)
  record reach reach --episodes "$reach" --seed 1 "${one_look[@]}"
  frames=$(last record_reach 2000 | sed -n 's/.*"frames": \([0-9]*\).*/\1/p')
  rate=$((frames / ($(now) - from + 1) + 1))
  # 106 frames an episode, twice, in what is left.
  each=$(((record_until - $(now)) * rate / 212))
  each=${POLICY:-$((each > 60 ? each : 60))}
  note "$rate frames a second, so 2 times $each episodes"
  record policy all --episodes "$each" --seed 2 "${one_look[@]}"
  record more all --episodes "$each" --seed 3 "${one_look[@]}"
}

set_steps() {  # seconds a step, seconds until the first: as many as there is time for
  [ ! -e "$work/end" ] || end=$(cat "$work/end")
  local steps=${STEPS:-$("$python" -c "print(max(100, int(($end - $(now) - $2) / $1)))")}
  sed -i "/^generator:/,\$s/^    steps: .*/    steps: $steps/" "$settings"
  note "generator: $steps steps"
}
train_generator() {  # GPUs
  local log="$work/log/generator.log" first='' step_s guess=${STEP_S:-0.032}
  set_steps "$guess" 60
  train "$1" generator generator tiny --resume "${data[@]}" &
  local running=$!
  if [ -z "${STEPS:-}" ]; then
    # How long a step takes is known after a few hundred of them; if that was guessed badly, once more.
    while kill -0 "$running" 2>/dev/null && ! grep -q '^generator 400:' "$log"; do
      [ -n "$first" ] || { grep -q '^generator 100:' "$log" && first=$(date +%s.%N); } || true
      sleep 0.2
    done
    step_s=$("$python" -c "print(round(($(date +%s.%N) - ${first:-0}) / 300, 5))")
    note "a step takes $step_s s"
    if "$python" -c "import sys; sys.exit(0.96 < $step_s / $guess < 1.02)"; then
      pkill -TERM -f -- "--stage generator --out $work/tiny --resume" || true
      wait "$running" || true
      rm -f "$work"/tiny.run/generator.*
      set_steps "$step_s" 50
      train "$1" generator generator tiny --resume "${data[@]}" &
      running=$!
    fi
  fi
  wait "$running"
}

note "$piece: $gpus GPUs, $cores cores, revision $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
cp "$settings" "$work/settings.yaml" && settings="$work/settings.yaml"

understanding() {
  record facts all --episodes "$facts" --seed 0 --width 320
  # The autoencoder sees every look there is in this recording; the policy's show one of them.
  if [ "$gpus" -gt 1 ]; then
    train 0 vae vae other --data "$work/facts" && pack vae other/vae other/cosmos3_ros.json & local vae=$!
    train 1 reasoner reasoner tiny --data "$work/facts"
    pack towers tiny/transformer
    pack reasoner --exclude=tiny/transformer tiny
    wait "$vae"
    "$python" benchmarks/join_stages.py "$work/tiny" "$work/other"
  else
    train 0 vae vae tiny --data "$work/facts"
    pack vae tiny/vae tiny/cosmos3_ros.json
    train 0 reasoner reasoner tiny --resume --data "$work/facts"
    pack towers tiny/transformer
  fi
  pack reasoner --exclude=tiny/transformer tiny
}

policy() {
  began=$(date +%s)
  [ -e "$work/tiny/cosmos3_ros.json" ] || { note "no $work/tiny: unpack reasoner.tgz and towers.tgz of the first piece"; exit 1; }
  # A checkpoint that was packed is gone on with: its run directory is not.
  mkdir -p "$work/tiny.run/prepared"
  record_policy & local recording=$!
  local name gpu=0 waiting=()
  for name in reach policy more; do
    while kill -0 "$recording" 2>/dev/null && ! grep -q "$name recorded" "$work/log/times.log"; do sleep 1; done
    encode "$gpu" "$name" & waiting+=($!)
    gpu=$((second - gpu))
  done
  wait "$recording"
  for name in "${waiting[@]}"; do wait "$name"; done
  # As many datasets as the file has would take its weights; these three count alike.
  data=(--data "$work/reach" --data "$work/policy" --data "$work/more")
  train_generator "$([ "$gpus" -gt 1 ] && echo 0,1 || echo 0)"
  pack generator tiny/transformer tiny/cosmos3_ros.json tiny/README.md tiny/losses.png
}

[ "$piece" = policy ] || understanding
[ "$piece" = understanding ] || policy
note 'all done'
