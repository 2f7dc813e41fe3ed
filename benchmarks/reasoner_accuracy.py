"""How right a trained reasoner's answers about held-out clips are, in several processes.

``python benchmarks/reasoner_accuracy.py config/training/tiny.yaml --data DIR --out DIR --clips 500
--device cuda --processes 4 --json``, after ``cosmos3 train --stage reasoner`` with the same file, data and
output. Each clip is asked for its scene report and for one fact of each dimension; ``--held-out 1.0`` takes
all episodes of a dataset that was never trained on. Beside it: the same questions about grey pictures, and
the majority answer to each question. The last line is JSON; ``--log`` keeps every report with the truth.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
import json
from multiprocessing import get_context
from pathlib import Path
import sys
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cosmos3_ros.evaluation.reasoner_metrics import FactAnswer, fact_metrics, read_yes_no, scene_metrics
from cosmos3_ros.reasoner.compiled_backend import CompiledBackend
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.training.clip_samples import YES, Examiner, as_clip
from cosmos3_ros.training.preparation import prepare_clips
from cosmos3_ros.training.settings_file import load_settings, with_datasets

DIMENSIONS = ('Visual Integrity', 'Semantic Alignment', 'Physical Laws', 'Geometric Reasoning')
KNOWN_CLIPS = 2000


def answer_part(options: dict[str, Any], part: int) -> list[dict[str, Any]]:
    """Ask about every ``processes``-th clip, from ``part`` on."""
    settings, recordings, chosen = choose_clips(options)
    examiner = Examiner(PromptBook.load(), settings.reasoner)
    backend = CompiledBackend(
        options['checkpoint'], device=options['device'], threads=1,
        max_clip_pixels=settings.reasoner.frames * settings.reasoner.max_frame_pixels)
    found = []
    try:
        for i in range(part, len(chosen), options['processes']):
            dataset, anchor = chosen[i]
            recording = recordings[dataset]
            clips = [
                as_clip(recording, anchor, slot, settings.reasoner, blank=options['blank'])
                for slot in settings.reasoner.cameras]
            asked = examiner.scene(recording, anchor)
            entry: dict[str, Any] = {
                'report': backend.answer(clips, asked.question).text, 'truth': asked.answer, 'facts': []}
            rng = np.random.default_rng([i, anchor])
            for dimension in DIMENSIONS:
                fact = examiner.draw_fact(recording, anchor, rng, dimension)
                if fact is not None:
                    said = backend.answer(clips, fact.question).text
                    entry['facts'].append([dimension, fact.key, fact.answer, said])
            found.append(entry)
    finally:
        backend.close()
    return found


def choose_clips(options: dict[str, Any]) -> tuple[Any, list[Any], list[tuple[int, int]]]:
    """Return the settings, the recordings and (recording, anchor) of the clips, evenly spread."""
    settings = with_datasets(load_settings(options['file']), options['data'])
    if options['held_out'] < 1.0:
        settings = replace(settings, data=replace(settings.data, held_out=options['held_out']))
    recordings = [
        prepare_clips(entry, settings.reasoner, options['prepared'], settings.data.workers)
        for entry in settings.data.reasoner_datasets]
    every = [
        (k, int(a)) for k, r in enumerate(recordings)
        for a in (np.arange(len(r)) if options['held_out'] >= 1.0
                  else r.anchors(options['held_out'], held_out=True))]
    picked = np.linspace(0, len(every) - 1, min(options['clips'], len(every)))
    return settings, recordings, [every[int(i)] for i in picked]


def known_answers(options: dict[str, Any]) -> list[FactAnswer]:
    """Return questions of clips that were trained on, for the majority answer to each."""
    settings, recordings, _ = choose_clips(options)
    examiner = Examiner(PromptBook.load(), settings.reasoner)
    found = []
    for recording in recordings:
        anchors = (np.arange(len(recording)) if options['held_out'] >= 1.0
                   else recording.anchors(options['held_out'], held_out=False))
        for anchor in anchors[np.linspace(0, len(anchors) - 1, KNOWN_CLIPS).astype(int)]:
            found += [
                FactAnswer(a.dimension, a.key, a.answer == YES, None)
                for a in examiner.facts(recording, int(anchor))]
    return found


def measure(options: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the metrics and every answer."""
    with ProcessPoolExecutor(options['processes'], get_context('spawn')) as pool:
        parts = list(pool.map(
            answer_part, [options] * options['processes'], range(options['processes'])))
    entries = [entry for part in parts for entry in part]
    facts = [
        FactAnswer(dimension, key, truth == YES, read_yes_no(said))
        for entry in entries for dimension, key, truth, said in entry['facts']]
    return {
        **scene_metrics([e['report'] for e in entries], [e['truth'] for e in entries]),
        'facts': fact_metrics(facts, known_answers(options))}, entries


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('file', type=Path)
    parser.add_argument('--data', type=Path, action='append', required=True)
    parser.add_argument('--out', type=Path, required=True, help='the checkpoint; prepared clips beside it')
    parser.add_argument('--clips', type=int, default=500)
    parser.add_argument('--blank-clips', type=int, default=100, help='of grey pictures; 0: none')
    parser.add_argument('--held-out', type=float, default=0.05)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--log', type=Path)
    parser.add_argument('--json', action='store_true', help='nothing but the last line')
    args = parser.parse_args()
    options = {
        'file': args.file, 'data': [str(path) for path in args.data], 'checkpoint': str(args.out),
        'prepared': args.out.with_name(args.out.name + '.run') / 'prepared', 'clips': args.clips,
        'held_out': args.held_out, 'device': args.device, 'processes': args.processes, 'blank': False}
    choose_clips(options)  # prepares the clips once, before several processes want them
    found, entries = {}, []
    found['seen'], entries = measure(options)
    if args.log is not None:
        args.log.write_text(''.join(json.dumps(entry) + '\n' for entry in entries), encoding='utf-8')
    if not args.json:
        sys.stderr.write(json.dumps(found['seen'], indent=1) + '\n')
    if args.blank_clips:
        found['grey_pictures'], _ = measure({**options, 'clips': args.blank_clips, 'blank': True})
    sys.stdout.write(json.dumps(found) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
