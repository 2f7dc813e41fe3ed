#!/usr/bin/env bash
# On a lent machine without a network: install what was carried, start train_tiny.sh in the background.
#
#   benchmarks/lent_start.sh                              # .gl/*.deb: OpenGL loaders, .whl/*.whl: docs/training.md
#   PIECE=understanding benchmarks/lent_start.sh
#   PIECE=policy benchmarks/lent_start.sh PACKS           # PACKS holds reasoner.tgz and towers.tgz of the first piece
#   GO_ON=1 benchmarks/lent_start.sh                      # goes on from the packaged cosmos3-tiny
#   TEACH=1 benchmarks/lent_start.sh                      # its policy alone: teach_policy.sh
#
# The machine may go back 30 s after a command ends, so follow it at once with lent_look.sh. Everything lies in a tmpfs
# at RAM: windows and pictures do not fit where a disk is slow. What is worth having is in RAM/w/out.
set -euo pipefail
ram=${RAM:-/ram}
for package in .gl/*.deb; do dpkg -x "$package" /; done
ldconfig
mkdir -p "$ram"
mountpoint -q "$ram" || mount -t tmpfs -o size="${RAM_SIZE:-210g}" tmpfs "$ram"
mkdir -p "$ram"/w/out "$ram"/tmp "$ram"/source
if [ -e .carry/site.tar.xz ]; then  # the same wheels unpacked and packed again, a third smaller
  python3 -c "import sys, tarfile; tarfile.open('.carry/site.tar.xz').extractall(sys.argv[1], filter='data')" "$ram/site"
else
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$ram/site" .whl/*.whl
fi
cp -r . "$ram/source/"
for pack in reasoner towers; do [ -z "${1:-}" ] || tar xzf "$1/$pack.tgz" -C "$ram/w"; done
[ -z "${GO_ON:-}${TEACH:-}" ] || cp -r checkpoints/cosmos3-tiny "$ram/w/start"
cd "$ram/source"
export PYTHONPATH=$ram/site TORCHINDUCTOR_CACHE_DIR=$ram/inductor TMPDIR=$ram/tmp OUT=$ram/w/out
python3 -c "
import accelerate, av, daqp, diffusers, mujoco, pyarrow, torch, transformers
print('torch', torch.__version__, 'transformers', transformers.__version__, 'GPUs', torch.cuda.device_count())"
script=(benchmarks/train_tiny.sh "$ram/w" "${FACTS:-900}" "${GLANCES:-500}")
[ -z "${TEACH:-}" ] || script=(benchmarks/teach_policy.sh "$ram/w" "${GLANCES:-600}")
setsid nohup bash "${script[@]}" > "$ram/w/run.log" 2>&1 &
echo started
