"""The soak of benchmarks/chunk_soak.py in small: real node, real websocket, every misbehaviour, an outage."""

from pathlib import Path
import sys

import pytest

pytest.importorskip('websockets.sync.server', reason="the extra 'remote' is not installed")
sys.path.append(str(Path(__file__).resolve().parents[2] / 'benchmarks'))

from chunk_soak import soak
from openpi_server import SHARES


def test_no_chunk_is_wrong_and_silence_stops_the_controller(ros_domain):
    result = soak(150, seed=0, outage_every=150, domain=ros_domain)
    assert result['faults'] == [] and result['chunks'] >= 150
    assert result['starving_gaps'] >= 1 and result['stale_stops'] >= 1, 'the outage starves the controller'
    assert result['turned_away'] > 0 and result['tasks'] >= 3
    # Nearly all of them meet the node; which, the seed says.
    assert len(result['behaviours']) >= len(SHARES) - 2
    assert min(result['counts'][kind] for kind in ('timeout', 'connection', 'server', 'broken')) > 0
