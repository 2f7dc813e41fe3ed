"""The backend tensorrt over ONNX Runtime: the tokens of ``compiled``, behind the same gate as on a GPU."""

import shutil

import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.reasoner import BackendError, PromptBook, Reasoner, create_backend

torch = pytest.importorskip('torch', reason='the extra model is not installed')
pytest.importorskip('onnxruntime', reason='the extra tensorrt is not installed')
pytest.importorskip('tensorrt_rtx', reason='the extra tensorrt is not installed')

from cosmos3_ros.engine.build import BuildRequest, build  # noqa: E402
from cosmos3_ros.engine.compiler import BuildOptions, Compiler  # noqa: E402
from cosmos3_ros.engine.dimensions import Dimensions, Shapes  # noqa: E402
from cosmos3_ros.engine.executors import OnnxExecutor  # noqa: E402
from cosmos3_ros.model.checkpoint import content_hash  # noqa: E402

SHAPES = Shapes(frame_grid=(4, 6), max_frames=2, max_prompt=320, cache=400)
SIZE = (64, 96)
BOOK = PromptBook.load()


@pytest.fixture(scope='module')
def engines(micro_checkpoint, tmp_path_factory):
    """Build vision and language as a user does, but for the plans themselves: nothing here can run them."""
    out = tmp_path_factory.mktemp('engines')

    def write_nothing(_self, _onnx, _segment, _options, destination, *_rest):
        return destination.write_bytes(b'no plan')

    digest = content_hash(micro_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compiler, 'compile', write_nothing)
        build(BuildRequest(
            checkpoint=micro_checkpoint, checkpoint_hash=digest, label=f'micro@{digest}',
            source=str(micro_checkpoint), dimensions=Dimensions.read(micro_checkpoint), shapes=SHAPES,
            towers=('vision', 'language'), precision='bf16', options=BuildOptions(('sm89',)), out=out,
            isolate=False, prompts=2, keep_onnx=True))
    return out


def make(checkpoint, engines, **options):
    return create_backend(
        'tensorrt', checkpoint=checkpoint, engines=engines, executor=OnnxExecutor(), **options)


@pytest.fixture(scope='module')
def tensorrt(micro_checkpoint, engines):
    made = make(micro_checkpoint, engines)
    yield made
    made.close()


@pytest.mark.parametrize('rate', [0.0, 0.4])
def test_tokens_are_those_of_the_compiled_backend(micro_checkpoint, engines, rate):
    ours = make(micro_checkpoint, engines, video_pruning_rate=rate)
    theirs = create_backend('compiled', checkpoint=micro_checkpoint, video_pruning_rate=rate)
    for seed in range(4):
        clips = [make_clip(f'camera_{i}', 2 + 2 * ((seed + i) % 2), *SIZE, seed=10 * seed + i)
                 for i in range(1 + seed % 2)]
        question = BOOK.ask('free', 40, question=('What is this?', 'Is the gripper open?')[seed // 2])
        answer, expected = ours.answer(clips, question), theirs.answer(clips, question)
        assert answer.text == expected.text and answer.finish == expected.finish
        assert (answer.prompt_tokens, answer.generated_tokens) == (
            expected.prompt_tokens, expected.generated_tokens)
    assert ('evs0.4' in ours.identity.engine) == bool(rate)
    ours.close()
    with pytest.raises(BackendError, match='closed'):
        ours.answer([make_clip('wrist', 2, *SIZE)], question)


def test_it_reports_and_names_its_plans(tensorrt, micro_checkpoint):
    tensorrt.warm_up()
    report = Reasoner(tensorrt, scene_max_new_tokens=8).report([make_clip('wrist', 4, *SIZE)], 'lift')
    assert not report.parsed and report.raw_text
    assert report.identity.engine.startswith('tensorrt-rtx-') and '/bf16/' in report.identity.engine
    compiled = create_backend('compiled', checkpoint=micro_checkpoint)
    assert report.identity.checkpoint == compiled.identity.checkpoint
    with pytest.raises(BackendError, match='use the backends transformers or compiled'):
        tensorrt.contexts([[1, 2]])


def test_an_answer_ends_where_the_cache_does(tensorrt):
    clip = make_clip('wrist', 2, *SIZE)
    answer = tensorrt.answer([clip], BOOK.ask('free', 1000, question='What?'))
    # The cache holds the prompt and every written token but the last.
    assert answer.finish == 'length' and answer.prompt_tokens + answer.generated_tokens == SHAPES.cache + 1


def test_clips_that_the_plans_do_not_take_are_refused_at_configure(tensorrt):
    question = BOOK.ask('free', question='What?')
    for clip, text in ((make_clip('wrist', 2, 96, 96), r'of 96 x 96 pixels arrived.*--frame-grid 6 6'),
                       (make_clip('wrist', 6, *SIZE), r'3 temporal patches.*--max-frames 3')):
        with pytest.raises(BackendError, match=text):
            tensorrt.prepare([clip], question)
    tensorrt.prepare([make_clip('wrist', 4, *SIZE)], question)
    with pytest.raises(BackendError, match='build with a larger --max-prompt'):
        tensorrt.prepare([make_clip('wrist', 4, *SIZE)], BOOK.ask('free', question='lift it, ' * 300))


def test_plans_that_drifted_or_are_missing_are_refused(micro_checkpoint, engines, tmp_path):
    with pytest.raises(BackendError, match=r'holds no plans of the tower vision.*cosmos3 engine build'):
        make(micro_checkpoint, tmp_path)
    with pytest.raises(BackendError, match='engines: none arrived'):
        make(micro_checkpoint, '')
    copied = tmp_path / 'copied'
    shutil.copytree(engines, copied)
    (language,) = copied.glob('language-*')
    from safetensors.torch import load_file, save_file
    for path in language.glob('*.vectors.safetensors'):
        stored = load_file(path)
        name = next(key for key in stored if '/out/' in key)
        save_file({**stored, name: stored[name].flip(-1)}, path)
    with pytest.raises(BackendError, match=r'the stage language-.* drifted .*build it again'):
        make(micro_checkpoint, copied)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_without_a_gpu_it_says_so(micro_checkpoint, engines):
    with pytest.raises(BackendError, match='no NVIDIA GPU or no driver is here'):
        create_backend('tensorrt', checkpoint=micro_checkpoint, engines=engines, device='cuda:0')
    with pytest.raises(BackendError, match="device: 'cpu' arrived, cuda or cuda:n is allowed"):
        create_backend('tensorrt', checkpoint=micro_checkpoint, engines=engines, device='cpu')
