"""The packed token sequence of one request: text, then video patches, then action rows.

Positions are three numbers per token (time, height, width), counted in float32: bfloat16 cannot
tell integers past 256 apart. Video and actions start 15000 after the text and run on the same
clock, 24 frames per second being the unit: at 15 Hz a latent frame (4 video frames) is 1.6 and an
action row 0.4. Row 0 is the state at the time of video frame 0. Sources: diffusers 0.42.1
``pipeline_cosmos3_omni.py`` and ``transformer_cosmos3.py``; cosmos-framework's plan for state
rows (facts sheet 2b.3, 2d).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cosmos3_ros.resources import require

torch = require('torch', 'model')


@dataclass(frozen=True)
class SequencePack:
    """Everything about a request that does not change from step to step.

    :param text_length: Tokens of the text.
    :param latent_shape: Frames, height and width of the latents, before patches.
    :param action_rows: Rows, the state included.
    :param fps: Of video and actions.
    :param patch: Latents per patch, each way; odd edges are padded with zeros.
    :param margin: Distance between text and what follows.
    :param base_fps: Frames per second whose distance is one position.
    :param temporal_compression: Video frames per latent frame.
    :param clean_frames: Latent frames that are given; they stand first.
    :param clean_rows: Action rows that are given; they stand first.
    :param first_row: Video frame at which action row 0 stands: 0 for a state, 1 for a transition.
    """

    text_length: int
    latent_shape: tuple[int, int, int]
    action_rows: int
    fps: float = 15.0
    patch: int = 2
    margin: int = 15000
    base_fps: float = 24.0
    temporal_compression: int = 4
    clean_frames: int = 1
    clean_rows: int = 1
    first_row: int = 0

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of patches."""
        frames, height, width = self.latent_shape
        return frames, -(-height // self.patch), -(-width // self.patch)

    @property
    def patches_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.grid[1] * self.grid[2]

    @property
    def vision_tokens(self) -> int:
        """Tokens of the whole video."""
        return self.grid[0] * self.patches_per_frame

    @property
    def clean_tokens(self) -> int:
        """Tokens of the given frames."""
        return self.clean_frames * self.patches_per_frame

    @property
    def generated_tokens(self) -> int:
        """Tokens after the text."""
        return self.vision_tokens + self.action_rows

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return self.text_length + self.generated_tokens

    @cached_property
    def text_positions(self) -> Any:
        """Positions of the text, float32 (3, text)."""
        return torch.arange(self.text_length, dtype=torch.float32).expand(3, -1).contiguous()

    @cached_property
    def generated_positions(self) -> Any:
        """Positions of video and actions, float32 (3, generated)."""
        start = self.text_length + self.margin
        frames, rows, columns = self.grid
        # In the order of diffusers' operations, so that the last bit agrees.
        unit = self.base_fps / self.temporal_compression
        vision_time = torch.arange(frames, dtype=torch.float32) / (
            self.fps / self.temporal_compression) * unit + start
        vision = torch.stack([
            vision_time.repeat_interleave(rows * columns),
            torch.arange(rows, dtype=torch.float32).repeat_interleave(columns).repeat(frames),
            torch.arange(columns, dtype=torch.float32).repeat(frames * rows),
        ])
        frame = torch.arange(self.action_rows, dtype=torch.float32) + self.first_row
        action_time = frame / self.fps * unit + start
        action = torch.stack([action_time, torch.zeros_like(action_time), torch.zeros_like(action_time)])
        return torch.cat([vision, action], dim=1)

    def forward_arguments(self, token_ids: Any, domain_id: int) -> dict[str, Any]:
        """Return the constant arguments of ``Cosmos3OmniTransformer.forward``.

        The first ``clean_frames`` and ``clean_rows`` are clean, the rest is noisy.

        :param token_ids: int64 (text,).
        """
        text, frames = self.text_length, self.grid[0]
        first_action = text + self.vision_tokens
        return {
            'input_ids': token_ids,
            'text_indexes': torch.arange(text),
            'position_ids': torch.cat([self.text_positions, self.generated_positions], dim=1),
            'und_len': text,
            'sequence_length': self.length,
            'vision_token_shapes': [self.grid],
            'vision_sequence_indexes': torch.arange(text, first_action),
            'vision_mse_loss_indexes': torch.arange(text + self.clean_tokens, first_action),
            'vision_noisy_frame_indexes': [torch.arange(self.clean_frames, frames)],
            'action_token_shapes': [(self.action_rows, 1, 1)],
            'action_sequence_indexes': torch.arange(first_action, self.length),
            'action_mse_loss_indexes': torch.arange(first_action + self.clean_rows, self.length),
            'action_noisy_frame_indexes': [torch.arange(self.clean_rows, self.action_rows)],
            'action_domain_ids': [torch.tensor([domain_id])],
        }
