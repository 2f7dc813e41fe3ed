"""ActionChunk and joint state to JointCommand, never outside the limits."""

from .config import ControllerConfig, EffortGains, MpcWeights, PidGains
from .controller import Controller
from .latency import LatencyAssessment, LatencyKind, assess_latency
from .verdict import Verdict

__all__ = [
    'Controller', 'ControllerConfig', 'EffortGains', 'LatencyAssessment', 'LatencyKind', 'MpcWeights',
    'PidGains', 'Verdict', 'assess_latency',
]
