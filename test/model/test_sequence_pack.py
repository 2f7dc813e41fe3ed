"""The pack agrees with diffusers' own helpers, and with the DROID policy's published numbers."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from cosmos3_ros.model.embodiments import EMBODIMENTS, embodiment
from cosmos3_ros.model.sequence_pack import SequencePack


def test_droid_policy_numbers():
    pack = SequencePack(text_length=117, latent_shape=(9, 33, 40), action_rows=33)
    assert pack.grid == (9, 17, 20)
    assert (pack.patches_per_frame, pack.vision_tokens, pack.generated_tokens) == (340, 3060, 3093)
    time, height, width = pack.generated_positions
    start = 117 + 15000
    # Row 4 j of the actions lies at the time of latent frame j: 1.6 and 0.4 positions apart.
    for j in range(9):
        torch.testing.assert_close(time[340 * j].item(), start + 1.6 * j, atol=2e-3, rtol=0)
        assert time[3060 + 4 * j] == time[340 * j]
    assert height[:340].max() == 16 and width[:340].max() == 19
    assert not height[3060:].any() and not width[3060:].any()
    assert pack.text_positions.dtype == pack.generated_positions.dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(text=st.integers(1, 200), frames=st.integers(2, 9), height=st.integers(1, 12),
       width=st.integers(1, 12), fps=st.sampled_from([5.0, 10.0, 15.0, 24.0, 30.0]))
def test_equals_the_pipelines_segments(pipeline, text, frames, height, width, fps):
    rows = 4 * (frames - 1) + 1
    pack = SequencePack(text_length=text, latent_shape=(frames, height, width), action_rows=rows, fps=fps)
    ours = pack.forward_arguments(torch.arange(text), 8)
    words = pipeline._prepare_text_segment(list(range(text)), 'cpu')
    offset = words['vision_start_temporal_offset']
    vision = pipeline._prepare_vision_segment(
        torch.zeros(1, 48, frames, height, width), True, offset, fps, text, 'cpu')
    action = pipeline._prepare_action_segment(
        torch.zeros(rows, 64), [0], offset, fps, text + vision['num_vision_tokens'], 'cpu')
    for segment, keys in (
        (words, ('input_ids', 'text_indexes', 'und_len')),
        (vision, ('vision_token_shapes', 'vision_sequence_indexes', 'vision_mse_loss_indexes',
                  'vision_noisy_frame_indexes')),
        (action, ('action_token_shapes', 'action_sequence_indexes', 'action_mse_loss_indexes',
                  'action_noisy_frame_indexes')),
    ):
        for key in keys:
            theirs, mine = segment[key], ours[key]
            if isinstance(theirs, list) and torch.is_tensor(theirs[0]):
                theirs, mine = theirs[0], mine[0]
            assert torch.equal(theirs, mine) if torch.is_tensor(theirs) else theirs == mine, key
    positions = ours['position_ids']
    assert torch.equal(positions[:, :text], words['text_mrope_ids'])
    assert torch.equal(positions[:, text:text + pack.vision_tokens], vision['vision_mrope_ids'])
    # diffusers has no clean state row and starts the actions one frame later; else it is the same clock.
    assert torch.equal(positions[:, text + pack.vision_tokens + 1:], action['action_mrope_ids'][:, :-1])
    assert positions[0, text + pack.vision_tokens] == offset


def test_embodiments_agree_with_diffusers():
    from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as reference

    for name, domain in reference._EMBODIMENT_TO_DOMAIN_ID.items():
        assert EMBODIMENTS[name].domain_id == domain
        assert EMBODIMENTS[name].width == reference._EMBODIMENT_TO_RAW_ACTION_DIM.get(name)
    assert all(0 <= e.domain_id < 32 and (e.width or 0) <= 64 for e in EMBODIMENTS.values())
    with pytest.raises(ValueError, match="embodiment: 'panda' arrived, one of no_action, av"):
        embodiment('panda')
