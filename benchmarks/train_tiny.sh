#!/usr/bin/env bash
# cosmos3-tiny from nothing: record, train, pack, on a machine with one GPU, two or more.
#
#   benchmarks/train_tiny.sh WORK [EPISODES_WITH_FACTS] [EPISODES_OF_REACH]
#
# PIECE says what of it: `understanding` records episodes with facts and trains the autoencoder and the reasoner;
# `policy` goes on with WORK/tiny, records the policy's episodes and trains the tower, actions first; `all` (default)
# does both. With two GPUs the autoencoder and the reasoner are trained side by side (with four: on two each), with
# `all` the policy's episodes are recorded and encoded beside them, and the tower is trained on all (torchrun). A
# trainer's step waits for its host thread (with windows being decoded on all processors a step of the reasoner took
# 0.27 instead of 0.07 s), so trainers then get processors of their own, TRAINERS of them.
#
# Trainers are told when to be done, in seconds since the beginning, and take as many steps as fit: the autoencoder at
# VAE_END, the reasoner at REASONER_END, recording at RECORD_UNTIL, the tower at END (a file WORK/end, if there is one by then, says it better).
# What is finished is packed into $OUT (or WORK) at once, in files of less than 16 MiB: a lent machine may go back half
# a minute after a command, with everything on it. Runs from the repository's root; a failed step ends the script.
#
# A checkpoint in WORK/start is gone on from: its autoencoder stays, reasoner and tower start from its weights
# (go_on.py).
#
# PYTHON names the interpreter, SETTINGS the file, DEVICE cuda or cpu, RENDERERS the numbers of the EGL devices.
# POLICY is the number of episodes in each of the policy's three longer recordings; without it as many as there is time
# for. ACTIONS_SHARE is the percentage of the tower's time for actions alone. NO_FIT=1 takes the file's steps instead.
set -euo pipefail
work=$1 facts=${2:-900} reach=${3:-2000}
python=${PYTHON:-python3} settings=${SETTINGS:-config/training/tiny.yaml} device=${DEVICE:-cuda}
out=${OUT:-$work} piece=${PIECE:-all} end=${END:-1650}
export PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
[ -e "$vendor" ] && export __EGL_VENDOR_LIBRARY_FILENAMES="$vendor"
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l) cores=$(nproc --all) began=$(date +%s)
mkdir -p "$work/log" "$out"
now() { echo $(($(date +%s) - began)); }
note() { echo "[$(now) s] $*" | tee -a "$work/log/times.log"; }
pack() { tar czf "$out/$1.tgz.part" -C "$work" "${@:2}" && mv "$out/$1.tgz.part" "$out/$1.tgz"; note "$1.tgz packed"; }
last() { tail -n 1 "$work/log/$1.log" | cut -c1-"${2:-300}"; }
trainers=${TRAINERS:-$((cores / 4 < 16 ? (cores / 4 > 1 ? cores / 4 : 1) : 16))}
case $gpus in  # which GPUs train what; the autoencoder's are free again before the reasoner's
  0 | 1) all=0 ;;
  2 | 3) all=0,1 vae_on=0 reasoner_on=1 encode_on=(0 0) ;;
  *) all=0,1,2,3 vae_on=0,2 reasoner_on=1,3 encode_on=(0 2) ;;
esac
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
  --set colour_variation=0 --set camera_variation=0 --set fewest_cubes=3 --set alternatives=3 --set alternatives_every=8)
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

record_policy() {
  local from rate frames each until=${RECORD_UNTIL:-450}
  from=$(now)
  record reach reach --episodes "$reach" --seed 1 "${one_look[@]}"
  frames=$(last record_reach 2000 | sed -n 's/.*"frames": \([0-9]*\).*/\1/p')
  rate=$((frames / ($(now) - from + 1) + 1))
  # 106 frames an episode, three times, in what is left.
  each=$(((until - $(now)) * rate / 318))
  each=${POLICY:-$((each > 60 ? each : 60))}
  note "$rate frames a second, so 3 times $each episodes"
  record policy all --episodes "$each" --seed 2 "${one_look[@]}"
  record more all --episodes "$each" --seed 3 "${one_look[@]}"
  record last all --episodes "$each" --seed 4 "${one_look[@]}"
}

encode_policy() {  # GPU, checkpoint, names; waits for each to be recorded
  local name on=$record_on
  for name in "${@:3}"; do
    until grep -q "$name recorded" "$work/log/times.log"; do sleep 1; kill -0 "$recording" 2>/dev/null || break; done
    prepare "$1" "$name" generator "$2" --resume --data "$work/$name"
  done
}

spread() {  # GPUs, stage, checkpoint, options; on the first of them if they do not work together
  train "$1" "$2" "$2" "$3" --resume "${@:4}" || { [[ $1 == *,* ]] && train "${1%%,*}" "$2" "$2" "$3" --resume "${@:4}"; }
}

train_policy() {
  local data=() name
  for name in reach policy more last; do data+=(--data "$work/$name"); done
  [ ! -e "$work/end" ] || end=$(cat "$work/end")
  local left=$((end - $(now)))
  note "$left s for the tower"
  # shellcheck disable=SC2046  # two words or none
  spread "$all" actions tiny "${data[@]}" $(fit $(($(now) + left * ${ACTIONS_SHARE:-50} / 100)))
  pack actions tiny/transformer tiny/cosmos3_ros.json
  # shellcheck disable=SC2046
  spread "$all" generator tiny "${data[@]}" $(fit "$end")
  pack generator tiny/transformer tiny/cosmos3_ros.json tiny/README.md tiny/losses.png
  rm -f "$out/actions.tgz"
}

understanding() {
  record facts all --episodes "$facts" --seed 0 --width 320
  # The autoencoder sees every look there is in this recording; the policy's show one of them.
  if [ "$gpus" -gt 1 ]; then
    local others='' views='' vae='' vae_end=520
    if [ -z "$start" ]; then prepare 0 facts vae other --data "$work/facts" & views=$!; fi
    prepare 1 facts reasoner tiny --data "$work/facts"
    if [ -z "$start" ]; then wait "$views"; else cp -r "$work/tiny" "$work/other"; mkdir -p "$work/other.run/prepared"; fi
    if [ "$piece" = all ]; then  # its windows are encoded before the reasoner is done
      train_on=0-$((trainers - 1)) record_on=$trainers-$((cores - 1)) vae_end=470
    fi
    # shellcheck disable=SC2046
    ([ -n "$start" ] && exit
     spread "$vae_on" vae other --data "$work/facts" $(fit "${VAE_END:-$vae_end}")
     pack vae other/vae other/cosmos3_ros.json) & vae=$!
    if [ "$piece" = all ]; then
      (record_policy & recording=$!
       while kill -0 "$vae" 2>/dev/null; do sleep 1; done
       encode_policy "${encode_on[0]}" other reach more & local one=$!
       encode_policy "${encode_on[1]}" other policy last
       wait "$one" && wait "$recording") & others=$!
    fi
    # shellcheck disable=SC2046
    spread "$reasoner_on" reasoner tiny --data "$work/facts" $(fit "${REASONER_END:-540}")
    pack towers tiny/transformer
    pack reasoner_alone --exclude=tiny/transformer --exclude=tiny/vae tiny
    wait "$vae"
    [ -z "$others" ] || wait "$others"
    "$python" benchmarks/join_stages.py "$work/tiny" "$work/other"
    train_on=0-$((cores - 1)) record_on=0-$((cores - 1))
  else
    if [ -z "$start" ]; then
      # shellcheck disable=SC2046
      train 0 vae vae tiny --data "$work/facts" $(fit "${VAE_END:-350}")
      pack vae tiny/vae tiny/cosmos3_ros.json
    fi
    # shellcheck disable=SC2046
    train 0 reasoner reasoner tiny $([ -n "$start" ] || echo --resume) --data "$work/facts" $(fit "${REASONER_END:-800}")
    pack towers tiny/transformer
  fi
  # Only now, with the trained autoencoder in it: windows are encoded with what is here.
  pack reasoner --exclude=tiny/transformer tiny
  rm -f "$out/reasoner_alone.tgz"
}

policy() {
  if [ ! -e "$work/log/record_last.log" ]; then
    began=$(date +%s)
    [ -e "$work/tiny/cosmos3_ros.json" ] || { note "no $work/tiny: unpack reasoner.tgz and towers.tgz of the first piece"; exit 1; }
    # A checkpoint that was packed is gone on with: its run directory is not.
    mkdir -p "$work/tiny.run/prepared"
    record_policy & recording=$!
    encode_policy 0 tiny reach more & local one=$!
    encode_policy "${all##*,}" tiny policy last & local two=$!
    wait "$recording" && wait "$one" && wait "$two"
  fi
  train_policy
}

sed "s/^  workers: .*/  workers: $((cores > 8 ? cores - 4 : cores))/" "$settings" > "$work/settings.yaml" && settings="$work/settings.yaml"
start=''
if [ -d "$work/start" ]; then
  start=$work/start
  "$python" benchmarks/go_on.py "$settings" "$start"
fi
note "$piece${start:+ from $start}: $gpus GPUs, $cores cores, revision $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
[ "$piece" = policy ] || understanding
[ "$piece" = understanding ] || policy
note 'all done'
