#!/usr/bin/env bash
# Wait for a run that lent_start.sh began, then bring what there is into $OUT.
#
#   benchmarks/lent_look.sh SECONDS [PATTERN]     # ends early once run.log matches PATTERN (grep -E)
set -u
limit=$1 pattern=${2:-'all done| failed: '} from=$(date +%s) ram=${RAM:-/ram}
cd "$ram/w" || exit 1
while [ $(($(date +%s) - from)) -lt "$limit" ]; do
  grep -qE "$pattern" run.log && break
  pgrep -f train_tiny.sh > /dev/null || { echo 'the run has ended'; break; }
  sleep 1
done
if [ -e out/generator.tgz ]; then
  rm -f out/towers.tgz out/generator_average.safetensors
elif [ -e tiny.run/generator.snapshot.pt ]; then
  # An unfinished generator: the averaged weights of its last snapshot.
  PYTHONPATH="$ram/site" timeout 40 python3 -c "
import torch
from safetensors.torch import save_file
content = torch.load('tiny.run/generator.snapshot.pt', map_location='cpu', weights_only=True)
save_file({name: value.half().contiguous() for name, value in content['average']['values'].items()},
          'out/generator_average.safetensors')
print('average of step', content['step'])"
fi
tar czf out/logs.tgz run.log log $(ls tiny.run/*.log.jsonl other.run/*.log.jsonl 2> /dev/null)
cp out/*.tgz out/*.safetensors "$OUT"/ 2> /dev/null
ls -l "$OUT"
cat run.log
for log in vae reasoner generator; do tail -n 2 log/$log.log 2> /dev/null | cut -c1-600; done
grep -h held_out tiny.run/generator.log.jsonl 2> /dev/null | tail -n 5 | cut -c1-800
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
uptime
