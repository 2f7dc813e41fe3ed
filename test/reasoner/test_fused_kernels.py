"""The GPU's fused steps against the plain ones: on a GPU if there is one, else in Triton's interpreter."""

import pytest

torch = pytest.importorskip('torch', reason='the extra model is not installed')
GPU = torch.cuda.is_available()
pytest.importorskip('triton', reason='triton comes with torch for CUDA, and with the extra dev')

from cosmos3_ros.model.layer_math import quantise_rows  # noqa: E402
from cosmos3_ros.reasoner import fused_kernels  # noqa: E402
from cosmos3_ros.reasoner.fused_math import SPLIT, FusedMath  # noqa: E402
from cosmos3_ros.reasoner.language_weights import LanguageWeights, Layer, Matrix  # noqa: E402
from cosmos3_ros.reasoner.plain_math import PlainMath, Turn  # noqa: E402

DEVICE = 'cuda' if GPU else 'cpu'
WIDTH, INNER, HEAD_DIM, TOKENS = 64, 96, 16, 37


def draw(*shape):
    return torch.randn(shape, device=DEVICE)


def matrix(rows, columns, eight):
    weight = draw(rows, columns) * columns**-0.5
    if not eight:
        return Matrix(weight)
    values, scale = quantise_rows(weight)
    return Matrix(values, scale[:, 0].contiguous())


def exact(given):
    return given if given.scale is None else Matrix(given.weight.float() * given.scale[:, None])


@pytest.fixture(params=[(8, 2, False), (6, 2, True), (8, 1, False)])
def weights(request):
    torch.manual_seed(0)
    heads, kv_heads, eight = request.param
    layer = Layer(
        matrix((heads + 2 * kv_heads) * HEAD_DIM, WIDTH, eight),
        matrix(WIDTH, heads * HEAD_DIM, eight),
        matrix(2 * INNER, WIDTH, eight),
        matrix(WIDTH, INNER, eight),
        draw(WIDTH),
        draw(WIDTH),
        torch.cat([draw(1, HEAD_DIM).expand(heads, -1), draw(1, HEAD_DIM).expand(kv_heads, -1)]),
    )
    head = Matrix(draw(50, WIDTH))
    return LanguageWeights(
        (layer,), draw(50, WIDTH), draw(WIDTH), head, None, heads, kv_heads, HEAD_DIM, 1e-6
    )


def near(fused, plain):
    assert fused.shape == plain.shape and torch.allclose(fused.float(), plain.float(), atol=1e-5, rtol=1e-5)


def test_steps_of_a_prompt(weights):
    plain, fused, layer = PlainMath(weights), FusedMath(weights), weights.layers[0]
    x, delta = draw(TOKENS, WIDTH), draw(TOKENS, WIDTH)
    for added in (None, delta):
        for ours, theirs in zip(
            fused.add_norm(x, added, layer.norm_in), plain.add_norm(x, added, layer.norm_in), strict=True
        ):
            near(ours, theirs)
    joined = draw(TOKENS, (weights.heads + 2 * weights.kv_heads) * HEAD_DIM)
    cos, sin = draw(TOKENS, HEAD_DIM), draw(TOKENS, HEAD_DIM)
    ours, theirs = (torch.zeros((2, weights.kv_heads, 64, HEAD_DIM), device=DEVICE) for _ in range(2))
    near(fused.project(joined, layer, cos, sin, *ours), plain.project(joined, layer, cos, sin, *theirs))
    near(ours, theirs)
    pair = draw(TOKENS, 2 * INNER)
    near(fused.gate(pair), plain.gate(pair))
    near(fused.quantise(x)[1], plain.quantise(x)[1])


@pytest.mark.parametrize('start, step', [(SPLIT - 4, 4), (SPLIT - 1, 0), (150, 5), (1, 0)])
def test_one_token_extends_the_cache_and_attends_to_all_of_it(weights, start, step):
    plain, fused, layer = PlainMath(weights), FusedMath(weights), weights.layers[0]
    # A token's products take the float8 rows as they are: they equal products with what those rows mean.
    meant = Layer(
        *(exact(m) for m in (layer.qkv, layer.out, layer.gate_up, layer.down)),
        layer.norm_in,
        layer.norm_mlp,
        layer.norm_qk,
    )
    capacity = 3 * SPLIT
    theirs = draw(2, weights.kv_heads, capacity, HEAD_DIM)
    ours = theirs.clone()
    turn = Turn(
        torch.tensor([start], device=DEVICE),
        torch.tensor([step], device=DEVICE),
        draw(capacity, HEAD_DIM),
        draw(capacity, HEAD_DIM),
        torch.arange(capacity, device=DEVICE),
    )
    x = draw(1, WIDTH)
    expected = plain.step(x, meant, *theirs, turn)
    near(fused.step(x, layer, *ours, turn), expected)
    near(ours, theirs)
    assert fused.choose(x).tolist() == plain.choose(x).tolist()


def test_patches_turn_as_transformers_turns_them():
    torch.manual_seed(1)
    patches, heads, width = 5, 3, 18
    joined = draw(patches, 3, heads, width)
    cos, sin = draw(patches, width), draw(patches, width)
    q, k = draw(patches, heads, width), draw(patches, heads, width)
    fused_kernels.rotate_patches_kernel[(patches, 2)](
        joined, cos, sin, q, k, HEADS=heads, WIDTH=width, HEAD_BLOCK=4, BLOCK=32
    )
    half = width // 2
    turned = torch.cat((-joined[..., half:], joined[..., :half]), dim=-1)
    expected = joined * cos[:, None, None] + turned * sin[:, None, None]
    near(q, expected[:, 0])
    near(k, expected[:, 1])


@pytest.mark.parametrize('rows, width', [(5, 64), (3, 1152), (1, 33)])
def test_sum_and_layer_norm(rows, width):
    torch.manual_seed(0)
    x, delta, weight, bias = draw(rows, width) + 3.0, draw(rows, width), draw(width), draw(width)
    for added in (False, True):
        total, normed = torch.zeros_like(x), torch.zeros_like(x)
        fused_kernels.add_layer_norm_kernel[(rows,)](
            x, delta, weight, bias, total, normed, width, 1e-6, HAS_DELTA=added,
            BLOCK=1 << (width - 1).bit_length(),
        )
        want = x + delta if added else x
        assert not added or torch.equal(total, want)
        near(normed, torch.nn.functional.layer_norm(want, (width,), weight, bias, 1e-6))
