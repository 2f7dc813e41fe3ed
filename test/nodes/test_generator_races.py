"""What must not happen between a request and its chunk, however threads and lives of the node interleave."""

import threading
import time

from camera_rig import SLOTS, CameraRig
from cosmos3_ros.action import ExecuteInstruction
import cosmos3_ros.msg as msg
import cosmos3_ros.srv as srv
from fake_arm import FakeArm
import numpy as np
import pytest
from ros_graph import wait_for
from test_generator_node import QUICK, Bench, Client, StubbedGenerator, StubPolicy

from cosmos3_ros.contracts import ActionChunk


def chunk_of(policy: StubPolicy, observation, instruction: str, **change: object) -> ActionChunk:
    values = {
        'stamp_ns': observation.stamp_ns, 'step_ns': policy.step_ns, 'joint_names': policy.joint_names,
        'positions': np.tile(observation.joint_position, (32, 1)), 'gripper': np.zeros(32),
        'contract': policy.contract, 'instruction': instruction, 'seed': 0, 'steps': 0, 'guidance': 1.0,
        'policy': policy.name, 'identity': policy.identity, 'trace_id': 'x', 'latency_s': 0.0}
    return ActionChunk(**{**values, **change})


def test_a_request_of_an_earlier_life_never_publishes(graph):
    """Deactivate, clean up, configure and activate while a model computes that nobody can break off."""
    bench = Bench(graph, instruction='go')
    old = bench.policy
    wait_for(lambda: old.seen, 'a request')
    old.gate.clear()
    old.waiting.clear()
    assert old.waiting.wait(40.0)
    late = len(old.seen)
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    bench.node.trigger_configure()
    new = bench.node.stub
    assert new is not old
    new.gate.clear()
    bench.node.trigger_activate()
    # The new life's first request is under way, so its number is in use; now the old one ends.
    assert new.waiting.wait(40.0)
    before = len(bench.chunks)
    dropped = bench.node.counters['chunks_dropped']
    old.gate.set()
    wait_for(lambda: bench.node.counters['chunks_dropped'] > dropped or len(bench.chunks) > before,
             'the end of the old request')
    assert len(bench.chunks) == before, 'a chunk of the earlier life was published'
    new.gate.set()
    wait_for(lambda: len(bench.chunks) > before, 'a chunk of the new life')
    assert len(old.seen) == late, 'the closed policy was not asked again'


@pytest.mark.parametrize('change', [{'stamp_ns': 5}, {'instruction': 'something else'}])
def test_a_chunk_that_is_not_its_requests_is_thrown_away(graph, change):
    bench = Bench(graph)
    good = bench.policy.generate

    def wrong(observation, instruction, *, seed):
        del seed
        return chunk_of(bench.policy, observation, instruction, **change)

    bench.policy.generate = wrong
    bench.instruct('go')
    wait_for(lambda: bench.node.counters['failures'] >= 2, 'refused chunks')
    assert bench.chunks == [] and bench.node.counters['chunks'] == 0
    bench.policy.generate = good
    wait_for(lambda: bench.chunks, 'a chunk')


def test_no_instruction_slips_in_beside_a_goal(graph):
    """A goal that comes while set_instruction is being served is accepted before or after it."""
    bench, client = Bench(graph), Client(graph)
    server = bench.node._instructions
    with server.idle() as idle:
        assert idle
        future = client.action.send_goal_async(ExecuteInstruction.Goal(instruction='the goal'))
        answered = threading.Event()
        future.add_done_callback(lambda _: answered.set())
        bench.node.set_instruction('by service')
        assert not server.busy, 'no goal is accepted meanwhile'
    assert answered.wait(40.0) and future.result().accepted
    wait_for(lambda: bench.node.instruction == 'the goal', 'the goal')
    response = bench.graph.call(
        srv.SetInstruction, '/generator/set_instruction', srv.SetInstruction.Request(instruction='late'))
    assert not response.accepted and bench.node.instruction == 'the goal'


def test_the_last_announcement_is_what_is_being_done(graph):
    bench = Bench(graph)
    sent, second = [], threading.Thread(target=lambda: bench.node.set_instruction('second'))

    class Slow:
        def publish(self, message):
            if message.data == 'first':
                second.start()
                # Without the lock the second instruction is taken up and announced right here.
                second.join(0.5)
            sent.append(message.data)

    bench.node._announce = Slow()
    bench.node.set_instruction('first')
    second.join(40.0)
    assert bench.node.instruction == 'second' and sent == ['first', 'second']


def test_a_chunk_from_before_the_clock_was_set_back_is_thrown_away(graph):
    """/clock goes back while the policy computes, and no image of the new time has come yet."""
    arm, rig, offset_ns = FakeArm(graph), CameraRig(graph), [0]
    arm.clock = lambda: time.time_ns() + offset_ns[0]
    chunks = graph.collect(msg.ActionChunk, 'action_chunk')
    node = graph.add(StubbedGenerator, sim_time=True, instruction='go', **QUICK)
    node.trigger_configure()
    node.trigger_activate()
    wait_for(lambda: chunks, 'a chunk')
    policy = node.stub
    policy.gate.clear()
    policy.waiting.clear()
    assert policy.waiting.wait(40.0)
    rig.silent.update(SLOTS)
    arm.change = lambda _message: None
    before_ns = node.now_ns()
    offset_ns[0] = -100_000_000_000
    wait_for(lambda: node.now_ns() < before_ns - 50_000_000_000, 'the clock to go back')
    published, dropped = node.counters['chunks'], node.counters['chunks_dropped']
    policy.gate.set()
    wait_for(lambda: node.counters['chunks_dropped'] > dropped or node.counters['chunks'] > published,
             'the end of the request')
    assert node.counters['chunks'] == published, 'a chunk of the time before was published'
