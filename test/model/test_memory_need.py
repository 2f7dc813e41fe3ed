"""The sum said beforehand is the one that was measured, and a refusal names what fits."""

import pytest

from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.model.memory_need import check_memory, estimate_need
from cosmos3_ros.model.tower_shape import TowerShape

NANO = TowerShape.of({'action_gen': True, 'action_dim': 64})
DROID = (151936, 3093)


def test_nano_has_the_published_number_of_weights():
    assert NANO.generation_parameters == 36 * (2 * 4096 * 5120 + 3 * 4096 * 12288)
    assert estimate_need(NANO, *DROID, 'diffusers', 'bfloat16', 'resident').weights_bytes == pytest.approx(
        2 * 15_173_669_120, rel=0.005)


@pytest.mark.parametrize('dtype, measured_gb', [('bfloat16', 18.1), ('float8', 11.2)])
def test_the_estimate_is_what_an_h200_took(dtype, measured_gb):
    need = estimate_need(NANO, *DROID, 'compiled', dtype, 'streamed')
    assert need.total_gb + 0.85 == pytest.approx(measured_gb, abs=0.35)


@pytest.mark.parametrize('free_gb, dtype, understanding, message', [
    (11.0, 'bfloat16', 'streamed', r'17.1 GB are needed \(13.9 of weights\), 11.0 are free; use compiled, '
                                   r'dtype float8, understanding streamed: 10.1 GB'),
    (24.0, 'bfloat16', 'resident', 'dtype bfloat16, understanding streamed: 17.1 GB or compiled'),
    (8.0, 'float8', 'streamed', r'use a smaller checkpoint \(Edge\) or a larger device')])
def test_too_little_is_refused_before_loading(free_gb, dtype, understanding, message):
    with pytest.raises(CheckpointError, match=message):
        check_memory(NANO, *DROID, 'compiled', dtype, understanding, int(free_gb * 1e9))


def test_nano_fits_an_rtx_4090_and_edge_a_small_card():
    check_memory(NANO, *DROID, 'compiled', 'bfloat16', 'streamed', int(23.5e9))
    edge = TowerShape.of({
        'action_gen': True, 'action_dim': 64, 'hidden_size': 2048, 'intermediate_size': 9216,
        'num_hidden_layers': 28, 'num_attention_heads': 16, 'hidden_act': 'relu2'})
    assert check_memory(edge, 131072, 3093, 'compiled', 'bfloat16', 'streamed', int(7.5e9)).total_gb < 6
