"""The edge to done or failed, as an independent reading of the whole history finds it."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
import pytest

from cosmos3_ros.contracts import ContractError, ModelIdentity, Plausibility, SceneReport, TaskState
from cosmos3_ros.reasoner.task_state_edge import TaskStateEdge

TASK, BEGAN_NS = 'lift the cube', 1000


@dataclass(frozen=True)
class Said:
    """What matters of a report."""

    state: TaskState = TaskState.DONE
    instruction: str = TASK
    clip_start_ns: int = BEGAN_NS
    trained: bool = True
    parsed: bool = True
    repeated: bool = False
    """The same report once more, as a latched topic or a bag may deliver it."""

    @property
    def counts(self):
        return (self.instruction == TASK and self.clip_start_ns >= BEGAN_NS and self.trained
                and not self.repeated)


def report(said, stamp_ns):
    return SceneReport(
        stamp_ns=stamp_ns, clip_start_ns=said.clip_start_ns, clip_frames=2, cameras=('wrist',),
        instruction=said.instruction, caption='', objects=(), next_action='', task_state=said.state,
        hazards=(), plausibility=Plausibility.UNKNOWN, parsed=said.parsed, reason='', raw_text='',
        identity=ModelIdentity('reasoner', 'test', said.trained), latency_s=0.0)


def events(history, reports):
    edge, found, stamp_ns = TaskStateEdge(TASK, BEGAN_NS, reports), [], BEGAN_NS + 1
    for said in history:
        stamp_ns += 0 if said.repeated else 10
        found.append(edge.take(report(said, stamp_ns)))
    return found


histories = st.lists(st.builds(
    Said, st.sampled_from(TaskState), st.sampled_from([TASK, TASK, TASK, 'push it']),
    st.sampled_from([BEGAN_NS, BEGAN_NS + 5, BEGAN_NS - 1]), st.sampled_from([True, True, False]),
    st.sampled_from([True, True, True, False])), max_size=30)


@given(histories, st.integers(1, 4))
def test_an_event_comes_with_the_last_of_so_many_equal_reports(history, reports):
    found = events(history, reports)
    counted = [i for i, said in enumerate(history) if said.counts]
    spoken = [history[i].state if history[i].parsed else TaskState.UNKNOWN for i in counted]
    for place, index in enumerate(counted):
        state, row = spoken[place], spoken[:place + 1]
        length = next((n for n, other in enumerate(reversed(row)) if other is not state), len(row))
        due = state in (TaskState.DONE, TaskState.FAILED) and length == reports
        assert found[index] is (state if due else None)
    assert all(found[i] is None for i in range(len(history)) if i not in counted)


@pytest.mark.parametrize('passed_over', [
    Said(instruction='push it'), Said(clip_start_ns=BEGAN_NS - 1), Said(trained=False), Said(repeated=True)])
def test_what_is_about_something_else_neither_counts_nor_breaks_the_row(passed_over):
    assert events([Said(), passed_over, Said()], 2) == [None, None, TaskState.DONE]
    assert events([Said(), passed_over], 2) == [None, None]


@pytest.mark.parametrize('broken', [
    Said(TaskState.IN_PROGRESS), Said(TaskState.UNKNOWN), Said(TaskState.FAILED), Said(parsed=False)])
def test_what_says_otherwise_starts_anew(broken):
    assert events([Said(), broken, Said()], 2) == [None] * 3
    assert events([Said(), broken, Said(), Said()], 2) == [None] * 3 + [TaskState.DONE]


def test_each_row_gives_one_event():
    done, failed = TaskState.DONE, TaskState.FAILED
    assert events([Said()] * 4, 2) == [None, done, None, None]
    assert events([Said()] * 2 + [Said(failed)] * 2, 2) == [None, done, None, failed]
    with pytest.raises(ContractError, match='reports'):
        TaskStateEdge(TASK, 0, 0)
