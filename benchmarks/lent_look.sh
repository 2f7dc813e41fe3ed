#!/usr/bin/env bash
# Wait for a run that lent_start.sh began, then bring what there is into $OUT.
#
#   benchmarks/lent_look.sh SECONDS [PATTERN]     # ends early once run.log matches PATTERN (grep -E)
set -u
limit=$1 pattern=${2:-'all done| failed: '} from=$(date +%s) ram=${RAM:-/ram}
cd "$ram/w" || exit 1
while [ $(($(date +%s) - from)) -lt "$limit" ]; do
  grep -qE "$pattern" run.log && break
  pgrep -f 'train_tiny.sh|teach_policy.sh' > /dev/null || { echo 'the run has ended'; break; }
  sleep 1
done
[ ! -e out/generator.tgz ] || rm -f out/towers.tgz out/first.tgz
# Of an unfinished stage: the averaged weights of its last snapshot.
PYTHONPATH="$ram/site" timeout 60 python3 - <<'END'
from pathlib import Path

import torch
from safetensors.torch import save_file

for stage in ('reasoner', 'actions', 'generator'):
    file, place = Path(f'tiny.run/{stage}.snapshot.pt'), Path(f'out/{stage}_average.safetensors')
    place.unlink(missing_ok=True)
    if Path(f'out/{stage}.tgz').exists() or not file.exists() or (stage == 'actions' and Path('out/generator.tgz').exists()):
        continue
    content = torch.load(file, map_location='cpu', weights_only=True)
    save_file({name: value.half().contiguous() for name, value in content['average']['values'].items()}, place)
    print(stage, 'average of step', content['step'], 'of', content['steps'])
END
tar czf out/logs.tgz run.log log $(ls tiny.run/*.log.jsonl other.run/*.log.jsonl first.run/*.log.jsonl 2> /dev/null)
cp out/*.tgz out/*.safetensors "$OUT"/ 2> /dev/null
ls -l "$OUT"
cat run.log
for log in vae reasoner actions_first actions generator; do tail -n 2 log/$log.log 2> /dev/null | cut -c1-600; done
for log in actions generator; do grep -h held_out first.run/$log.log.jsonl tiny.run/$log.log.jsonl 2> /dev/null | tail -n 4 | cut -c1-700; done
nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader
uptime
