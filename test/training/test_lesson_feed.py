"""Lessons made ahead are those that the training process would have made itself."""

from dataclasses import fields, replace
import itertools
import multiprocessing
import pickle
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from synthetic_clips import SETTINGS, make_clips
import torch

from cosmos3_ros.reasoner.model_loading import load_model
from cosmos3_ros.reasoner.questions import PromptBook
from cosmos3_ros.reasoner.video_prompt import VideoSettings
from cosmos3_ros.training.clip_samples import Examiner
from cosmos3_ros.training.lesson_feed import LessonFeed, explained
from cosmos3_ros.training.objective import Batch
from cosmos3_ros.training.reasoner_objective import ReasonerObjective
from cosmos3_ros.training.settings import TrainingError
from cosmos3_ros.training.training_loop import TrainingLoop
from cosmos3_ros.training.training_run import make_accelerator

CHOSEN = replace(SETTINGS, facts_per_clip=2, grounding_weight=0.5, smallest_crop=0.5)


@pytest.fixture
def make_objective(micro_directory):
    torch.set_num_threads(1)

    def make(settings=CHOSEN, clips=None):
        model, tokenizer = load_model(micro_directory, torch.float32, 'cpu')
        clips = clips or make_clips()
        return ReasonerObjective(
            model, tokenizer, [clips], [clips.anchors(0.3, held_out=False)],
            Examiner(PromptBook.load(), settings), VideoSettings.load(micro_directory, 2 * 4096), settings, 1)
    return make


KILLED = '''
import itertools, multiprocessing, pathlib, pickle, time
from cosmos3_ros.training.lesson_feed import LessonFeed
from cosmos3_ros.training.objective import Batch

if __name__ == '__main__':
    maker, anchors = pickle.loads((pathlib.Path('{directory}') / 'maker.pickle').read_bytes())
    feed = LessonFeed(maker, anchors, 1.0, itertools.repeat({batch}), workers=2)
    feed.take({batch})
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(600.0)
'''


def batches(size=4):
    for step in itertools.count():
        for part in range(2):
            yield Batch(step, part, tuple((0, (step + part + i) % 8) for i in range(size)))


def assert_same(one, other):
    shown = [replace(lesson, things={}, asked=()) for lesson in other.lessons]
    assert repr(list(one.lessons)) == repr(shown)
    for name in ('questions', 'targets'):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.keys() == theirs.keys()
        for key, record in mine.items():
            for field in fields(record):
                a, b = getattr(record, field.name), getattr(theirs[key], field.name)
                same = torch.equal(a, b) and a.dtype == b.dtype if hasattr(a, 'dtype') else a == b
                assert same, field.name


def test_they_are_the_same_and_in_order(make_objective):
    objective = make_objective()
    feed = LessonFeed(objective._maker, objective._anchors, 0.5, batches(), workers=2)
    try:
        for batch in itertools.islice(batches(), 30):
            assert_same(feed.take(batch), objective._maker.make(batch, objective._anchors, 0.5))
        with pytest.raises(ValueError, match=r'step 99, part 0 arrived, step 15, part 0 is next'):
            feed.take(Batch(99, 0, ()))
    finally:
        feed.close()


def test_what_ends_ends_and_what_fails_says_why(make_objective):
    objective = make_objective()
    good = next(batches())
    feed = LessonFeed(
        objective._maker, objective._anchors, 1.0, iter([good, Batch(1, 0, ((0, 10_000),))]), workers=1)
    try:
        assert len(feed.take(good).lessons) == 4
        with pytest.raises(IndexError, match='10000'):
            feed.take(Batch(1, 0, ((0, 10_000),)))
        with pytest.raises(ValueError, match='step 2 arrived after the last one'):
            feed.take(Batch(2, 0, ()))
    finally:
        feed.close()
    with pytest.raises(ValueError, match='closed'):
        feed.take(good)


def test_a_process_that_ends_is_told(make_objective):
    objective = make_objective()
    feed = LessonFeed(objective._maker, objective._anchors, 0.5, batches(), workers=1)
    try:
        feed.take(next(batches()))
        worker, = multiprocessing.active_children()
        with pytest.raises(TrainingError, match=r'lesson_workers: a process .* has ended'), explained():
            worker.kill()  # torch may say so before it is asked
            for batch in itertools.islice(batches(), 1, 20):
                feed.take(batch)
    finally:
        feed.close()


def test_none_is_left_when_the_training_process_is_killed(make_objective, tmp_path):
    objective = make_objective()
    (tmp_path / 'maker.pickle').write_bytes(pickle.dumps((objective._maker, objective._anchors)))
    script = tmp_path / 'feeds.py'
    script.write_text(KILLED.format(directory=str(tmp_path), batch=next(batches())))
    running = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        workers = [psutil.Process(int(pid)) for pid in running.stdout.readline().split()]
        assert len(workers) == 2 and all(worker.is_running() for worker in workers)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_neither_pictures_nor_weights_travel(make_objective):
    clips = make_clips()
    large = {slot: np.broadcast_to(pictures[:1], (len(clips), *pictures.shape[1:])).copy()
             for slot, pictures in clips.pictures.items()}
    objective = make_objective(clips=replace(clips, pictures=large))
    maker = objective._maker
    assert all(len(p) == 1 for r in maker.plan._recordings for p in r.pictures.values())
    assert all(p.is_meta for p in maker.tokens._positions.parameters())
    weights = sum(p.nbytes for p in objective.model.parameters())
    assert len(pickle.dumps(maker)) < 0.5 * weights


def test_a_loop_trains_the_same_with_them(make_objective, tmp_path, monkeypatch):
    """Also from the middle: the first lessons made are then those of the step that it goes on with."""
    from cosmos3_ros.training.settings import RunSettings

    run = RunSettings(autocast='none', log_every=1)
    optimiser = replace(SETTINGS.optimiser, steps=6, batch=4, micro_batch=2)
    weights, taken, take = [], [], LessonFeed.take

    def remember(feed, batch):
        taken.append((batch.step, batch.part))
        return take(feed, batch)
    monkeypatch.setattr(LessonFeed, 'take', remember)
    for workers in (0, 2):
        settings = replace(CHOSEN, lesson_workers=workers, optimiser=optimiser)
        pieces, directory = [], tmp_path / str(workers)
        directory.mkdir()
        for piece in range(2):
            objective = make_objective(settings)
            loop = TrainingLoop(
                'reasoner', objective, lambda step: tuple((0, (3 * step + i) % 8) for i in range(4)),
                optimiser, run, make_accelerator(None, 'cpu'), directory, 'x')
            assert loop.resume() == bool(piece)
            left = iter([float('inf')] * 3 + [0.0] * 99) if piece == 0 else itertools.repeat(float('inf'))
            pieces.append(loop.run(lambda left=left: next(left)))
            assert objective._feed is None and not multiprocessing.active_children()
        assert [piece.done for piece in pieces] == [False, True] and 0 < pieces[0].steps < 6
        assert taken == [(step, part) for step in range(6) for part in range(2)] * bool(workers)
        weights.append({name: p.detach().clone() for name, p in objective.trained().items()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize('workers', [-1, 65])
def test_a_number_of_workers_outside_its_range_is_refused(workers):
    with pytest.raises(TrainingError, match=f'lesson_workers: {workers} arrived'):
        replace(SETTINGS, lesson_workers=workers)
