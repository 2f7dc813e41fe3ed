"""All modes and a wide domain, against the reference pipeline itself."""

import diffusers
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import CosmosActionCondition
import numpy as np
import PIL.Image
import pytest
import torch

from cosmos3_ros.generator.action_layout import ActionLayout
from cosmos3_ros.generator.compiled_backend import CompiledBackend
from cosmos3_ros.generator.denoise import Request, first_sample
from cosmos3_ros.generator.diffusers_backend import DiffusersBackend
from cosmos3_ros.generator.embodiment_actions import ARMS, arm_channels
from cosmos3_ros.generator.guidance import Guidance
from cosmos3_ros.generator.policy import PolicyError
from cosmos3_ros.generator.sampler import schedule
from cosmos3_ros.model.checkpoint import Checkpoint
from cosmos3_ros.model.loading import load_tokenizer, load_transformer, load_vae
from cosmos3_ros.model.video_codec import VideoCodec
from cosmos3_ros.model.weight_source import ModuleWeights

SIZE = 256  # a bin of the smallest tier: nothing is scaled or padded


@pytest.fixture(scope='module')
def parts(policy_checkpoint):
    torch.set_num_threads(1)
    opened = Checkpoint.open(policy_checkpoint)
    return opened, load_transformer(opened, 'cpu', 'float32'), load_vae(opened, 'cpu', 'float32')


@pytest.fixture(scope='module')
def pipeline(parts):
    opened, transformer, vae = parts
    scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(
        opened.directory, subfolder='scheduler', flow_shift=10.0)
    pipe = diffusers.Cosmos3OmniPipeline(
        transformer, load_tokenizer(opened), vae, scheduler, enable_safety_checker=False,
        use_native_flow_schedule=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope='module')
def clip():
    random = np.random.default_rng(0)
    start = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return [PIL.Image.fromarray(np.roll(start, 7 * i, axis=1)) for i in range(5)]


def pixels(clip):
    frames = np.stack([np.asarray(frame) for frame in clip]).transpose(0, 3, 1, 2)
    return frames.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


@pytest.mark.parametrize('mode, domain, rate_hz, guidance', [
    ('policy', 'agibotworld', 30.0, 2.0), ('policy', 'bridge_orig_lerobot', 5.0, 1.0),
    ('forward_dynamics', 'bridge_orig_lerobot', 5.0, 2.0), ('inverse_dynamics', 'agibotworld', 30.0, 1.0)])
def test_both_backends_do_what_the_pipeline_does(parts, pipeline, clip, mode, domain, rate_hz, guidance):
    _, transformer, vae = parts
    arm = next(iter(ARMS[domain]))
    channels = arm_channels(domain, arm)
    layout = ActionLayout(4, channels.width, channels.domain_id, rate_hz=rate_hz, mode=mode)
    steps, count = 2, 5 if mode == 'inverse_dynamics' else 1
    latents = VideoCodec(vae, 'cpu').encode(pixels(clip[:count]), 16, 16)
    given = np.random.default_rng(1).normal(size=(layout.clean_rows, channels.width)).astype(np.float32)
    asked = Request(latents, given, layout.frames, 64, 5, layout=layout)
    vision, action = first_sample(asked)
    theirs = pipeline(
        'put the cube away', fps=rate_hz, num_inference_steps=steps, guidance_scale=guidance,
        use_system_prompt=False, output_type='latent', latents=vision.clone(),
        action_latents=None if mode == 'forward_dynamics' else action.clone(),
        action=CosmosActionCondition(
            mode, 4, domain, 256, raw_actions=torch.from_numpy(given) if len(given) else None,
            video=clip[:count]))
    texts = pipeline.tokenize_prompt(
        'put the cube away', None, 5, SIZE, SIZE, rate_hz, use_system_prompt=False, action_mode=mode,
        action_view_point='ego_view')
    plan, scale = schedule(steps, 10.0), Guidance(guidance)
    backends = [
        DiffusersBackend(transformer, plan, scale),
        CompiledBackend(ModuleWeights(transformer), 'cpu', torch.float32, 'w', plan, scale, layout=layout)]
    for backend in backends:
        if mode == 'forward_dynamics':
            video = backend.imagine(*texts, asked)
            assert (video - theirs.video).abs().max() <= 1e-5 * theirs.video.abs().max()
            assert (video[:, :, 1:] - vision[:, :, 1:]).abs().max() > 0.1
            assert torch.equal(video[:, :, :1], latents)
        else:
            rows = backend.denoise(*texts, asked)[:, :channels.width]
            want = theirs.action[0].numpy()
            assert rows.shape == want.shape == (4, channels.width)
            assert np.abs(rows - want).max() <= 1e-5 * max(1.0, np.abs(want).max())
            assert np.abs(rows - action[:, :channels.width].numpy()).max() > 0.1


def test_what_is_given_decides(parts, clip):
    """Other actions, another video; another video, other actions."""
    _, transformer, vae = parts
    layout = ActionLayout(4, 10, 7, mode='forward_dynamics')
    backend = CompiledBackend(
        ModuleWeights(transformer), 'cpu', torch.float32, 'w', schedule(2, 10.0), Guidance(1.0),
        layout=layout)
    codec, random = VideoCodec(vae, 'cpu'), np.random.default_rng(2)
    first = codec.encode(pixels(clip[:1]), 16, 16)
    moves = [random.normal(size=(4, 10)).astype(np.float32) for _ in range(2)]
    films = [backend.imagine((1, 2), (3,), Request(first, m, 2, 64, 0, layout=layout))
             for m in (*moves, moves[0])]
    assert torch.equal(films[0], films[2]) and (films[0] - films[1]).abs().max() > 1e-3
    inverse = layout.of_mode('inverse_dynamics')
    nothing = np.zeros((0, 10), np.float32)
    rows = [backend.denoise((1, 2), (3,), Request(film, nothing, 2, 64, 0, layout=inverse))
            for film in films[:2]]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_a_video_there_and_back_has_its_shape(parts, clip):
    codec = VideoCodec(parts[2], 'cpu')
    latents = codec.encode(pixels(clip), 16, 16)
    assert latents.shape == (1, 48, 2, 16, 16)
    frames = codec.decode(latents)
    assert frames.shape == (5, SIZE, SIZE, 3) and frames.dtype == np.uint8 and frames.std() > 0
    # The encoder is causal: the first latent is that of the first frame alone.
    assert torch.equal(latents[:, :, :1], codec.encode(pixels(clip[:1]), 16, 16))


def test_requests_that_do_not_fit(parts):
    layout = ActionLayout(8, 10, 7)
    backend = CompiledBackend(
        ModuleWeights(parts[1]), 'cpu', torch.float32, 'w', schedule(2, 10.0), Guidance(1.0), layout=layout)
    latent, nothing = torch.zeros(1, 48, 1, 2, 2), np.zeros((0, 10), np.float32)
    with pytest.raises(PolicyError, match='domain 8 with 10 channels is asked for, the heads of dom'):
        backend.denoise((1,), (2,), Request(latent, nothing, 3, 64, 0, layout=ActionLayout(8, 10, 8)))
    with pytest.raises(PolicyError, match='0 action rows are given, 8 are needed in the mode forw'):
        backend.imagine((1,), (2,), Request(
            latent, nothing, 3, 64, 0, layout=layout.of_mode('forward_dynamics')))


@pytest.mark.parametrize('change, message', [
    ({'mode': 'dream'}, "mode: 'dream' arrived, one of policy, forward_dynamics, inverse_dynamics"),
    ({'horizon': 6}, 'horizon: 6 arrived, a multiple of 4'), ({'horizon': 0}, 'horizon: 0'),
    ({'width': 0}, 'width 0'), ({'domain_id': 32}, 'domain 32'), ({'rate_hz': 0.0}, 'rate_hz: 0.0')])
def test_bad_layouts(change, message):
    with pytest.raises(PolicyError, match=message):
        ActionLayout(**({'horizon': 8, 'width': 10, 'domain_id': 7} | change))
