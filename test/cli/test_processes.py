"""Whatever a child does, it and its children are gone when the group is left."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from cosmos3_ros.cli.processes import STOP_BUDGET_S, ProcessDiedError, ProcessGroup

STUBBORN = (
    'import signal, sys, time\n'
    'signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'print("ready", flush=True)\n'
    'time.sleep(600)\n'
)
PARENT_OF_STUBBORN = (
    'import subprocess, sys, time\n'
    f'child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])\n'
    'print("child", child.pid, flush=True)\n'
    'time.sleep(600)\n'
)
POLITE = (
    'import signal, sys, time\n'
    'def leave(*_):\n'
    '    print("left in order", flush=True)\n'
    '    sys.exit(0)\n'
    'signal.signal(signal.SIGINT, leave)\n'
    'print("ready", flush=True)\n'
    'time.sleep(600)\n'
)


def wait_for_text(path: Path, text: str, timeout_s: float = 20.0) -> str:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        content = path.read_text() if path.exists() else ''
        if text in content:
            return content
        time.sleep(0.02)
    raise AssertionError(f'{text!r} never appeared in {path}')


def is_running(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


def group(tmp_path: Path) -> ProcessGroup:
    return ProcessGroup(tmp_path / 'log', os.environ)


def test_polite_child_is_asked_first(tmp_path: Path) -> None:
    with group(tmp_path) as processes:
        child = processes.start('polite', [sys.executable, '-c', POLITE])
        wait_for_text(child.log, 'ready')
        assert processes.stop() == []
    assert 'left in order' in child.log.read_text()
    assert child.returncode == 0


def test_child_that_ignores_signals_is_killed_within_the_budget(tmp_path: Path) -> None:
    with group(tmp_path) as processes:
        child = processes.start('stubborn', [sys.executable, '-c', STUBBORN])
        wait_for_text(child.log, 'ready')
        start = time.monotonic()
        assert processes.stop() == ['stubborn']
        # The deadline is the class's own promise, not a measurement of this machine.
        assert time.monotonic() - start < STOP_BUDGET_S + 0.5
    assert child.returncode == -signal.SIGKILL


def test_grandchildren_go_too(tmp_path: Path) -> None:
    with group(tmp_path) as processes:
        child = processes.start('parent', [sys.executable, '-c', PARENT_OF_STUBBORN])
        text = wait_for_text(child.log, 'ready')
        grandchild = int(text.split('child ')[1].split()[0])
        assert is_running(grandchild)
    assert not is_running(grandchild)


def test_children_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        'import os, pathlib, sys, time\n'
        'from cosmos3_ros.cli.processes import ProcessGroup\n'
        f'group = ProcessGroup(pathlib.Path({str(tmp_path)!r}), os.environ)\n'
        'child = group.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])\n'
        'print(child.popen.pid, flush=True)\n'
        'time.sleep(600)\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10.0
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_running(pid)


def test_dead_child_is_reported_with_its_log(tmp_path: Path) -> None:
    with group(tmp_path) as processes:
        child = processes.start(
            'broken', [sys.executable, '-c', 'import sys; print("no such robot"); sys.exit(3)'])
        child.popen.wait()
        with pytest.raises(ProcessDiedError, match=r'broken ended with exit code 3(.|\n)*no such robot'):
            processes.check()


def test_stop_is_run_when_the_body_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='boom'), group(tmp_path) as processes:
        child = processes.start('sleeper', [sys.executable, '-c', 'import time; time.sleep(600)'])
        raise RuntimeError('boom')
    assert not is_running(child.popen.pid)


def test_missing_command_is_an_error(tmp_path: Path) -> None:
    with group(tmp_path) as processes, pytest.raises(FileNotFoundError):
        processes.start('nothing', [str(tmp_path / 'does_not_exist')])
    assert processes.processes == ()
