"""The fused kernel places what the formula places: on a GPU if there is one, else in Triton's interpreter."""

import pytest

torch = pytest.importorskip('torch', reason='the extra model is not installed')
GPU = torch.cuda.is_available()
pytest.importorskip('triton', reason='triton comes with torch for CUDA, and with the extra dev')

from cosmos3_ros.model import generation_tower, head_kernel  # noqa: E402
from cosmos3_ros.model.tower_shape import TowerShape  # noqa: E402

DEVICE = 'cuda' if GPU else 'cpu'


@pytest.mark.parametrize('heads, kv_heads, width, tokens, length', [
    (8, 2, 16, 37, 5), (6, 1, 128, 3, 1), (4, 4, 24, 9, 16), (32, 8, 128, 5, 2)])
def test_place_heads(heads, kv_heads, width, tokens, length):
    torch.manual_seed(0)
    shape = TowerShape.of({
        'action_gen': True, 'action_dim': 64, 'num_attention_heads': heads, 'num_key_value_heads': kv_heads,
        'head_dim': width})
    layer = generation_tower.Layer(
        None, *(torch.randn(width, device=DEVICE) for _ in range(2)), *[None] * 9)
    joined = torch.randn(2 * tokens, (heads + 2 * kv_heads) * width, device=DEVICE)[tokens:]
    table = tuple(torch.randn(tokens, 1, width, device=DEVICE) for _ in range(2))
    text = tuple(torch.randn(3, length, kv_heads, width, device=DEVICE)[1] for _ in range(2))
    rooms = [tuple(torch.zeros(length + tokens, kv_heads, width, device=DEVICE) for _ in range(2))
             for _ in range(2)]
    got = head_kernel.place_heads(joined, table, layer, shape, text, rooms[0])
    want = generation_tower.place_heads(joined, table, layer, shape, text, rooms[1])
    assert torch.allclose(got, want, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(*rooms, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5) and theirs.any(-1).all()
