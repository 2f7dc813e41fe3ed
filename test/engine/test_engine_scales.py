"""Scales from clips: written, read, refused, and used for every way to cut a tower."""

from dataclasses import replace
import json
from pathlib import Path

from micro_engine import SHAPES
import pytest

from cosmos3_ros.cli.main import main
from cosmos3_ros.engine.build import engine_key
from cosmos3_ros.engine.errors import EngineError
from cosmos3_ros.engine.modules import make_module
from cosmos3_ros.engine.precision import PRECISIONS
from cosmos3_ros.engine.quantization import convert
from cosmos3_ros.engine.scales import Scales
from cosmos3_ros.engine.segments import cut_tower

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'droid_lerobot_example'


def scales(**changes):
    made = Scales(
        'abc', 'micro@abc', 'episode', 2, {'language': {'layers.0.mlp.up_proj': 3.5}},
        {'language': ('lm_head.weight',)})
    return replace(made, **changes)


def test_scales_survive_a_file(tmp_path):
    scales().write(tmp_path / 'below' / 'scales.json')
    read = Scales.read(tmp_path / 'below' / 'scales.json')
    assert read == scales() and read.digest == scales().digest
    assert read.digest != scales(amax={'language': {'layers.0.mlp.up_proj': 3.6}}).digest


@pytest.mark.parametrize('value', [0.0, -1.0, float('nan'), float('inf'), 'large', None])
def test_what_is_no_magnitude_is_refused(value):
    with pytest.raises(EngineError, match=r'up_proj: .* arrived, a positive number'):
        scales(amax={'language': {'layers.0.mlp.up_proj': value}})


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"format": 9}', '\x00'])
def test_what_holds_no_scales_is_refused(tmp_path, text):
    (tmp_path / 'scales.json').write_text(text)
    with pytest.raises(EngineError, match='holds no scales'):
        Scales.read(tmp_path / 'scales.json')
    with pytest.raises(EngineError, match='holds no scales'):
        Scales.read(tmp_path / 'missing.json')


def test_scales_of_other_weights_are_refused_and_others_make_another_key(checkpoint, tmp_path):
    with pytest.raises(EngineError, match='the scales are of micro@abc, the weights here are'):
        checkpoint.request(tmp_path, precision='fp8', scales=scales())
    plain = checkpoint.request(tmp_path, precision='fp8')
    scaled = checkpoint.request(tmp_path, precision='fp8', scales=scales(checkpoint=checkpoint.content_hash))
    assert engine_key(plain, '1', 'language') != engine_key(scaled, '1', 'language')


def test_calibration_on_real_clips_covers_every_matrix(checkpoint, tmp_path, capsys):
    if not DATA.is_dir():
        pytest.skip('the real DROID episode is not beside this checkout')
    out = tmp_path / 'scales.json'
    status = main(['engine', 'calibrate', '--checkpoint', str(checkpoint.directory), '--data', str(DATA),
                   '--frames', '1', '--out', str(out), '--json'])
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert status == 0 and line['moments'] == 1 and line['matrices'] == 4 * 7
    made = Scales.read(out)
    assert made.checkpoint == checkpoint.content_hash and made.data == DATA.name
    assert set(made.amax) == {'language', 'generation'}
    assert made.excluded['language'] == ('lm_head.weight',)
    assert 'proj_in.weight' in made.excluded['generation'] and made.excluded['vision']
    for tower in made.amax:
        for segment in cut_tower(tower, checkpoint.dimensions, SHAPES, 1):
            module = make_module(segment, checkpoint.dimensions, SHAPES, checkpoint.weights)
            convert(module, PRECISIONS['fp8'], made.amax[tower])
            with pytest.raises(EngineError, match='was not calibrated; give --calibration'):
                convert(make_module(
                    segment, checkpoint.dimensions, SHAPES, checkpoint.weights), PRECISIONS['fp8'], {})
