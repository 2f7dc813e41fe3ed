"""The one place that imports MuJoCo, so that a machine without it gets told what to install."""

from typing import Any

from cosmos3_ros.resources import require

mujoco: Any = require('mujoco', 'sim')
"""The module ``mujoco``. It ships no types, hence ``Any``."""
