"""The reasoner's objective: the next token of the true answers, given clips and questions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.device_transfer import send
from ..reasoner.video_prompt import VideoSettings
from ..reasoner.vision_tower import VisionTower
from ..resources import require
from . import prefix_attention
from .clip_lessons import Lesson
from .clip_samples import ClipRecording, Examiner
from .device_frames import DeviceFrames
from .grounding import GroundingHead, Targets
from .kept_contexts import KeptContexts
from .lesson_feed import LessonFeed, explained
from .lesson_maker import LessonBatch, LessonMaker
from .objective import Batch
from .picture_crops import crop_frames
from .question_tokens import Sequences
from .settings import ReasonerSettings, TrainingError

torch = require('torch', 'model')
_MEMORY_SHARE = 0.25  # per camera, of what the others left free
GROUNDING_PREFIX = 'grounding.'
"""Of what is trained beside the model and is no part of a checkpoint."""

# The unified checkpoint's names (transformers' conversion mapping of ``cosmos3_omni``, the other way round).
_RENAMES = (
    (re.compile(r'^model\.language_model\.'), ''), (re.compile(r'^model\.visual\.'), ''),
    (re.compile(r'\.self_attn\.([qkv])_proj\.'), r'.self_attn.to_\1.'),
    (re.compile(r'\.self_attn\.o_proj\.'), '.self_attn.to_out.'),
    (re.compile(r'\.self_attn\.([qk])_norm\.'), r'.self_attn.norm_\1.'))


def checkpoint_name(name: str) -> str:
    """Return the name of a parameter of ``Cosmos3OmniForConditionalGeneration`` in the checkpoint's files."""
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


class ReasonerObjective(torch.nn.Module):  # type: ignore[misc, name-defined]
    """See the module.

    :param model: ``Cosmos3OmniForConditionalGeneration`` on its device.
    :param recordings: One per dataset.
    :param anchors: Kept frames at which clips end, per dataset; a draw's sample is an index into them.
    :param video: How frames become patches.
    :param seed: Of the questions and crops.
    :param held_out: As ``anchors``, for :meth:`measure`.
    :param texts: Token ids of the policy's prompts, for ``context_weight``.
    """

    def __init__(
        self, model: Any, tokenizer: Any, recordings: Sequence[ClipRecording],
        anchors: Sequence[NDArray[np.int64]], examiner: Examiner, video: VideoSettings,
        settings: ReasonerSettings, seed: int, held_out: Sequence[NDArray[np.int64]] = (),
        texts: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        sizes = {tuple(r.pictures[s].shape[1:3] for s in settings.cameras) for r in recordings}
        if len(sizes) != 1:
            raise TrainingError(
                f'reasoner: datasets with pictures of different sizes arrived: {sorted(sizes)}; train on one')
        self.model = model.requires_grad_(True)
        # Added after a layer each; those without a layer are never read, and several processes would wait for
        # their gradients.
        layers = len(model.model.language_model.layers)
        model.model.visual.deepstack_merger_list[layers:].requires_grad_(False)
        self._recordings, self._anchors, self._held_out = tuple(recordings), tuple(anchors), tuple(held_out)
        self._video, self._settings = video, settings
        self._maker = LessonMaker(model, tokenizer, recordings, examiner, video, settings, seed)
        self._feed: LessonFeed | None = None
        prefix_attention.use(model.model.language_model)
        self._tower = VisionTower(model)
        device = model.lm_head.weight.device
        self._frames = [
            {slot: DeviceFrames(r.pictures[slot], device, _MEMORY_SHARE) for slot in settings.cameras}
            for r in recordings]
        self._grounding: Any = None
        if settings.grounding_weight:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._grounding = GroundingHead(model.lm_head.in_features).to(device)
        self._kept = KeptContexts(
            model.model.language_model, texts, seed) if settings.context_weight else None

    def trained(self) -> dict[str, Any]:
        """See :class:`objective.Objective`."""
        named = {checkpoint_name(name): p for name, p in self.model.named_parameters() if p.requires_grad}
        if self._grounding is not None:
            named |= {GROUNDING_PREFIX + name: p for name, p in self._grounding.named_parameters()}
        return named

    def compile_layers(self) -> None:
        """See :class:`objective.Objective`: both towers' layers, each kind sharing its graphs."""
        for layer in self.model.model.language_model.layers:
            layer.compile()
        self._tower.compile_blocks()

    def learning_rate_factor(self, name: str) -> float:  # noqa: ARG002 (all alike)
        """See :class:`objective.Objective`."""
        return 1.0

    @contextmanager
    def ahead(self, coming: Iterator[Batch]) -> Iterator[None]:
        """Make the lessons of coming batches ahead, if ``lesson_workers`` says so.

        :param coming: What :meth:`forward` will be called with, in that order.
        :raises TrainingError: One of their processes has ended.
        """
        settings = self._settings
        if not settings.lesson_workers:
            yield
            return
        self._feed = LessonFeed(
            self._maker, self._anchors, settings.smallest_crop, coming, settings.lesson_workers)
        try:
            with explained():
                yield
        finally:
            self._feed.close()
            self._feed = None

    def forward(self, batch: Batch) -> dict[str, Any]:
        """Return the loss of a batch (answers, grounding, kept contexts), its parts, and what is right."""
        found = self.losses(
            self._maker.make(batch, self._anchors, self._settings.smallest_crop) if self._feed is None
            else self._feed.take(batch))
        if self._kept is None:
            return found
        squares = self._kept.measure(batch.step, batch.part)
        return found | {
            'loss': found['loss'] + self._settings.context_weight * squares,
            'context_error': squares.detach().sqrt()}

    def measure(self, batch: Batch) -> dict[str, Any]:
        """Return the same for held-out clips, whose pictures are never cropped; no text is held out."""
        return self.losses(self._maker.make(batch, self._held_out, 1.0))

    def losses(self, made: LessonBatch) -> dict[str, Any]:
        """Return the losses of lessons, and what share of reports' tokens and of facts is right."""
        # Everything is on its way to the device before its first long work begins.
        device = self.model.lm_head.weight.device
        made = made.change(lambda tensor: send(tensor, device))
        lessons, batches, targets = made.lessons, made.questions, made.targets
        features, levels = self._encode(lessons)
        loss, weights, found = 0.0, 0.0, {}
        for kind, sequences in batches.items():
            weight = self._settings.fact_weight if kind == 'fact' else 1.0
            total, right = self._answer(sequences, features, levels)
            loss, weights = loss + weight * total, weights + weight * len(sequences.wanted)
            if kind == 'fact':  # by its first token: "Yes" is three with its end, "No" two
                found['fact_accuracy'] = right.index_select(0, sequences.firsts).mean()
            else:
                found['report_token_accuracy'] = right.mean()
        found['loss'] = loss / weights
        if self._grounding is not None:
            found |= self._ground(features, targets)
            found['loss'] = found['loss'] + self._settings.grounding_weight * found['grounding_loss']
        return found

    def _answer(self, sequences: Sequences, features: Any, levels: Sequence[Any]) -> tuple[Any, Any]:
        """Return the sum of the answers' cross entropies, and 1 for each token that is right, else 0."""
        hidden = self._read(sequences, features, levels)
        logits = self.model.lm_head(hidden.flatten(0, 1).index_select(0, sequences.places)).float()
        total = torch.nn.functional.cross_entropy(logits, sequences.wanted, reduction='sum')
        return total, (logits.argmax(dim=-1) == sequences.wanted).float()

    def _read(self, sequences: Sequences, features: Any, levels: Sequence[Any]) -> Any:
        """Return the language model's last states, (S, N, width).

        As ``Qwen3VLTextModel.forward`` does it, with places of features instead of masks: a mask's number of
        ones has to be asked of the device, which stops the host a dozen times in every step.
        """
        model = self.model.model.language_model
        embedded = model.embed_tokens(sequences.ids)

        def shown(states: Any) -> Any:
            return states.index_select(0, sequences.owners).flatten(0, 1).to(embedded.dtype)

        hidden = embedded.flatten(0, 1).index_copy(0, sequences.visual, shown(features)).view_as(embedded)
        turns = model.rotary_emb(hidden, sequences.positions)
        # Padding stands after every answer, so causality alone hides it: where each sequence has one question
        # no mask is needed.
        mask = sequences.mask()
        # Left out where it is 0: what takes two values is compiled for any.
        options = {'shared': sequences.shared} if sequences.shared else {}
        for i, layer in enumerate(model.layers):
            hidden = layer(hidden, position_embeddings=turns, attention_mask=mask, **options)
            if i < len(levels):
                hidden = hidden.flatten(0, 1).index_add(
                    0, sequences.visual, shown(levels[i]).to(hidden.dtype)).view_as(embedded)
        return model.norm(hidden)

    def _ground(self, features: Any, targets: Mapping[str, Targets]) -> dict[str, Any]:
        """Ask each camera's last pictures for what is in them; return means over the cameras."""
        pairs = self._settings.frames // self._video.temporal_patch_size
        sums: dict[str, Any] = {}
        start = 0
        for slot, (rows, columns) in self._maker.grids.items():
            end = start + pairs * rows * columns
            found = self._grounding(features[:, end - rows * columns:end], targets[slot])
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value / len(targets)
            start = end
        return sums

    def _encode(self, lessons: Sequence[Lesson]) -> tuple[Any, list[Any]]:
        """Return vision features and deepstack levels, (clips, features, width), cameras in their order."""
        pixels, grids = [], []
        anchors, count = [(lesson.dataset, lesson.anchor) for lesson in lessons], len(lessons)
        for slot in self._settings.cameras:
            rows = [self._recordings[d].clip_rows(a, self._settings.frames) for d, a in anchors]
            if len({d for d, _ in anchors}) == 1:
                frames = self._frames[anchors[0][0]][slot].take(np.stack(rows))
            else:
                frames = torch.stack([
                    self._frames[d][slot].take(r) for (d, _), r in zip(anchors, rows, strict=True)])
            if not all(lesson.is_whole for lesson in lessons):
                frames = crop_frames(frames, [lesson.crops[slot] for lesson in lessons])
            patches, grid = batch_patches(frames, self._video)
            pixels.append(patches)
            grids.append((count * grid[0], grid[1], grid[2]))
        merged, levels = self._tower.encode(
            torch.cat(pixels).to(self.model.dtype), self._tower.tables(tuple(grids)))
        tokens = self._tower.tokens(tuple(grids))

        def by_clip(states: Any) -> Any:
            return torch.cat([part.unflatten(0, (count, -1)) for part in states.split(tokens)], dim=1)

        return by_clip(merged), [by_clip(level) for level in levels]


def batch_patches(frames: Any, settings: VideoSettings) -> tuple[Any, tuple[int, int, int]]:
    """Return patches of many clips of one size and one clip's grid; see :func:`video_prompt.patch_clip`.

    :param frames: uint8 or float, 0..255, (clips, T, H, W, 3), sides multiples of 32.
    """
    pair, patch, merge = settings.temporal_patch_size, settings.patch_size, settings.merge_size
    mean, std = (send(torch.tensor(numbers).view(3, 1, 1) * 255.0, frames.device)
                 for numbers in (settings.image_mean, settings.image_std))
    values = (frames.permute(0, 1, 4, 2, 3).float() - mean) / std
    clips, count, _, height, width = values.shape
    t, h, w = count // pair, height // patch, width // patch
    blocks = values.view(clips * t, pair, 3, h // merge, merge, patch, w // merge, merge, patch)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(clips * t * h * w, -1), (t, h, w)
