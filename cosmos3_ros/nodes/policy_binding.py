"""Make the policy that parameters name, and check that it fits robot and cameras."""

from collections.abc import Mapping
from typing import Any

from cosmos3_ros.generator.policy import Policy, create_policy, option_names
from cosmos3_ros.robots import Robot

from .generator_parameters import policy_options
from .guarding import SetupError


def make_policy(values: Mapping[str, Any], robot: Robot) -> Policy:
    """Return the policy that a node's parameters name.

    :raises SetupError: The parameters contradict each other.
    :raises PolicyError: The policy refuses them.
    """
    options = policy_options(values['policy_options'])
    known = option_names(values['policy'])
    if values['policy_url'] and 'url' not in known:
        raise SetupError(
            f'policy_url: {values["policy_url"]!r} arrived, policy {values["policy"]} asks no server; '
            'openpi, vllm_omni and nim do')
    if 'url' in known and not (values['policy_url'] or 'url' in options):
        raise SetupError(
            f'policy_url: none arrived, policy {values["policy"]} needs the address of its server')
    given = {'joint_names': robot.joint_names, 'robot': robot, 'url': values['policy_url'],
             'checkpoint': values['checkpoint'], 'device': values['device'],
             # A server is not waited for longer than its chunk would count.
             'timeout_s': values['request_deadline_s'] and max(0.05, values['request_deadline_s'])}
    for name, value in given.items():
        # A checkpoint is also the reasoner's: what runs elsewhere has no use for it here.
        if value and name in known:
            options.setdefault(name, value)
    return create_policy(values['policy'], **options)


def check_policy(
    policy: Policy, robot: Robot, cameras: tuple[str, ...], *, real_time_chunking: bool = False,
) -> None:
    """Refuse a policy that does not fit.

    :param cameras: Camera slots in use.
    :raises SetupError: Says what does not fit and which parameter to change.
    """
    if policy.contract not in robot.action_contracts:
        raise SetupError(
            f'policy {policy.name}: its contract is {policy.contract}, robot {robot.name} accepts '
            f'{", ".join(robot.action_contracts)}; change the parameter checkpoint or robot')
    if tuple(policy.joint_names) != robot.joint_names:
        raise SetupError(
            f'policy {policy.name}: its joints are {", ".join(policy.joint_names)}, robot {robot.name} '
            f'has {", ".join(robot.joint_names)}; change the parameter robot')
    missing = [slot for slot in policy.camera_slots if slot not in cameras]
    if missing:
        raise SetupError(
            f'policy {policy.name}: it needs the camera slots {", ".join(missing)}; add them to the '
            'parameter cameras, or to blank_cameras too if there is no such camera')
    if real_time_chunking and not hasattr(policy, 'prefix_of'):
        raise SetupError(
            f'real_time_chunking: true arrived, policy {policy.name} cannot be tied to a chunk; cosmos3 can')
