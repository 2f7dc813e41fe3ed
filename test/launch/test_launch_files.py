"""The launch files, where ``launch`` exists: no package registry has it, so CI passes them over."""

from pathlib import Path

import pytest

launch = pytest.importorskip('launch')
pytest.importorskip('launch_ros')

from launch.actions import DeclareLaunchArgument  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_ros.actions import LifecycleNode  # noqa: E402

DIRECTORY = Path(__file__).resolve().parents[2] / 'launch'
FILES = sorted(path.name for path in DIRECTORY.glob('*.launch.py'))


def describe(name):
    """Return a file's description and a context in which its arguments have their defaults."""
    source = PythonLaunchDescriptionSource(str(DIRECTORY / name))
    context = launch.LaunchContext()
    return source.get_launch_description(context), context


def nodes_of(name, **arguments):
    """Return the executables that a file starts with these arguments, included files not followed."""
    description, context = describe(name)
    context.launch_configurations.update(arguments)
    found = []
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
        elif isinstance(entity, LifecycleNode) and (
                entity.condition is None or entity.condition.evaluate(context)):
            found.append(entity.node_executable)
    return found, context


@pytest.mark.parametrize('name', FILES)
def test_every_argument_is_described_and_has_a_default(name):
    description, _ = describe(name)
    arguments = description.get_launch_arguments()
    assert arguments
    for argument in arguments:
        # launch adds the choices behind the sentence.
        assert '.' in argument.description, argument.name
        assert argument.default_value is not None, argument.name


def test_manipulation_starts_the_three_nodes():
    executables, context = nodes_of('manipulation.launch.py')
    assert executables == ['perception', 'generator', 'controller']
    configuration = context.launch_configurations
    # On a robot nothing is sent until somebody arms, and the slow limits hold.
    assert configuration['arm_on_activate'] == 'false' and configuration['profile'] == 'commissioning'
    assert configuration['policy'] == 'cosmos3' and configuration['use_sim_time'] == 'false'


def test_simulation_is_asked_for_by_one_argument():
    _, context = nodes_of('manipulation.launch.py', sim='true')
    configuration = context.launch_configurations
    assert configuration['policy'] == 'cosmos3' and configuration['use_sim_time'] == 'true'
    assert configuration['checkpoint'] == 'cosmos3-tiny'
    assert configuration['arm_on_activate'] == 'true'
    assert nodes_of('simulation.launch.py')[0] == ['simulator']


def test_what_does_not_exist_is_refused_with_the_choices():
    with pytest.raises(RuntimeError, match=r'(?s)policy.*cosmos3.*oracle'):
        nodes_of('manipulation.launch.py', policy='best')
