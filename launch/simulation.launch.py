"""Start the simulated table-top: physics, servo and cameras in MuJoCo."""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from cosmos3_ros.cli.environment import FAST_DDS_VARIABLES


def generate_launch_description() -> LaunchDescription:
    config = PathJoinSubstitution([FindPackageShare('cosmos3_ros'), 'config'])
    arguments = [
        DeclareLaunchArgument(
            'robot', default_value='panda', description='Robot: a name from config/robots or a YAML file.'),
        DeclareLaunchArgument(
            'task', default_value='pick_place', choices=['reach', 'push', 'pick_place'],
            description='Task of the first episode.'),
        DeclareLaunchArgument('seed', default_value='1', description='Seed of the first episode.'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of all nodes and relative topics.'),
        DeclareLaunchArgument(
            'simulation_params_file', default_value=PathJoinSubstitution([config, 'simulation.yaml']),
            description='YAML file with the parameters of the simulator.'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Log level of the nodes.'),
    ]
    # Without it Fast DDS drops images that are larger than its default segment.
    profile = PathJoinSubstitution([config, 'fastdds_shm.xml'])
    environment = [] if any(os.environ.get(name) for name in FAST_DDS_VARIABLES) else [
        SetEnvironmentVariable(name, profile) for name in FAST_DDS_VARIABLES]
    simulator = LifecycleNode(
        package='cosmos3_ros',
        executable='simulator',
        name='simulator',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        # The node configures and activates itself, and says why if it cannot.
        parameters=[LaunchConfiguration('simulation_params_file'), {
            'autostart': True,
            'robot': LaunchConfiguration('robot'),
            'task': LaunchConfiguration('task'),
            'seed': ParameterValue(LaunchConfiguration('seed'), value_type=int),
        }],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
    )
    return LaunchDescription([*arguments, *environment, simulator])
