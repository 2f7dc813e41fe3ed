"""A ROS domain of its own for a demo, so that it can never command a robot that is on the network."""

from collections.abc import Mapping
from pathlib import Path
import random

PORT_BASE, PORTS_PER_DOMAIN = 7400, 250
"""RTPS 2.3, section 9.6: domain d uses UDP ports from 7400 + 250 d."""
HIGHEST_DOMAIN = 100
"""Above 101 the ports fall into Linux's ephemeral range."""


def choose_domain(environment: Mapping[str, str]) -> int:
    """Return the user's ``ROS_DOMAIN_ID``, or one that nothing here uses or has left traces of."""
    given = environment.get('ROS_DOMAIN_ID')
    if given:
        return int(given)
    used = {(port - PORT_BASE) // PORTS_PER_DOMAIN for port in _udp_ports() if port >= PORT_BASE}
    used |= {(port - PORT_BASE) // PORTS_PER_DOMAIN for port in _shared_memory_ports()}
    free = [domain for domain in range(1, HIGHEST_DOMAIN + 1) if domain not in used]
    return random.SystemRandom().choice(free)


def domain_ports(domain_id: int) -> range:
    """Return the ports of a domain; Fast DDS names its shared memory after them as well."""
    first = PORT_BASE + PORTS_PER_DOMAIN * domain_id
    return range(first, first + PORTS_PER_DOMAIN)


def _shared_memory_ports() -> set[int]:
    """Return the ports of Fast DDS's shared memory; killed processes leave them and disturb discovery."""
    names = (path.name.removeprefix('fastdds_port') for path in Path('/dev/shm').glob('fastdds_port*'))
    return {int(name) for name in names if name.isdigit()}


def _udp_ports() -> set[int]:
    """Return the local UDP ports in use, from /proc."""
    ports: set[int] = set()
    for name in ('udp', 'udp6'):
        path = Path('/proc/net') / name
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            ports.add(int(line.split()[1].rsplit(':', 1)[1], 16))
    return ports
