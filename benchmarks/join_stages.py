"""Put the autoencoder of one run beside the reasoner of another, as if both were of one run.

``python benchmarks/join_stages.py CHECKPOINT OTHER``: the autoencoder and what OTHER says of its stage go
into CHECKPOINT, prepared pictures and logs into its run directory. Both come from the same file and seed, so
everything else in them is the same; if the autoencoder is too, only prepared pictures and logs go over. Used
where two stages are trained side by side (``train_tiny.sh``).
"""

from pathlib import Path
import shutil
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cosmos3_ros.model.json_file import read_json_object
from cosmos3_ros.training.output_checkpoint import RUN_SUFFIX
from cosmos3_ros.training.weight_files import update_json

METADATA = 'cosmos3_ros.json'


def join(checkpoint: Path, other: Path) -> None:
    """See the module.

    :raises SystemExit: The runs do not belong together.
    """
    mine, theirs = (read_json_object(path / METADATA) for path in (checkpoint, other))
    same_vae = all(
        (checkpoint / 'vae' / path.name).read_bytes() == path.read_bytes()
        for path in (other / 'vae').iterdir())
    alike = all(mine.get(key) == theirs.get(key) for key in ('name', 'seed', 'shape'))
    if not alike or not (same_vae or 'vae' in theirs['stages']):
        raise SystemExit(f'{other} holds no finished autoencoder of the run in {checkpoint}')
    if not same_vae:
        shutil.rmtree(checkpoint / 'vae')
        shutil.copytree(other / 'vae', checkpoint / 'vae')
        update_json(checkpoint / METADATA, {'stages': {'vae': theirs['stages']['vae'], **mine['stages']}})
    runs = [path.with_name(path.name + RUN_SUFFIX) for path in (checkpoint, other)]
    (runs[0] / 'prepared').mkdir(parents=True, exist_ok=True)
    for file in (runs[1] / 'prepared').iterdir():
        place = runs[0] / 'prepared' / file.name
        if not place.exists():
            place.symlink_to(file.resolve())
    for log in runs[1].glob('vae.log.jsonl'):
        shutil.copyfile(log, runs[0] / log.name)


if __name__ == '__main__':
    join(Path(sys.argv[1]), Path(sys.argv[2]))
