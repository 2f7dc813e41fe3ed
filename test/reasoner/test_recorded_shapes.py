"""What is recorded per shape on a GPU, with graphs that replay on the CPU: nothing is recorded late."""

import numpy as np
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.contracts import Clip
from cosmos3_ros.reasoner import ClipBuffer, Reasoner, create_backend
from cosmos3_ros.reasoner.questions import PromptBook

torch = pytest.importorskip('torch', reason='the extra model is not installed')

from cosmos3_ros.reasoner import static_decoder  # noqa: E402
from cosmos3_ros.reasoner.device_graph import REHEARSALS  # noqa: E402


class ReplayedWork:
    """A graph: the work runs at the recording, twice before, and again at each replay."""

    recorded = 0

    def __init__(self, work, _pool):
        type(self).recorded += 1
        self._work = work
        for _ in range(REHEARSALS + 1):
            work()

    def replay(self):
        self._work()


class Letters:
    """Tokens that arrive when they are asked for, not before."""

    def __init__(self, most):
        self._sent = []
        self._most = most

    def send(self, index, token):
        assert index == len(self._sent) < self._most
        self._sent.append(int(token))

    def receive(self, index):
        return self._sent[index]


@pytest.fixture
def graphs(monkeypatch):
    """Let the decoder record and replay as on a GPU."""
    made = static_decoder.StaticDecoder.__init__

    def init(self, *arguments, **options):
        made(self, *arguments, **options)
        self._graphs = True

    ReplayedWork.recorded = 0
    monkeypatch.setattr(static_decoder.StaticDecoder, '__init__', init)
    monkeypatch.setattr(static_decoder, 'DeviceGraph', ReplayedWork)
    monkeypatch.setattr(static_decoder, 'TokenMail', Letters)
    return ReplayedWork


@pytest.mark.parametrize('rate', [0.0, 0.3])
def test_replayed_graphs_write_what_plain_steps_write(micro_checkpoint, graphs, rate):
    replayed = create_backend('compiled', checkpoint=micro_checkpoint, video_pruning_rate=rate)
    plain = create_backend('transformers', checkpoint=micro_checkpoint, video_pruning_rate=rate)
    book = PromptBook.load()
    for seed in range(3):
        clips = [make_clip('wrist', 4, 64, 96, seed=seed), make_clip('exterior_1', 2, 32, 64, seed=seed)]
        for question in (book.ask('free', 40, question='What?'),
                         book.ask('scene_report', 30, instruction='lift', cameras='wrist')):
            assert replayed.answer(clips, question).text == plain.answer(clips, question).text
    # Vision, and per question a prompt and a step: all else was replayed.
    assert graphs.recorded == 5


def test_a_prepared_clip_and_a_prepared_question_record_nothing(micro_checkpoint, graphs):
    backend = create_backend('compiled', checkpoint=micro_checkpoint)
    reasoner = Reasoner(backend, scene_max_new_tokens=20)
    cameras, frames, fps = ('wrist', 'exterior_1'), 4, 4.0
    buffer = ClipBuffer(cameras, horizon_s=2.0, rate_hz=8.0, max_frame_pixels=96 * 128)
    sizes = {'wrist': (90, 160), 'exterior_1': (48, 64)}
    reasoner.prepare([buffer.grey_clip(camera, sizes[camera], fps, frames) for camera in cameras], ('free',))
    prepared = graphs.recorded
    assert prepared > 0
    random = np.random.RandomState(0)
    for index in range(12):
        for camera in cameras:
            image = random.randint(0, 256, (*sizes[camera], 3)).astype(np.uint8)
            buffer.add(camera, index * 125_000_000 + 7, image)
    clips = buffer.take(fps, frames, 12 * 125_000_000)
    assert isinstance(clips[0], Clip) and len(clips[0].frames) == frames
    for instruction in ('', 'lift the cube', 'put the red cube into the drawer'):
        reasoner.report(clips, instruction)
    reasoner.read('free', clips, question='Is the gripper open?')
    assert graphs.recorded == prepared, 'the first clip after activation must not wait for a recording'
    reasoner.report(clips[:1], 'lift the cube')
    assert graphs.recorded > prepared, 'another shape is recorded when it comes'


def test_starting_records_the_usual_clip(micro_checkpoint, graphs, monkeypatch):
    monkeypatch.setattr('cosmos3_ros.reasoner.compiled_backend.USUAL_CLIP', (2, 64, 96))
    backend = create_backend('compiled', checkpoint=micro_checkpoint)
    backend.warm_up()
    prepared = graphs.recorded
    backend.answer([make_clip('warm_up', 2, 64, 96)],
                   PromptBook.load().ask('scene_report', instruction='lift', cameras='warm_up'))
    assert graphs.recorded == prepared
    backend.close()
    assert not backend._decoder
