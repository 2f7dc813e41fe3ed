"""The generator's contexts from the reasoner's resident weights: the same bits as diffusers' own forward."""

import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.model.checkpoint import CheckpointError
from cosmos3_ros.reasoner import BackendError, PromptBook, create_backend

torch = pytest.importorskip('torch', reason='the extra model is not installed')

from cosmos3_ros.model.reasoner_context import ReasonerContext  # noqa: E402
from cosmos3_ros.reasoner.bench_parity import context_difference, decoder_stack  # noqa: E402

IDS = [(7 * i) % 300 for i in range(37)]


@pytest.fixture(scope='module')
def compiled(micro_checkpoint):
    made = create_backend('compiled', checkpoint=micro_checkpoint)
    yield made
    made.close()


def test_the_largest_difference_to_the_decoder_stack_is_zero(compiled, micro_checkpoint):
    compiled.answer([make_clip()], PromptBook.load().ask('caption', 4))  # it serves both, in any order
    (context,) = compiled.contexts([IDS])
    stack = decoder_stack(micro_checkpoint, IDS)
    assert len(stack) == len(context.keys) == 2 and context.length == len(IDS)
    for (key, value), our_key, our_value in zip(stack, context.keys, context.values, strict=True):
        assert torch.equal(key, our_key) and torch.equal(value, our_value)
    assert context_difference(micro_checkpoint, IDS) == 0.0
    assert decoder_stack(micro_checkpoint, IDS[1:])[0][0].shape != stack[0][0].shape


def test_both_backends_name_the_same_context_and_it_survives_a_file(compiled, backend, tmp_path):
    first, second = compiled.contexts([IDS, IDS[:5]])
    (other,) = backend.contexts([IDS])
    assert first.identity == other.identity != second.identity
    first.save(tmp_path / 'context.safetensors')
    again = ReasonerContext.load(tmp_path / 'context.safetensors', other.identity)
    pairs = zip((*again.keys, *again.values), (*other.keys, *other.values), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(CheckpointError, match='compute it again'):
        ReasonerContext.load(tmp_path / 'context.safetensors', second.identity)


def test_it_takes_no_second_copy(compiled):
    from cosmos3_ros.reasoner.resident_tower import ResidentWeights

    source = ResidentWeights(compiled._model, compiled._understanding._source.config)
    fused = compiled._decoder._weights.layers[0].qkv.weight
    assert source.get('layers.0.self_attn.to_q.weight').data_ptr() == fused.data_ptr()
    for name in ('layers.0.self_attn.to_x.weight', 'layers.9.mlp.up_proj.weight', 'proj_in.weight'):
        with pytest.raises(CheckpointError, match='holds no tensor'):
            source.get(name)
    with pytest.raises(CheckpointError, match='are resident'):
        ResidentWeights(compiled._model, {'num_hidden_layers': 3})


def test_what_cannot_compute_a_context_says_so(micro_checkpoint):
    eight = create_backend('compiled', checkpoint=micro_checkpoint, weights='fp8')
    with pytest.raises(BackendError, match='eight bits'):
        eight.contexts([IDS])
    eight.close()
    with pytest.raises(BackendError, match='closed'):
        eight.contexts([IDS])
