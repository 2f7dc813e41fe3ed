"""The fast backend must write what transformers writes, token by token."""

import numpy as np
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.reasoner import BackendError, PromptBook, create_backend
from cosmos3_ros.reasoner.questions import Question
from cosmos3_ros.reasoner.video_prompt import build_prompt

torch = pytest.importorskip('torch', reason='the extra model is not installed')

from cosmos3_ros.reasoner.compiled_backend import decoder_input  # noqa: E402
from cosmos3_ros.reasoner.host_writer import CHECKED  # noqa: E402
from cosmos3_ros.reasoner.language_weights import take_weights  # noqa: E402
from cosmos3_ros.reasoner.static_decoder import StaticDecoder  # noqa: E402


@pytest.fixture(scope='module')
def compiled(micro_checkpoint):
    made = create_backend('compiled', checkpoint=micro_checkpoint)
    yield made
    made.close()


def random_case(seed):
    random = np.random.RandomState(seed)
    words = ' '.join(
        random.choice(['lift', 'the', 'red', 'cube', 'zone', 'push', '42', 'ü'], random.randint(1, 40))
    )
    clips = [
        make_clip(
            f'camera_{i}',
            2 * random.randint(1, 4),
            32 * random.randint(1, 4),
            32 * random.randint(1, 4),
            seed=i,
        )
        for i in range(random.randint(1, 4))
    ]
    return clips, Question('test', 'You are a helpful assistant.' * random.randint(0, 2), words, 'text', 64)


@pytest.mark.parametrize('seed', range(12))
def test_tokens_are_those_of_transformers(backend, compiled, seed):
    # The caches are used again and again: what an earlier answer left in them must not show.
    clips, question = random_case(seed)
    reference, answer = backend.answer(clips, question), compiled.answer(clips, question)
    assert answer.text == reference.text and answer.finish == reference.finish
    assert (answer.prompt_tokens, answer.generated_tokens) == (
        reference.prompt_tokens,
        reference.generated_tokens,
    )


@pytest.mark.parametrize('rate', [0.3, 0.7])
def test_tokens_are_those_of_transformers_with_pruning(micro_checkpoint, rate):
    options = {'checkpoint': micro_checkpoint, 'video_pruning_rate': rate}
    reference, fast = create_backend('transformers', **options), create_backend('compiled', **options)
    for seed in range(2):
        clips, question = random_case(100 + seed)
        assert fast.answer(clips, question).text == reference.answer(clips, question).text
    assert fast.identity.engine == f'compiled/float32/cpu/evs{rate:g}'


@torch.inference_mode()
def test_keys_and_values_of_a_prompt_are_those_of_transformers(backend, compiled):
    clips, question = random_case(7)
    prompt = build_prompt(backend._tokenizer, clips, question, backend._settings)
    length = prompt.input_ids.shape[1]
    theirs = backend._model(**backend._inputs(prompt), use_cache=True).past_key_values
    ours = compiled._decoder.begin(decoder_input(compiled._model, prompt), 64)
    for index, layer in enumerate(theirs.layers):
        assert torch.allclose(ours.keys[index, :, :length], layer.keys[0], atol=1e-5)
        assert torch.allclose(ours.values[index, :, :length], layer.values[0], atol=1e-5)


@torch.inference_mode()
def test_a_recorded_step_chooses_what_the_step_chooses(compiled):
    """The length of the cache is no constant of the record: prompts of other lengths share it."""
    decoder = compiled._decoder
    for seed in (3, 5, 3):
        clips, question = random_case(seed)
        given = decoder_input(
            compiled._model, build_prompt(compiled._tokenizer, clips, question, compiled._settings))
        recorded = list(decoder.write(given, 20))
        cache = decoder.begin(given, 20)
        assert cache.trace is not None
        cache.trace, chosen = None, [int(cache.token)]
        for _ in range(19):
            cache.trace = None
            chosen += decoder.host.step(cache)
        assert chosen == recorded


def test_guessing_from_the_last_answer_changes_no_token(micro_checkpoint, compiled):
    made = create_backend('compiled', checkpoint=micro_checkpoint, answer_lookup=True)
    checks = []
    check = made._decoder.host.check
    made._decoder.host.check = lambda cache, guess: checks.append(check(cache, guess)) or checks[-1]
    for seed in (3, 3, 4, 5, 5, 3):
        clips, question = random_case(seed)
        assert made.answer(clips, question).text == compiled.answer(clips, question).text
    lengths = {len(chosen) for chosen in checks}
    assert CHECKED in lengths and min(lengths) < CHECKED  # some guesses are right, some wrong
    made.close()


@torch.inference_mode()
def test_the_masked_step_of_a_gpu_chooses_what_the_cut_step_chooses(compiled):
    """On a GPU the step masks the whole cache on the device; on the CPU it can be run as well."""
    decoder = compiled._decoder
    clips, question = random_case(3)
    prompt = build_prompt(compiled._tokenizer, clips, question, compiled._settings)
    given = decoder_input(compiled._model, prompt)
    cut = list(decoder.write(given, 20))
    cache = decoder.begin(given, 20)
    chosen = [int(cache.token)]
    for _ in range(19):
        decoder.step(cache)
        chosen.append(int(cache.token))
    assert chosen == cut


@torch.inference_mode()
@pytest.mark.parametrize('grids', [((1, 2, 2),), ((4, 6, 4), (1, 2, 8)), ((2, 12, 20), (3, 4, 4), (1, 2, 2))])
def test_the_vision_tower_is_that_of_transformers(backend, compiled, grids):
    visual, tower = backend._model.model.visual, compiled._decoder._tower
    pixels = torch.randn(
        sum(t * h * w for t, h, w in grids), tower.patch_values, generator=torch.Generator().manual_seed(1)
    )
    theirs = visual(pixels, torch.tensor(grids), return_dict=True)
    merged, levels = tower.encode(pixels, tower.tables(grids))
    assert torch.allclose(merged, theirs.pooler_output, atol=2e-5)
    assert len(levels) == 3
    for ours, level in zip(levels, theirs.deepstack_features, strict=True):
        assert torch.allclose(ours, level, atol=2e-5)


@torch.inference_mode()
@pytest.mark.parametrize('rate', [0.0, 0.4])
def test_a_prompt_filled_up_as_on_a_gpu_chooses_the_same(micro_checkpoint, monkeypatch, rate):
    """CUDA graphs take prompts of few lengths: what is filled up must not show."""
    made = create_backend('compiled', checkpoint=micro_checkpoint, video_pruning_rate=rate)
    clips, question = random_case(5)
    prompt = build_prompt(made._tokenizer, clips, question, made._settings)
    given = decoder_input(made._model, prompt)
    exact = list(made._decoder.write(given, 24))
    monkeypatch.setattr(StaticDecoder, '_padded', lambda self, length: length + 37)
    assert list(made._decoder.write(given, 24)) == exact


@torch.inference_mode()
def test_eight_bits_stay_near_and_are_named(micro_checkpoint, compiled):
    made = create_backend('compiled', checkpoint=micro_checkpoint, weights='fp8')
    assert made.identity.engine == 'compiled/float32/cpu/fp8'
    clips, question = random_case(2)
    prompt = build_prompt(made._tokenizer, clips, question, made._settings)
    exact = compiled._decoder.begin(decoder_input(compiled._model, prompt), 8)
    eight = made._decoder.begin(decoder_input(made._model, prompt), 8)
    length = prompt.input_ids.shape[1]
    difference = (exact.values[:, :, :length] - eight.values[:, :, :length]).norm()
    # Float8 has three bits behind the point: 6 % per rounding at most, a few roundings on the way.
    assert 0 < difference / exact.values[:, :, :length].norm() < 0.12
    assert made.answer(clips, question).text == made.answer(clips, question).text
    weights, halved = compiled._decoder._weights, made._decoder._weights
    head = weights.head.weight.numel() * 4
    assert (halved.size_bytes - head) * 4 == weights.size_bytes - head
    with pytest.raises(BackendError, match="'int4' arrived"):
        create_backend('compiled', checkpoint=micro_checkpoint, weights='int4')


def test_caches_are_few_and_shared(compiled):
    for tokens in (1, 300, 600, 900, 1200, 1500):
        made = compiled._decoder._cache(tokens)
        assert made is compiled._decoder._cache(tokens) and made.keys.shape[2] >= tokens
        assert len(compiled._decoder._caches) <= 4


def test_fusing_holds_no_weight_twice(compiled):
    layer = compiled._model.model.language_model.layers[0]
    fused = compiled._decoder._weights.layers[0]
    assert layer.self_attn.q_proj.weight.data_ptr() == fused.qkv.weight.data_ptr()
    up, joined = layer.mlp.up_proj.weight, fused.gate_up.weight
    assert up.untyped_storage().data_ptr() == joined.untyped_storage().data_ptr()


def test_an_architecture_it_does_not_know_is_refused(backend):
    config = backend._model.config.text_config
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match='attention_bias'):
        patch.setattr(config, 'attention_bias', True)
        take_weights(backend._model)


def test_it_is_a_backend_like_any_other(compiled, micro_checkpoint):
    compiled.warm_up()
    question = PromptBook.load().ask('caption')
    assert compiled.answer([make_clip()], question).text == compiled.answer([make_clip()], question).text
    other = create_backend('compiled', checkpoint=micro_checkpoint)
    other.close()
    other.close()
    with pytest.raises(BackendError, match='closed'):
        other.answer([make_clip()], question)
    with pytest.raises(BackendError, match="'device'"):
        create_backend('compiled', checkpont=micro_checkpoint)


@pytest.mark.parametrize('shape', ['tiny', 'narrow', 'shallow'])
def test_tokens_are_those_of_transformers_at_three_shapes(shape):
    """A short piece of what benchmarks/reasoner_parity.py does with 64 prompts x 128 tokens."""
    from cosmos3_ros.reasoner.bench_parity import count_matches

    written, equal = count_matches(shape, 'cpu', 3, 16)
    assert (written, equal) == (48, 48)
