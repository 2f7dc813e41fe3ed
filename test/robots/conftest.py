"""Robots are immutable, so one of each serves all tests."""

from pathlib import Path

import numpy as np
from published_chains import ROBOTS
import pytest

from cosmos3_ros import robots


@pytest.fixture(scope='session', params=ROBOTS)
def robot(request):
    return robots.load_robot(request.param, 'lab')


@pytest.fixture(scope='session')
def panda():
    return robots.load_robot('panda', 'lab')


@pytest.fixture(scope='session')
def fr3():
    return robots.load_robot('fr3', 'hardware')


@pytest.fixture(scope='session')
def droid_positions():
    """Joint positions of the real DROID episode that lies beside the checkout, (T, 7)."""
    parquet = pytest.importorskip('pyarrow.parquet', reason="needs the extra 'record'")
    for folder in ('shared', '../shared'):
        root = Path(__file__).resolve().parents[2] / folder / 'data' / 'droid_lerobot_example'
        files = sorted(root.glob('data/**/*.parquet'))
        if files:
            table = parquet.read_table(files[0], columns=['observation.state.joint_positions'])
            return np.array(table.column(0).to_pylist(), dtype=np.float64)
    pytest.skip('the DROID example episode is not beside this checkout')
