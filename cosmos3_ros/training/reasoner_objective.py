"""The reasoner's objective: the next token of the true answer, given clips and question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reasoner.questions import Question
from ..reasoner.video_prompt import VideoPrompt, VideoSettings, build_prompt
from ..reasoner.vision_tower import VisionTower
from ..resources import require
from .clip_samples import ClipRecording, Examiner, as_clip
from .device_frames import DeviceFrames
from .grounding import GroundingHead, Targets
from .objective import Batch
from .picture_crops import Crop, crop_frames, crop_report, draw_crop
from .settings import ReasonerSettings, TrainingError

torch = require('torch', 'model')
_STREAM = 2
_MEMORY_SHARE = 0.25  # per camera, of what the others left free
IGNORED = -100  # torch's cross entropy leaves such targets out
_LENGTH_STEP = 128
"""Sequences are padded to multiples of this: compiled layers then see few different shapes."""
_MOST_ANSWERS = 200_000
_FACT_CROP = 0.25
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


@dataclass(frozen=True, slots=True, eq=False)
class PromptIds:
    """A question's prompt, whose videos have the sizes of all clips.

    :param ids: int64 (N,).
    :param positions: int64 (3, N) rotary positions.
    :param next_position: Of the answer's first token.
    """

    ids: Any
    positions: Any
    next_position: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


class ReasonerObjective(torch.nn.Module):  # type: ignore[misc, name-defined]
    """See the module.

    :param model: ``Cosmos3OmniForConditionalGeneration`` on its device.
    :param recordings: One per dataset.
    :param anchors: Kept frames at which clips end, per dataset; a draw's sample is an index into them.
    :param video: How frames become patches.
    :param seed: Of the questions and crops.
    :param held_out: As ``anchors``, for :meth:`measure`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, recordings: Sequence[ClipRecording],
        anchors: Sequence[NDArray[np.int64]], examiner: Examiner, video: VideoSettings,
        settings: ReasonerSettings, seed: int, held_out: Sequence[NDArray[np.int64]] = (),
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(True)
        # Added after a layer each; those without a layer are never read, and several processes would wait for
        # their gradients.
        layers = len(model.model.language_model.layers)
        model.model.visual.deepstack_merger_list[layers:].requires_grad_(False)
        self._tokenizer, self._recordings = tokenizer, tuple(recordings)
        self._anchors, self._held_out = tuple(anchors), tuple(held_out)
        self._examiner, self._video, self._settings, self._seed = examiner, video, settings, seed
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
        self._prompts: dict[str, PromptIds] = {}
        self._answers: dict[str, Any] = {}
        sizes = {tuple(r.pictures[s].shape[1:3] for s in settings.cameras) for r in recordings}
        if len(sizes) != 1:
            raise TrainingError(
                f'reasoner: datasets with pictures of different sizes arrived: {sorted(sizes)}; train on one')

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

    def forward(self, batch: Batch) -> dict[str, Any]:
        """Return the mean cross entropy over the answers' tokens, facts' weighed, and how many are right."""
        return self._ask(batch, self._anchors, self._settings.smallest_crop)

    def measure(self, batch: Batch) -> dict[str, Any]:
        """Return the same for held-out clips, whose pictures are never cropped."""
        return self._ask(batch, self._held_out, 1.0)

    def _ask(
        self, batch: Batch, choices: Sequence[NDArray[np.int64]], smallest_crop: float,
    ) -> dict[str, Any]:
        asked, anchors, crops, reports = [], [], [], []
        first = self._settings.cameras[0]
        for i, (dataset, sample) in enumerate(batch.draws):
            rng = np.random.default_rng([self._seed, _STREAM, batch.step, batch.part, i])
            anchor = int(choices[dataset][sample])
            question = self._examiner.draw(self._recordings[dataset], anchor, rng)
            report = self._recordings[dataset].reports[anchor]
            anchors.append((dataset, anchor))
            if smallest_crop < 1.0:
                smallest = 1.0 - (1.0 - smallest_crop) * (_FACT_CROP if question.dimension else 1.0)
                crops.append({slot: draw_crop(smallest, rng) for slot in self._settings.cameras})
                report = crop_report(report, crops[-1][first])
            asked.append(question if question.dimension else replace(question, answer=report))
            reports.append(report)
        prompts = [self.prompt_ids(a.question, *anchors[0]) for a in asked]
        # Reports of cropped pictures do not come twice.
        answers = [self.answer_ids(a.answer, keep=bool(a.dimension) or not crops) for a in asked]
        weights = [self._settings.fact_weight if a.dimension else 1.0 for a in asked]
        return self.losses(prompts, answers, anchors, weights, crops, reports)

    def losses(
        self, prompts: Sequence[PromptIds], answers: Sequence[Any], anchors: Sequence[tuple[int, int]],
        weights: Sequence[float], crops: Sequence[dict[str, Crop]] = (), reports: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return the losses of given answers to given prompts about given clips.

        :param answers: int64 (tokens,) each.
        :param weights: Of each answer's tokens; the loss is their weighted mean.
        :param crops: Windows of each clip's pictures, one per camera; none: all is shown.
        :param reports: What is true about the clips as they are shown, for the grounding; none: without it.
        """
        device = self.model.lm_head.weight.device
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        longest = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        count = len(prompts)
        ids = torch.zeros((count, longest), dtype=torch.int64)
        targets = torch.full((count, longest), IGNORED)
        positions = torch.zeros((3, count, longest), dtype=torch.int64)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            start, end = len(prompt), len(prompt) + len(answer)
            ids[i, :start], ids[i, start:end] = prompt.ids, answer
            targets[i, start - 1:end - 1] = answer
            positions[:, i, :start] = prompt.positions
            positions[:, i, start:end] = prompt.next_position + torch.arange(len(answer))
        # Found on the host, so that nothing waits for the device.
        places = torch.nonzero(targets.flatten() != IGNORED)[:, 0]
        wanted = targets.flatten()[places].to(device)
        weight = torch.tensor(weights, dtype=torch.float32)[places // longest]
        weight = (weight / weight.sum()).to(device)
        ids, positions, places = (t.to(device) for t in (ids, positions, places))
        # Padding stands after every answer, so causality alone hides it: no mask is needed.
        features, levels = self._encode(anchors, crops)
        hidden = self._run(ids, positions, features, levels)
        logits = self.model.lm_head(hidden.flatten(0, 1).index_select(0, places)).float()
        loss = (torch.nn.functional.cross_entropy(logits, wanted, reduction='none') * weight).sum()
        right = (logits.argmax(dim=-1) == wanted).float().mean()
        found = {'loss': loss, 'token_accuracy': right}
        if self._grounding is not None and reports:
            found |= self._ground(features.view(count, -1, features.shape[-1]), reports)
            found['loss'] = loss + self._settings.grounding_weight * found['grounding_loss']
        return found

    def _ground(self, features: Any, reports: Sequence[str]) -> dict[str, Any]:
        """Ask the first camera's last pictures for what the reports say of them."""
        height, width = self._recordings[0].pictures[self._settings.cameras[0]].shape[1:3]
        side = self._video.patch_size * self._video.merge_size
        rows, columns = height // side, width // side
        pairs = self._settings.frames // self._video.temporal_patch_size
        shown = features[:, (pairs - 1) * rows * columns:pairs * rows * columns]
        targets = Targets.of(reports, rows, columns).to(features.device)
        found: dict[str, Any] = self._grounding(shown, targets)
        return found

    def _run(self, ids: Any, positions: Any, features: Any, levels: Sequence[Any]) -> Any:
        """Return the language model's last hidden states, (batch, N, hidden)."""
        model = self.model.model
        embedded = model.get_input_embeddings()(ids)
        visual = ids == self.model.config.video_token_id
        embedded = embedded.masked_scatter(visual[..., None], features.to(embedded.dtype))
        return model.language_model(
            inputs_embeds=embedded, position_ids=positions, attention_mask=None, use_cache=False,
            visual_pos_masks=visual,
            deepstack_visual_embeds=[level.to(embedded.dtype) for level in levels]).last_hidden_state

    def _encode(
        self, anchors: Sequence[tuple[int, int]], crops: Sequence[dict[str, Crop]],
    ) -> tuple[Any, list[Any]]:
        """Return vision features and deepstack levels, sample by sample, cameras in their order."""
        pixels, grids = [], []
        for slot in self._settings.cameras:
            rows = [self._recordings[d].clip_rows(a, self._settings.frames) for d, a in anchors]
            if len({d for d, _ in anchors}) == 1:
                frames = self._frames[anchors[0][0]][slot].take(np.stack(rows))
            else:
                frames = torch.stack([
                    self._frames[d][slot].take(r) for (d, _), r in zip(anchors, rows, strict=True)])
            if crops:
                frames = crop_frames(frames, [windows[slot] for windows in crops])
            patches, grid = batch_patches(frames, self._video)
            pixels.append(patches)
            grids.append((len(anchors) * grid[0], grid[1], grid[2]))
        merged, levels = self._tower.encode(
            torch.cat(pixels).to(self.model.dtype), self._tower.tables(tuple(grids)))
        counts = self._tower.tokens(tuple(grids))

        def by_sample(states: Any) -> Any:
            parts = [part.unflatten(0, (len(anchors), -1)) for part in states.split(counts)]
            return torch.cat(parts, dim=1).flatten(0, 1)

        return by_sample(merged), [by_sample(level) for level in levels]

    def prompt_ids(self, question: Question, dataset: int, anchor: int) -> PromptIds:
        """Return a question's prompt; all clips have the same size and times, so any one will do."""
        if question.text not in self._prompts:
            clips = [as_clip(self._recordings[dataset], anchor, slot, self._settings)
                     for slot in self._settings.cameras]
            prompt = build_prompt(self._tokenizer, clips, question, self._video)
            self._check_sizes(prompt)
            positions, _ = self.model.model.get_rope_index(
                prompt.input_ids, prompt.mm_token_type_ids, video_grid_thw=prompt.video_grid_thw)
            self._prompts[question.text] = PromptIds(
                prompt.input_ids[0].clone(), positions[:, 0], int(positions.max()) + 1)
        return self._prompts[question.text]

    def _check_sizes(self, prompt: VideoPrompt) -> None:
        sizes = [self._recordings[0].pictures[slot].shape[1:3] for slot in self._settings.cameras]
        wanted = [[self._settings.frames // self._video.temporal_patch_size, *(
            side // self._video.patch_size for side in size)] for size in sizes]
        if prompt.video_grid_thw.tolist() != wanted:
            raise TrainingError(
                f'reasoner: clips of {self._settings.frames} frames of {sizes} arrived, which the video '
                f'prompt scales to {prompt.video_grid_thw.tolist()} patches; sides must be multiples of 32 '
                f'and clips of {self._video.min_clip_pixels} to {self._video.max_clip_pixels} pixels. Change '
                'max_frame_pixels')

    def answer_ids(self, text: str, *, keep: bool = True) -> Any:
        """Return an answer's tokens, the end of the turn included, int64 (tokens,).

        :param keep: For the next time that the same text is asked for.
        """
        known = self._answers.get(text)
        if known is None:
            ids = self._tokenizer(text, add_special_tokens=False)['input_ids']
            known = torch.tensor([*ids, self._tokenizer.eos_token_id])
            if keep:
                if len(self._answers) >= _MOST_ANSWERS:
                    self._answers.clear()
                self._answers[text] = known
        return known


def batch_patches(frames: Any, settings: VideoSettings) -> tuple[Any, tuple[int, int, int]]:
    """Return patches of many clips of one size and one clip's grid; see :func:`video_prompt.patch_clip`.

    :param frames: uint8 or float, 0..255, (clips, T, H, W, 3), sides multiples of 32.
    """
    pair, patch, merge = settings.temporal_patch_size, settings.patch_size, settings.merge_size
    mean = torch.tensor(settings.image_mean, device=frames.device).view(3, 1, 1) * 255.0
    std = torch.tensor(settings.image_std, device=frames.device).view(3, 1, 1) * 255.0
    values = (frames.permute(0, 1, 4, 2, 3).float() - mean) / std
    clips, count, _, height, width = values.shape
    t, h, w = count // pair, height // patch, width // patch
    blocks = values.view(clips * t, pair, 3, h // merge, merge, patch, w // merge, merge, patch)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(clips * t * h * w, -1), (t, h, w)
