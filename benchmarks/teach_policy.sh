#!/usr/bin/env bash
# The policy of cosmos3-tiny goes on from a checkpoint, in one lesson or two: one GPU or more.
#
#   benchmarks/teach_policy.sh WORK [EPISODES_OF_GLANCES]       # the checkpoint lies in WORK/start
#
# Autoencoder and reasoner stay what they are. First GLANCES episodes of 50 glances and POLICY episodes of the demo's
# tasks are recorded. While the tower learns from these until FIRST_END (seconds since the beginning), more of both are
# recorded until RECORD_UNTIL by the processors that the trainers leave; then it learns from all until END (or what
# WORK/end says by then), ACTIONS_SHARE percent of that time from actions alone. LESSONS=1 leaves the first lesson and
# the second recordings out. SEED is that of the first recording. Variables, packs: train_tiny.sh.
work=$1 glances=${2:-600}
. benchmarks/tiny_steps.sh
policy=${POLICY:-300} seed=${SEED:-1}
"$python" benchmarks/go_on.py "$settings" "$work/start" actions generator
note "policy from $work/start: $gpus GPUs, $cores cores, revision $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"

(record glances all --episodes "$glances" --seed "$seed" "${some_glances[@]}"
 record policy all --episodes "$policy" --seed $((seed + 1)) "${some_episodes[@]}") & recording=$!
names=(glances policy)
if [ "${LESSONS:-2}" = 1 ]; then
  encode 0 tiny glances & encoding=$!
  encode "${all##*,}" other policy
  wait "$recording" && wait "$encoding"
  ln -s "$work"/other.run/prepared/* "$work/tiny.run/prepared/"
else
  names+=(glances_2 policy_2)
  encode 0 first glances policy
  wait "$recording"
  train_on=0-$((trainers - 1)) record_on=$trainers-$((cores - 1))
  (left=$(((${RECORD_UNTIL:-800} - $(now)) / 2))
   record glances_2 all --episodes "$(as_many glances "$glances" "$left")" --seed $((seed + 2)) "${some_glances[@]}"
   record policy_2 all --episodes "$(as_many policy "$policy" "$left")" --seed $((seed + 3)) "${some_episodes[@]}") & recording=$!
  encode "${all##*,}" other glances_2 policy_2 & encoding=$!
  # shellcheck disable=SC2046  # two words or none
  spread "$all" actions first --data "$work/glances" --data "$work/policy" $(fit "${FIRST_END:-880}")
  mv "$work/log/actions.log" "$work/log/actions_first.log"
  pack first first/transformer first/cosmos3_ros.json
  wait "$recording" && wait "$encoding"
  train_on=0-$((cores - 1))
  # The second lesson starts from the first's weights; as if it had learnt nothing yet.
  cp -r "$work/first" "$work/tiny"
  "$python" -c "
import sys
from pathlib import Path
from cosmos3_ros.training.weight_files import update_json
update_json(Path(sys.argv[1]), {'stages': {}})" "$work/tiny/cosmos3_ros.json"
  mkdir -p "$work/tiny.run/prepared"
  ln -s "$work"/first.run/prepared/* "$work"/other.run/prepared/* "$work/tiny.run/prepared/"
fi
train_tower "${ACTIONS_SHARE:-75}" "${names[@]}"
note 'all done'
