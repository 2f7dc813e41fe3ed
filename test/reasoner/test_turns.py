"""Two answers under way together: order of turns, deadlines, and answers that do not mix."""

import threading

from openai_server import OpenAIServer
import pytest
from reasoner_fakes import make_clip

from cosmos3_ros.contracts import ContractError
from cosmos3_ros.reasoner import BackendError, Deadline, PromptBook, Reasoner, create_backend
from cosmos3_ros.reasoner.questions import Question
from cosmos3_ros.reasoner.turns import Turns

CLIPS = [make_clip('wrist', 4, 64, 96), make_clip('exterior_1', 2, 64, 64, seed=1)]
LOCAL = ('transformers', 'compiled')


def wait_until_somebody_waits(turns):
    while not turns.wanted:
        threading.Event().wait(0.001)


def test_turns_are_served_in_the_order_of_arrival():
    turns, served, threads = Turns(), [], []

    def work(number):
        with turns:
            served.append(number)

    with turns:
        for number in range(5):
            thread = threading.Thread(target=work, args=(number,))
            thread.start()
            while turns._next_ticket < number + 2:
                threading.Event().wait(0.001)
            threads.append(thread)
    for thread in threads:
        thread.join(40)
    assert served == [0, 1, 2, 3, 4]


def test_giving_way_lets_a_waiting_one_in_and_comes_back():
    turns, seen = Turns(), []

    def other():
        for _ in range(3):
            with turns:
                seen.append('other')

    thread = threading.Thread(target=other)
    with turns:
        turns.give_way()  # nobody waits: nothing happens
        thread.start()
        for _ in range(3):
            wait_until_somebody_waits(turns)
            seen.append('own')
            turns.give_way()
    thread.join(40)
    # A plain lock would let its holder take it again at once, over and over.
    assert seen == ['own', 'other'] * 3


def test_a_deadline_passes_or_is_given_up():
    now = [100.0]
    deadline = Deadline(2.0, lambda: now[0])
    assert not deadline.over and deadline.left_s() == 2.0
    now[0] = 101.5
    assert deadline.left_s() == 0.5
    now[0] = 102.0
    assert deadline.over and deadline.left_s() == 0.0
    early = Deadline(2.0, lambda: now[0])
    early.give_up()
    assert early.over and early.left_s() == 0.0
    for wrong in (0.0, -1.0, float('nan'), float('inf')):
        with pytest.raises(ContractError, match='limit_s'):
            Deadline(wrong)


@pytest.mark.parametrize('rate', [0.0, 0.4])
@pytest.mark.parametrize('name', LOCAL)
def test_a_long_answer_and_reports_take_turns_and_do_not_mix(micro_checkpoint, name, rate):
    backend = create_backend(name, checkpoint=micro_checkpoint, video_pruning_rate=rate)
    scene = PromptBook.load().ask('scene_report', 24, instruction='lift the cube', cameras='wrist')
    free = Question('free', '', 'What is this?', 'text', 120)
    alone = {kind: backend.answer(CLIPS, kind).text for kind in (scene, free)}
    written, reports = [], []
    give_way = backend._give_way

    def count():
        written.append(threading.current_thread().name)
        give_way()

    backend._give_way = count
    asking = threading.Thread(
        target=lambda: reports.append(backend.answer(CLIPS, free).text), name='free')
    with backend._turns:
        asking.start()
        wait_until_somebody_waits(backend._turns)
    for _ in range(2):
        assert backend.answer(CLIPS, scene).text == alone[scene]
    asking.join(40)
    assert reports == [alone[free]], 'the caches of two answers must not mix'
    main = threading.current_thread().name
    first, last = written.index(main), len(written) - written[::-1].index(main)
    # Both wrote at the same time: neither waited for the other's end.
    assert 'free' in written[first:last] and written.count('free') == 119
    backend.close()


@pytest.mark.parametrize('rate', [0.0, 0.4])
def test_a_long_answer_and_reports_do_not_mix_on_a_gpu(micro_checkpoint, rate):
    torch = pytest.importorskip('torch', reason='the extra model is not installed')
    if not torch.cuda.is_available():
        pytest.skip('this needs an NVIDIA GPU')
    backend = create_backend(
        'compiled', checkpoint=micro_checkpoint, device='cuda', video_pruning_rate=rate)
    scene = PromptBook.load().ask('scene_report', 24, instruction='lift the cube', cameras='wrist')
    free = Question('free', '', 'What is this?', 'text', 120)
    alone = {kind: backend.answer(CLIPS, kind).text for kind in (scene, free)}
    answers = []
    asking = threading.Thread(
        target=lambda: answers.extend(backend.answer(CLIPS, free).text for _ in range(5)))
    asking.start()
    reports = [backend.answer(CLIPS, scene).text for _ in range(20)]
    asking.join(40)
    assert answers == [alone[free]] * 5 and reports == [alone[scene]] * 20
    backend.close()


@pytest.mark.parametrize('name', LOCAL)
def test_an_answer_ends_at_its_deadline_with_what_is_written(micro_checkpoint, name):
    backend = create_backend(name, checkpoint=micro_checkpoint)
    ticks = iter(range(10_000))
    deadline = Deadline(8.5, lambda: next(ticks))  # every look at the clock takes a second
    answer = backend.answer(CLIPS, PromptBook.load().ask('free', question='What?'), deadline)
    assert answer.finish == 'late' and answer.generated_tokens == 9
    _, again = Reasoner(backend).read('free', CLIPS, question='What?', deadline=Deadline(40.0))
    assert again.finish != 'late' and again.text.startswith(answer.text)
    backend.close()


@pytest.mark.parametrize('name', LOCAL)
def test_closing_ends_an_answer_under_way(micro_checkpoint, name):
    backend = create_backend(name, checkpoint=micro_checkpoint)
    failed, begun = [], threading.Event()
    give_way = backend._give_way

    def note():
        begun.set()
        give_way()

    def ask():
        try:
            backend.answer(CLIPS, Question('free', '', 'What?', 'text', 5000))
        except BackendError as error:
            failed.append(str(error))

    backend._give_way = note
    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(40)
    backend.close()
    asking.join(40)
    assert failed == ['the backend is closed']


def test_a_stalled_question_does_not_hold_up_a_servers_reports():
    server = OpenAIServer(lambda number: 'stall' if number == 0 else 'ok')
    try:
        backend = create_backend('openai', base_url=server.base_url, timeout_s=30.0, request_timeout_s=30.0)
        backend.warm_up()
        failed = []

        def ask():
            try:
                Reasoner(backend).read('free', CLIPS, question='What?', deadline=Deadline(1.5))
            except BackendError as error:
                failed.append(str(error))

        asking = threading.Thread(target=ask)
        asking.start()
        while not server.requests:
            threading.Event().wait(0.001)
        for _ in range(3):
            assert Reasoner(backend).report(CLIPS, 'lift').parsed
        assert not failed, 'the reports were there before the question failed'
        asking.join(40)
        assert len(failed) == 1 and 'in time' in failed[0]
        counts = backend.counts
        assert (counts.requests, counts.answers, counts.timeout) == (4, 3, 1)
    finally:
        server.close()
