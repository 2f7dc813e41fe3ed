"""Quality of service by parameter, from one table of streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from .parameters import Parameter, ParameterError

RELIABILITIES = {
    'reliable': ReliabilityPolicy.RELIABLE,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
}
DURABILITIES = {
    'volatile': DurabilityPolicy.VOLATILE,
    'transient_local': DurabilityPolicy.TRANSIENT_LOCAL,
}


@dataclass(frozen=True, slots=True)
class StreamQos:
    """Default quality of service of one kind of stream."""

    reliability: str
    depth: int
    durability: str = 'volatile'


# Why each default:
# images          reliable: with the shared-memory profile (config/fastdds_shm.xml) nothing is lost, while
#                 best effort loses most raw images on default Fast DDS settings. 15 deep: a second, so that
#                 a subscriber that is kept off the processor for a while loses nothing.
# joint_states    best effort matches both kinds of publisher, and only the newest sample counts.
# joint_command   reliable publishers match both kinds of subscriber (ros2_control, Isaac Sim, ours).
# scene, stop     latched: who comes late must still learn the present scene, and above all a stop.
STREAMS: dict[str, StreamQos] = {
    'images': StreamQos('reliable', 15),
    'camera_info': StreamQos('reliable', 5),
    'joint_states': StreamQos('best_effort', 10),
    'joint_command': StreamQos('reliable', 10),
    'action_chunk': StreamQos('reliable', 2),
    'scene': StreamQos('reliable', 1, 'transient_local'),
    'annotated': StreamQos('reliable', 1),
    'controller_state': StreamQos('reliable', 10),
    'simulation_state': StreamQos('reliable', 2),
    'instruction': StreamQos('reliable', 1, 'transient_local'),
    'speed_scale': StreamQos('reliable', 1),
    'stop': StreamQos('reliable', 1, 'transient_local'),
}


def _stream(name: str) -> StreamQos:
    try:
        return STREAMS[name]
    except KeyError:
        raise ParameterError(f'stream {name!r} is unknown, known are: {", ".join(STREAMS)}') from None


def qos_parameters(*streams: str) -> tuple[Parameter, ...]:
    """Return the rows ``qos.<stream>.reliability|depth|durability`` for a node's parameter table.

    :raises ParameterError: A stream is not in ``STREAMS``.
    """
    rows: list[Parameter] = []
    for name in streams:
        default = _stream(name)
        rows += [
            Parameter(f'qos.{name}.reliability', str, default.reliability,
                      f'Reliability of {name}; a reliable subscription hears reliable publishers only.',
                      choices=tuple(RELIABILITIES), read_only=True),
            Parameter(f'qos.{name}.depth', int, default.depth, f'Messages of {name} kept in the queue.',
                      range=(1, 1000), read_only=True),
            Parameter(f'qos.{name}.durability', str, default.durability,
                      f'Durability of {name}; transient_local keeps the last message for late joiners.',
                      choices=tuple(DURABILITIES), read_only=True),
        ]
    return tuple(rows)


def make_profile(reliability: str, depth: int, durability: str = 'volatile') -> QoSProfile:
    """Return a keep-last profile.

    :raises ParameterError: A name is not one of the valid ones, which the text lists.
    """
    if reliability not in RELIABILITIES:
        raise ParameterError(
            f'reliability: {reliability!r} arrived, allowed are: {", ".join(RELIABILITIES)}')
    if durability not in DURABILITIES:
        raise ParameterError(f'durability: {durability!r} arrived, allowed are: {", ".join(DURABILITIES)}')
    if depth < 1:
        raise ParameterError(f'depth: {depth} arrived, at least 1 is allowed')
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth,
        reliability=RELIABILITIES[reliability], durability=DURABILITIES[durability])


def default_profile(stream: str) -> QoSProfile:
    """Return the default profile of ``stream``."""
    default = _stream(stream)
    return make_profile(default.reliability, default.depth, default.durability)


def qos_profile(values: Mapping[str, Any], stream: str) -> QoSProfile:
    """Return the profile of ``stream`` from a node's parameter values."""
    prefix = f'qos.{stream}'
    return make_profile(
        values[f'{prefix}.reliability'], values[f'{prefix}.depth'], values[f'{prefix}.durability'])
