"""The one place that imports MuJoCo, so that a machine without it gets told what to install."""

import os
from typing import Any

from cosmos3_ros.resources import require


def _import() -> Any:
    # MuJoCo opens the OpenGL library of MUJOCO_GL when it is imported and raises whatever comes if it
    # cannot. Physics needs none; the renderer opens its own and explains a failure.
    backend = os.environ.get('MUJOCO_GL')
    os.environ['MUJOCO_GL'] = 'disable'
    try:
        return require('mujoco', 'sim')
    finally:
        if backend is None:
            del os.environ['MUJOCO_GL']
        else:
            os.environ['MUJOCO_GL'] = backend


mujoco: Any = _import()
"""The module ``mujoco``. It ships no types, hence ``Any``."""
