"""Cosmos3-Edge's class in the reference backend: prompt and patches as its processor makes them."""

from importlib.util import module_from_spec, spec_from_file_location
import json
from pathlib import Path
import sys
from types import SimpleNamespace

from edge_checkpoint import write_edge_checkpoint
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.contracts import TaskState
from cosmos3_ros.reasoner import BackendError, PromptBook, Reasoner, create_backend
from cosmos3_ros.reasoner.model_loading import find_class
from cosmos3_ros.reasoner.video_prompt import VideoSettings, build_prompt, patch_clip

torch = pytest.importorskip('torch', reason='the extra model is not installed')
transformers = pytest.importorskip('transformers', reason='the extra model is not installed')

from transformers.models.cosmos3_edge.processing_cosmos3_edge import Cosmos3EdgeProcessor  # noqa: E402
from transformers.video_utils import VideoMetadata  # noqa: E402

CLIPS = [make_clip('wrist', 4, 64, 96), make_clip('exterior_1', 2, 64, 64, seed=1)]


@pytest.fixture(scope='module')
def edge_checkpoint(tmp_path_factory):
    return write_edge_checkpoint(tmp_path_factory.mktemp('edge'))


@pytest.fixture(scope='module')
def edge(edge_checkpoint):
    made = create_backend('transformers', checkpoint=edge_checkpoint)
    yield made
    made.close()


def their_video_processor():
    # The module wants torchvision; patchify does not.
    file = Path(transformers.__file__).parent / 'models' / 'cosmos3_edge' / 'video_processing_cosmos3_edge.py'
    name = 'transformers.models.cosmos3_edge.video_processing_cosmos3_edge'
    spec = spec_from_file_location(name, file)
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        for absent in ('torchvision', 'torchvision.transforms', 'torchvision.transforms.v2'):
            if absent not in sys.modules:
                patch.setitem(sys.modules, absent, SimpleNamespace(functional=None))
        spec.loader.exec_module(module)
    return object.__new__(module.Cosmos3EdgeVideoProcessor)


@pytest.mark.parametrize(('frames', 'height', 'width'), [(4, 64, 96), (3, 32, 32), (2, 96, 64)])
def test_patches_are_those_of_transformers(edge_checkpoint, frames, height, width):
    settings = VideoSettings.load(edge_checkpoint)
    assert settings.edge and settings.temporal_patch_size == 1
    clip = make_clip('wrist', frames, height, width)
    patches, grid = patch_clip(clip, VideoSettings(
        temporal_patch_size=1, min_clip_pixels=1024, edge=True))
    values = (torch.from_numpy(clip.frames.copy()).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    theirs, *their_grid = their_video_processor().patchify(
        values[None], patch_size=16, merge_size=2, temporal_patch_size=1)
    assert list(grid) == their_grid == [frames, height // 16, width // 16]
    assert torch.equal(patches, theirs[0])


def test_the_prompt_has_one_stamped_segment_per_frame_and_no_wrapper(edge, edge_checkpoint):
    tokenizer, clip = edge._tokenizer, make_clip('wrist', 4, 64, 96, fps=4.0)
    question = PromptBook.load().ask('free', question='What?')
    ours = build_prompt(tokenizer, [clip], question, VideoSettings.load(edge_checkpoint))
    processor = object.__new__(Cosmos3EdgeProcessor)
    processor.video_token, processor.image_token = '<|video_pad|>', '<|image_pad|>'
    processor.vision_start_token, processor.vision_end_token = '<|vision_start|>', '<|vision_end|>'
    processor.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=1)
    text = tokenizer.apply_chat_template(
        [{'role': 'system', 'content': question.system},
         {'role': 'user', 'content': [{'type': 'video'}, {'type': 'text', 'text': question.text}]}],
        tokenize=False, add_generation_prompt=True)
    video = {'video_grid_thw': ours.video_grid_thw, 'video_metadata': [
        VideoMetadata(total_num_frames=4, fps=4.0, frames_indices=[0, 1, 2, 3])]}
    (replaced,), _ = processor.get_text_with_replacements(
        [text], videos_replacements=[processor.replace_video_token(video, 0)])
    assert ours.input_ids[0].tolist() == tokenizer(replaced)['input_ids']
    assert '<|im_start|>user\n<0.0 seconds><|vision_start|>' in replaced
    assert replaced.count('<|vision_start|>') == 4


def test_answers_are_those_of_its_class(edge, edge_checkpoint):
    model = transformers.Cosmos3EdgeForConditionalGeneration.from_pretrained(edge_checkpoint).eval()
    question = PromptBook.load().ask('free', 40, question='What do you see?')
    prompt = build_prompt(edge._tokenizer, CLIPS, question, edge._settings)
    theirs = model.generate(
        input_ids=prompt.input_ids, attention_mask=torch.ones_like(prompt.input_ids),
        mm_token_type_ids=prompt.mm_token_type_ids, pixel_values_videos=prompt.pixel_values_videos,
        video_grid_thw=prompt.video_grid_thw, max_new_tokens=40, do_sample=False)
    written = theirs[0, prompt.input_ids.shape[1]:]
    answer = edge.answer(CLIPS, question)
    assert answer.text == edge._tokenizer.decode(written, skip_special_tokens=True)
    assert answer.generated_tokens == len(written) and edge.answer(CLIPS, question).text == answer.text
    other = [make_clip('wrist', 4, 64, 96, seed=5), CLIPS[1]]
    assert edge.answer(other, question).text != answer.text, 'it looks at the clips'


def test_it_reports_like_any_other(edge):
    report = Reasoner(edge, scene_max_new_tokens=16).report(CLIPS, 'lift the cube')
    assert report.task_state is TaskState.UNKNOWN and not report.parsed and report.raw_text
    assert report.identity.engine == 'transformers/float32/cpu'


@torch.inference_mode()
def test_pruning_keeps_positions_and_the_first_frame(edge_checkpoint):
    pruned = create_backend('transformers', checkpoint=edge_checkpoint, video_pruning_rate=0.5)
    question = PromptBook.load().ask('free', 12, question='What?')
    prompt = build_prompt(pruned._tokenizer, CLIPS, question, pruned._settings)
    inputs = pruned._inputs(prompt)
    # Half of 4 x 6 and half of 2 x 4 tokens stay.
    kept = int((inputs['input_ids'][0] == pruned._model.config.video_token_id).sum())
    assert kept == 12 + 4
    positions, _ = pruned._model.model.get_rope_index(
        prompt.input_ids, prompt.mm_token_type_ids, video_grid_thw=prompt.video_grid_thw)
    everything = positions[:, 0].T.tolist()
    assert all(place in everything for place in inputs['position_ids'][1:, 0].T.tolist())
    answer = pruned.answer(CLIPS, question)
    assert answer.prompt_tokens == prompt.input_ids.shape[1] - 16 and answer.generated_tokens == 12
    pruned.close()


def test_other_backends_and_old_libraries_say_what_is_needed(edge, edge_checkpoint):
    with pytest.raises(BackendError, match=r"holds a 'cosmos3_edge'.*the backend transformers can run it"):
        create_backend('compiled', checkpoint=edge_checkpoint)
    with pytest.raises(BackendError, match='reasoner contexts'):
        edge.contexts([[1, 2, 3]])
    old = SimpleNamespace(__version__='5.10.0')
    with pytest.raises(BackendError, match=r'transformers 5\.10\.0 has no Cosmos3Edge.* >= 5\.'):
        find_class(old, edge_checkpoint, ('cosmos3_edge',))


def test_a_foreign_checkpoint_is_refused(edge_checkpoint, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'llama'}))
    with pytest.raises(BackendError, match=r"holds a 'llama', 'cosmos3_omni' .* is allowed$"):
        find_class(transformers, tmp_path, ('cosmos3_omni',))
    (tmp_path / 'config.json').write_text('[')
    with pytest.raises(BackendError, match='cannot be loaded'):
        find_class(transformers, tmp_path, ('cosmos3_omni',))
