#!/usr/bin/env bash
# cosmos3-tiny from nothing: record, train, pack, on a machine with one GPU, two or more.
#
#   benchmarks/train_tiny.sh WORK [EPISODES_WITH_FACTS] [EPISODES_OF_GLANCES]
#
# PIECE says what of it: `understanding` records episodes with facts and trains the autoencoder and the reasoner;
# `policy` goes on with WORK/tiny, records the policy's episodes and trains the tower, actions first; `all` (default)
# does both. The autoencoder and the reasoner are trained side by side: with two GPUs on one each, with four on two each,
# with one on the same (each leaves it idle for a third of its step; 642 s instead of 810). With `all` the policy's
# episodes are recorded and encoded beside them, and the tower is trained on all (torchrun). A
# trainer's step waits for its host thread (with windows being decoded on all processors a step of the reasoner took
# 0.27 instead of 0.07 s), so trainers then get processors of their own, TRAINERS of them.
#
# Trainers are told when to be done, in seconds since the beginning, and take as many steps as fit: the autoencoder at
# VAE_END, the reasoner at REASONER_END, recording at RECORD_UNTIL, the tower at END (a file WORK/end, if there is one by then, says it better).
# What is finished is packed into $OUT (or WORK) at once, in files of less than 16 MiB: a lent machine may go back half
# a minute after a command, with everything on it. Runs from the repository's root; a failed step ends the script.
#
# A checkpoint in WORK/start is gone on from: its autoencoder stays, reasoner and tower start from its weights
# (go_on.py). With PIECE=understanding its tower stays, too: what it reads of the reasoner is held to what it was.
# FACTS_SEED is that of the episodes with facts: other scenes than the checkpoint has seen. ANOMALIES is the share of
# them that shows what cannot be, or a broken camera: at 0.1, 3 of 100 clips do, too few to learn it from.
#
# PYTHON names the interpreter, SETTINGS the file, DEVICE cuda or cpu, RENDERERS the numbers of the EGL devices; GPUS
# and CORES leave the rest of a larger machine alone.
# Glances (scenes, 50 an episode) are recorded first, then POLICY episodes, then more of both in the time that is left.
# SECOND_GLANCES is the task of the second glances (all, push, ...). ACTIONS_SHARE is the percentage of the tower's
# time for actions alone. NO_FIT=1 takes the file's steps instead.
work=$1 facts=${2:-900} glances=${3:-500}
. benchmarks/tiny_steps.sh
piece=${PIECE:-all}
case $gpus in  # which GPUs train what; the autoencoder's are free again before the reasoner's
  0 | 1) vae_on=0 reasoner_on=0 encode_on=(0 0) ;;
  2 | 3) vae_on=0 reasoner_on=1 encode_on=(0 0) ;;
  *) vae_on=0,2 reasoner_on=1,3 encode_on=(0 2) ;;
esac

record_policy() {
  local left until=${RECORD_UNTIL:-$((gpus > 1 ? 450 : gpus ? 560 : 700))} policy=${POLICY:-500}
  record glances all --episodes "$glances" --seed 1 "${some_glances[@]}"
  record policy all --episodes "$policy" --seed 2 "${some_episodes[@]}"
  # Half of what is left for each: episodes per second were seen just now.
  left=$(((until - $(now)) / 2))
  record glances_2 "${SECOND_GLANCES:-all}" --episodes "$(as_many glances "$glances" "$left")" --seed 3 "${some_glances[@]}"
  record policy_2 all --episodes "$(as_many policy "$policy" "$left")" --seed 4 "${some_episodes[@]}"
}

understanding() {
  local others='' views='' vae='' vae_end=${VAE_END:-$((gpus > 1 ? 520 : gpus ? 430 : 350))}
  record facts all --episodes "$facts" --seed "${FACTS_SEED:-0}" --width 320 --set "anomaly_share=${ANOMALIES:-0.1}"
  # The autoencoder sees every look there is in this recording; the policy's show one of them.
  if [ -z "$start" ]; then prepare 0 facts vae other --data "$work/facts" & views=$!; fi
  prepare "${all##*,}" facts reasoner tiny --data "$work/facts"
  if [ -z "$start" ]; then wait "$views"; else reasoner_on=$all && cp -r "$work/tiny" "$work/other"; mkdir -p "$work/other.run/prepared"; fi
  if [ "$piece" = all ]; then  # its windows are encoded before the reasoner is done
    if [ "$gpus" -gt 0 ] && [ "$cores" -gt "$trainers" ]; then
      train_on=0-$((trainers - 1)) record_on=$trainers-$((cores - 1))
    fi
    [ "$gpus" = 0 ] || vae_end=${VAE_END:-470}
  fi
  # shellcheck disable=SC2046
  ([ -n "$start" ] && exit
   spread "$vae_on" vae other --data "$work/facts" $(fit "$vae_end")
   pack vae other/vae other/cosmos3_ros.json) & vae=$!
  if [ "$piece" = all ]; then
    (record_policy & recording=$!
     while kill -0 "$vae" 2>/dev/null; do sleep 1; done
     encode "${encode_on[0]}" other glances glances_2 & local one=$!
     encode "${encode_on[1]}" other policy policy_2
     wait "$one" && wait "$recording") & others=$!
  fi
  # On one GPU, too, at the same time; without any, one after the other.
  [ "$gpus" -gt 0 ] || wait "$vae"
  # shellcheck disable=SC2046
  spread "$reasoner_on" reasoner tiny --data "$work/facts" $(fit "${REASONER_END:-$((gpus > 1 ? 540 : 800))}")
  pack towers tiny/transformer
  pack reasoner_alone --exclude=tiny/transformer --exclude=tiny/vae tiny
  wait "$vae"
  [ -z "$others" ] || wait "$others"
  "$python" benchmarks/join_stages.py "$work/tiny" "$work/other"
  train_on=0-$((cores - 1)) record_on=0-$((cores - 1))
  # Only now, with the trained autoencoder in it: windows are encoded with what is here.
  pack reasoner --exclude=tiny/transformer tiny
  rm -f "$out/reasoner_alone.tgz"
}

policy() {
  if [ ! -e "$work/log/record_policy_2.log" ]; then
    began=$(date +%s)
    [ -e "$work/tiny/cosmos3_ros.json" ] || { note "no $work/tiny: unpack reasoner.tgz and towers.tgz of the first piece"; exit 1; }
    # A checkpoint that was packed is gone on with: its run directory is not.
    mkdir -p "$work/tiny.run/prepared"
    record_policy & recording=$!
    encode 0 tiny glances glances_2 & local one=$!
    encode "${all##*,}" tiny policy policy_2 & local two=$!
    wait "$recording" && wait "$one" && wait "$two"
  fi
  train_tower "${ACTIONS_SHARE:-50}" glances policy glances_2 policy_2
  rm -f "$out/actions.tgz"
}

start=''
if [ -d "$work/start" ]; then
  start=$work/start
  alone=()
  [ "$piece" != understanding ] || alone=(reasoner)
  "$python" benchmarks/go_on.py "$settings" "$start" "${alone[@]}"
fi
note "$piece${start:+ from $start}: $gpus GPUs, $cores cores, revision $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
[ "$piece" = policy ] || understanding
[ "$piece" = understanding ] || policy
note 'all done'
