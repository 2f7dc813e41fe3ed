#!/usr/bin/env bash
# cosmos3-tiny from nothing: record, train, measure, on a machine with one GPU or two.
#
#   benchmarks/train_tiny.sh WORK [EPISODES_WITH_FACTS] [EPISODES_FOR_THE_POLICY]
#
# With two GPUs the autoencoder and the reasoner are trained side by side. What is finished is packed into $OUT
# (if that is set) at once, in files of less than 16 MiB: a lent machine may go back half a minute after a
# command, with everything on it. Runs from the repository's root; PYTHON names the interpreter.
set -uo pipefail
work=$1 facts=${2:-1500} policy=${3:-5000}
python=${PYTHON:-python3}
out=${OUT:-$work}
export PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
[ -e "$vendor" ] && export __EGL_VENDOR_LIBRARY_FILENAMES="$vendor"
gpus=$(nvidia-smi -L | wc -l) cores=$(nproc) began=$(date +%s)
mkdir -p "$work/log"
cosmos3() { "$python" -m cosmos3_ros.cli.main "$@"; }
note() { echo "[$(($(date +%s) - began)) s] $*" | tee -a "$work/log/times.log"; cp -r "$work"/log/*.log "$out"/ 2>/dev/null; }
pack() { tar czf "$out/$1.tgz" -C "$work" "${@:2}"; note "$1.tgz packed"; }

note "$gpus GPUs, $cores cores, revision $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
MUJOCO_EGL_DEVICE_ID=$(seq -s, 0 $((gpus - 1))) OMP_NUM_THREADS=1 cosmos3 sim record --task all --episodes "$facts" --seed 0 --width 320 \
  --workers "$cores" --out "$work/facts" --json > "$work/log/record_facts.log" 2>&1
note "facts recorded: $(tail -n 1 "$work/log/record_facts.log" | cut -c1-300)"

train() {  # GPU, stage, checkpoint, options
  CUDA_VISIBLE_DEVICES=$1 cosmos3 train config/training/tiny.yaml --data "$work/facts" --data "$work/policy" --device cuda --json \
    --stage "$2" --out "$work/$3" "${@:4}" > "$work/log/$2.log" 2>&1
  note "$2: $(tail -n 1 "$work/log/$2.log" | cut -c1-300)"
}
record_policy() {
  MUJOCO_EGL_DEVICE_ID=0 OMP_NUM_THREADS=1 cosmos3 sim record --task all --episodes "$policy" --seed 1 --width 160 --workers "$((cores - 4))" \
    --no-facts --set failure_share=0 --set anomaly_share=0 --set light_variation=0 --set colour_variation=0 --set camera_variation=0 \
    --set fewest_cubes=3 --out "$work/policy" --json > "$work/log/record_policy.log" 2>&1
  note "policy recorded: $(tail -n 1 "$work/log/record_policy.log" | cut -c1-300)"
}

# The reasoner needs only the facts: with a second GPU it learns while the policy's episodes are recorded.
if [ "$gpus" -gt 1 ]; then
  train 1 reasoner tiny & reasoner=$!
  record_policy
  train 0 vae other
  wait "$reasoner"
  # The reasoner's run has its weights, the other one the autoencoder: one checkpoint of both.
  "$python" benchmarks/join_stages.py "$work/tiny" "$work/other"
else
  record_policy
  train 0 vae tiny
  train 0 reasoner tiny --resume
fi
pack reasoner --exclude=tiny/transformer tiny
pack towers tiny/transformer
train 0 generator tiny --resume
pack generator tiny/transformer
pack card tiny/cosmos3_ros.json tiny/README.md tiny/losses.png
[ "$gpus" -gt 1 ] && second=1 || second=0
CUDA_VISIBLE_DEVICES=$second timeout 240 "$python" benchmarks/reasoner_accuracy.py config/training/tiny.yaml --data "$work/facts" \
  --data "$work/policy" --out "$work/tiny" --clips 500 --device cuda --processes 6 --log "$work/log/answers.jsonl" --json \
  > "$work/log/reasoner_accuracy.log" 2>&1 &
OMP_NUM_THREADS=1 "$python" benchmarks/closed_loop.py --checkpoint "$work/tiny" --episodes 50 --workers "$((cores - 8))" --json \
  --log "$work/log/closed_loop.jsonl" > "$work/log/closed_loop.log" 2>&1
note "closed loop: $(tail -n 1 "$work/log/closed_loop.log" | cut -c1-900)"
wait
note "reasoner: $(tail -n 1 "$work/log/reasoner_accuracy.log" | cut -c1-1500)"
