"""The writer of LeRobot datasets lies with the tests of their reader."""

from pathlib import Path
import sys

sys.path.append(str(Path(__file__).resolve().parents[1] / 'evaluation'))
