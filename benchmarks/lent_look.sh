#!/usr/bin/env bash
# Wait for a run that lent_start.sh began, then bring what there is into $OUT.
#
#   benchmarks/lent_look.sh SECONDS [PATTERN]     # ends early once run.log matches PATTERN (grep -E)
set -u
limit=$1 pattern=${2:-'all done| failed: '} from=$(date +%s) work=/ram/w
while [ $(($(date +%s) - from)) -lt "$limit" ]; do
  grep -qE "$pattern" $work/run.log && break
  pgrep -f train_tiny.sh > /dev/null || { echo 'the run has ended'; break; }
  sleep 1
done
# Whatever is finished but not packed yet: a machine that goes back takes it with it.
(cd $work && [ -e tiny/cosmos3_ros.json ] && [ ! -e out/generator.tgz ] && [ ! -e out/towers.tgz ] \
  && tar czf out/towers_now.tgz tiny/transformer tiny/cosmos3_ros.json)
PYTHONPATH="/ram/source:/tmp/site" timeout 40 python3 - <<'P'
from pathlib import Path

import torch
from safetensors.torch import save_file

snapshot = Path('/ram/w/tiny.run/generator.snapshot.pt')
if snapshot.exists() and not Path('/ram/w/out/generator.tgz').exists():
    content = torch.load(snapshot, map_location='cpu', weights_only=True)
    save_file({name: value.half().contiguous() for name, value in content['average']['values'].items()},
              '/ram/w/out/generator_average.safetensors')
    print('average of step', content['step'])
P
(cd $work && tar czf out/logs.tgz run.log log $(ls tiny.run/*.log.jsonl other.run/*.log.jsonl 2> /dev/null))
if [ -e $work/out/generator.tgz ]; then rm -f $work/out/towers*.tgz $work/out/generator_average.safetensors; fi
cp $work/out/*.tgz $work/out/*.safetensors "$OUT"/ 2> /dev/null
ls -l "$OUT"
cat $work/run.log
for log in vae reasoner generator; do tail -n 2 $work/log/$log.log 2> /dev/null | cut -c1-600; done
grep -h held_out $work/tiny.run/generator.log.jsonl 2> /dev/null | tail -n 5 | cut -c1-800
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
uptime
