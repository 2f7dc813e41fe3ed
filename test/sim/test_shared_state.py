import os
from pathlib import Path
import subprocess
import sys
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from cosmos3_ros.sim.configuration import SimulationConfig, SimulationError
from cosmos3_ros.sim.shared_state import DrawnState, SharedState


def drawn(value, size=5):
    return DrawnState(value, value, value, np.full(2, float(value)), np.full(size, float(value)))


def test_there_is_nothing_to_read_before_the_first_write():
    shared = SharedState.create(SimulationConfig(), 5)
    assert shared.read() is None
    shared.close()
    shared.close()


@given(st.integers(0, 2**62), st.integers(0, 2**63), st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(stamp, seed, values):
    shared = SharedState.create(SimulationConfig(cubes=('blue', 'red'), shadows=True), 4)
    shared.write(DrawnState(stamp, 7, seed, np.array(values[:2]), np.array(values)))
    other = SharedState(os.dup(shared.descriptor))
    state = other.read()
    assert (state.stamp_ns, state.episode, state.seed) == (stamp, 7, seed)
    assert state.qpos.tolist() == values and state.zone_xy.tolist() == values[:2]
    assert other.config == SimulationConfig(cubes=('blue', 'red'), shadows=True)
    other.close()
    shared.close()


def test_a_reader_never_sees_half_a_state():
    shared = SharedState.create(SimulationConfig(), 200)
    reader = SharedState(os.dup(shared.descriptor))
    stop = threading.Event()

    def write():
        value = 1
        while not stop.is_set():
            shared.write(drawn(value, 200))
            value += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        newest = 0
        for _ in range(2000):
            state = reader.read()
            if state is not None:
                assert set(state.qpos) == {float(state.stamp_ns)} == set(state.zone_xy)
                assert state.stamp_ns >= newest
                newest = state.stamp_ns
        assert newest > 0
    finally:
        stop.set()
        thread.join()


def test_a_torn_state_is_told_apart():
    shared = SharedState.create(SimulationConfig(), 5)
    shared.write(drawn(3))
    os.pwrite(shared.descriptor, b'\x55', os.fstat(shared.descriptor).st_size - 1)
    with pytest.raises(SimulationError, match='consistent'):
        shared.read()


def test_another_process_reads_it_and_nothing_has_a_name():
    shared = SharedState.create(SimulationConfig(), 5)
    shared.write(drawn(42))
    assert not [path for path in Path('/dev/shm').iterdir() if 'cosmos3' in path.name]
    program = (
        'import sys; from cosmos3_ros.sim.shared_state import SharedState; '
        'sys.exit(SharedState(int(sys.argv[1])).read().stamp_ns)')
    done = subprocess.run(
        [sys.executable, '-c', program, str(shared.descriptor)], pass_fds=[shared.descriptor], check=False)
    assert done.returncode == 42


@pytest.mark.parametrize('content', [b'', b'x' * 10, b'x' * 500])
def test_foreign_memory_is_refused(content):
    descriptor = os.memfd_create('foreign')
    os.write(descriptor, content)
    with pytest.raises(SimulationError, match='no simulation state'):
        SharedState(descriptor)
    os.close(descriptor)


def test_a_state_of_another_scene_is_refused():
    shared = SharedState.create(SimulationConfig(), 5)
    with pytest.raises(SimulationError, match='6 positions arrived, 5 are allowed'):
        shared.write(drawn(1, 6))
