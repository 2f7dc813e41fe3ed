"""Fixtures for every test: a private ROS graph, processes that are ended, nothing left in /dev/shm."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from cosmos3_ros.cli.domain import choose_domain
from cosmos3_ros.cli.environment import child_environment

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole run a private ROS domain before anything imports rclpy."""
    if sys.prefix != sys.base_prefix:
        # ROS from PyPI: the virtual environment is the prefix, and nobody has sourced it.
        os.environ.setdefault('ROS_DISTRO', 'kilted')
    os.environ.update(child_environment(os.environ, choose_domain({})))
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    # Without the extra model nothing needs Triton.
    if find_spec('torch') is not None and not import_module('torch').cuda.is_available():
        # Triton's kernels are interpreted. It reads this when it is imported, and torch may do so later on.
        os.environ['TRITON_INTERPRET'] = '1'


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """Give one test a domain of its own, for this process and its children."""
    domain = choose_domain({})
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    return domain


class Processes:
    """Starts executables of the package and ends whatever is left of them."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(self, module: str, *arguments: str, **options: Any) -> 'subprocess.Popen[str]':
        """Start ``python -m module arguments``; stdout and stderr come back through ``communicate``."""
        process = subprocess.Popen(
            [sys.executable, '-m', module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=REPOSITORY, start_new_session=True, **options)
        self.running.append(process)
        return process

    def end(self) -> None:
        """End every process group, first politely."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 10.0
        for process in self.running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Processes that end with the test."""
    started = Processes()
    yield started
    started.end()
