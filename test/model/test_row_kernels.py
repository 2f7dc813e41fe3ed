"""The kernels give what the formulas give: on a GPU if there is one, else in Triton's interpreter."""

import pytest

torch = pytest.importorskip('torch', reason='the extra model is not installed')
GPU = torch.cuda.is_available()
pytest.importorskip('triton', reason='triton comes with torch for CUDA, and with the extra dev')

from cosmos3_ros.model import device_layers, generation_tower, row_kernels  # noqa: E402
from cosmos3_ros.model.layer_math import activate, normalise, quantise_rows  # noqa: E402
from cosmos3_ros.model.tower_shape import TowerShape  # noqa: E402

DEVICE = 'cuda' if GPU else 'cpu'


def draw(*size, scale=1.0):
    return scale * torch.randn(size, device=DEVICE)


def shape_of(kind):
    return TowerShape.of({'action_gen': True, 'action_dim': 64, 'hidden_act': kind})


def near(ours, theirs):
    bound = 1e-5 if ours.dtype == torch.float32 else 1e-2  # a step of bfloat16: the interpreter cuts off
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert torch.allclose(ours.float(), theirs.float(), atol=bound, rtol=bound, equal_nan=True)


def near_float8(ours, theirs):
    """Another last bit before rounding may give the neighbouring float8, rarely.

    Triton's interpreter loses the carry where rounding reaches the next power of two: there, few are
    further off.
    """
    (values, scales), (want, want_scales) = ours, theirs
    near(scales, want_scales)
    assert values.dtype == want.dtype == torch.float8_e4m3fn and values.shape == want.shape
    one, other = values.float(), want.float()
    assert (one != other).float().mean() < (2e-3 if GPU else 0.05)
    assert ((one - other).abs() > other.abs() / 7 + 2.0 ** -9).float().mean() <= (0.0 if GPU else 0.05)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('rows, width', [(1, 16), (33, 96), (5, 4096)])
@pytest.mark.parametrize('summed', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_sum_and_norm(rows, width, summed, dtype):
    x, weight = draw(rows, width).to(dtype), draw(width).to(dtype)
    delta = draw(rows, width).to(dtype) if summed else None
    x[0] = 0.0
    shape = shape_of('relu2')  # its weight multiplies before rounding, as here
    total, normed = row_kernels.add_norm(x, delta, weight, shape.eps)
    near(total, x + delta if summed else x)
    near(normed, normalise(total, weight, shape))
    written = x.clone()
    again, *rows8 = row_kernels.add_norm_quantise(written, delta, weight, shape.eps, in_place=True)
    assert again.data_ptr() == written.data_ptr() and torch.equal(again, total)
    near_float8(rows8, quantise_rows(normalise(total.float(), weight.float(), shape)))


def test_matrices_below_one_another_are_quantised_as_one():
    parts = [draw(7, 480), draw(1, 480, scale=30.0), draw(4, 480, scale=1e-3)]
    parts[0][3] = 0.0
    values, scales = row_kernels.quantise(parts)
    near_float8((values, scales), quantise_rows(torch.cat(parts)))
    assert not values[3].float().any()
    again, _ = row_kernels.quantise(parts)
    assert torch.equal(again.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize('rows, width', [(1, 16), (3, 1500), (2, 12288), (9, 25600)])
@pytest.mark.parametrize('kind', ['silu', 'relu2'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_activation(rows, width, kind, dtype):
    shape = shape_of(kind)
    joined = draw(rows, (2 if shape.gated else 1) * width).to(dtype)
    joined[0] = 0.0
    near(row_kernels.activate(joined, gated=shape.gated), activate(joined.float(), shape).to(dtype))
    near_float8(row_kernels.activate_quantise(joined, gated=shape.gated),
                quantise_rows(activate(joined.float(), shape)))


@pytest.mark.parametrize('kind', ['silu', 'relu2'])
def test_what_is_not_a_number_is_not_clamped_away(kind):
    """Or a chunk that must be refused would look like one that moves the arm."""
    x, weight, gated = draw(3, 64), torch.ones(64, device=DEVICE), kind == 'silu'
    x[1, 7] = float('nan')
    answers = (
        row_kernels.add_norm(x, None, weight, 1e-6)[1], row_kernels.activate(x, gated=gated),
        row_kernels.add_norm_quantise(x, None, weight, 1e-6)[1], row_kernels.quantise([x])[0],
        row_kernels.activate_quantise(x, gated=gated)[0])
    for index, answer in enumerate(answers):
        lost = answer.float().isnan()
        if index > 1 and not GPU:
            continue  # the interpreter makes a number of it when it rounds to float8
        assert lost[1].any() and not lost[0].any() and not lost[2].any()


@pytest.mark.parametrize('work, message', [
    (lambda x: row_kernels.add_norm(x.t(), None, x[0], 1e-6), r'x: \(64, 4\) with strides \(1, 64\) arrived'),
    (lambda x: row_kernels.add_norm(x, x[:2], x[0], 1e-6), r'delta: \(2, 64\) .*, \(4, 64\) contiguous is'),
    (lambda x: row_kernels.add_norm_quantise(x, None, x[0, :5], 1e-6), r'weight: \(5,\)'),
    (lambda x: row_kernels.quantise([x, x[:, :32].contiguous()]), r'part: \(4, 32\) .*\(rows, 64\) contig'),
    (lambda x: row_kernels.add_norm(x, None, x[:1], 1e-6), r'weight: \(1, 64\) arrived, \(64,\) contig'),
    (lambda x: row_kernels.activate(x[:, ::2]), 'joined: '),
    (lambda x: row_kernels.activate(x[:, :63].contiguous()), r'joined: \(4, 63\) .*\(rows, 62\)'),
    (lambda x: row_kernels.activate_quantise(x[:, 1:]), 'joined: ')])
def test_matrices_of_another_form_are_refused(work, message):
    with pytest.raises(ValueError, match=message):
        work(draw(4, 64))


@pytest.mark.parametrize('kind', ['silu', 'relu2'])
@pytest.mark.parametrize('branches', [1, 2])
def test_a_layer_is_that_of_the_formulas(kind, branches):
    shape, width, inner, tokens = shape_of(kind), 32, 48, 5
    norms = [draw(width) for _ in range(4)]
    matrices = [draw(*size, scale=0.2) for size in (
        (3 * width, width), (width, width), ((2 if shape.gated else 1) * inner, width), (width, inner))]
    layer = generation_tower.Layer(*norms, *(part for m in matrices for part in (m, None)))
    terms = [draw(branches * tokens, width) for _ in range(2)]
    for given in (terms, terms[:1]):
        for ours, theirs in zip(device_layers.project([t.clone() for t in given], layer, shape),
                                generation_tower.project(given, layer, shape), strict=True):
            near(ours, theirs)
    mixed, hidden = ([draw(tokens, width) for _ in range(branches)] for _ in range(2))
    (want,) = generation_tower.finish_layer(mixed, hidden, layer, shape)
    (got,) = device_layers.finish_layer(mixed, hidden, layer, shape)
    near(got, want)
    assert not mixed  # its room is let go on the way
    if branches == 1:
        assert got.data_ptr() == hidden[0].data_ptr()  # no room of its own


def test_a_float8_layer_is_that_of_the_formulas():
    # The formulas round to bfloat16 before they quantise, the kernels do not: some numbers become a
    # neighbouring float8. That is less than quantising itself costs (a float8 is up to 1/16 off). The
    # interpreter loses carries, too.
    bound = 0.025 if GPU else 0.1
    shape, width, inner, tokens = shape_of('silu'), 256, 512, 64
    norms = [1.0 + 0.1 * draw(width) for _ in range(4)]
    quantised = []
    for size in ((3 * width, width), (width, width), (2 * inner, width), (width, inner)):
        values, scales = quantise_rows(draw(*size, scale=0.06))
        quantised += [values, scales.t().contiguous()]
    layer = generation_tower.Layer(*[n.bfloat16() for n in norms], *quantised)
    terms = [draw(2 * tokens, width).bfloat16() for _ in range(2)]
    ours, theirs = (part([t.clone() for t in terms], layer, shape)
                    for part in (device_layers.project, generation_tower.project))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.float() - other.float()).norm() < bound * other.float().norm()
    mixed, hidden = ([draw(tokens, width).bfloat16() for _ in range(2)] for _ in range(2))
    got, want = (generation_tower.sum_terms(finish(list(mixed), [h.clone() for h in hidden], layer, shape))
                 for finish in (device_layers.finish_layer, generation_tower.finish_layer))
    assert (got.float() - want.float()).norm() < bound * want.float().norm()
