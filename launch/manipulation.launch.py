"""Start perception, generator and controller; with ``sim:=true`` the simulated table-top too."""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from cosmos3_ros.cli.environment import FAST_DDS_VARIABLES
from cosmos3_ros.sim.configuration import FIRST_EVALUATION_SEED


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare('cosmos3_ros')
    sim = LaunchConfiguration('sim')
    arguments = [
        # First: defaults below depend on it, and each is worked out where it stands.
        DeclareLaunchArgument(
            'sim', default_value='false', description='Start the simulator as well.'),
        DeclareLaunchArgument(
            'robot', default_value='panda', description='Robot: a name from config/robots or a YAML file.'),
        DeclareLaunchArgument(
            'policy', default_value='cosmos3',
            choices=['cosmos3', 'oracle', 'openpi', 'vllm_omni', 'nim', 'replay'],
            description='Policy of the generator; oracle is the scripted expert and needs sim:=true; openpi, '
                        'vllm_omni and nim ask a server (policy_url); replay needs a dataset or bag in '
                        'policy_options of params_file.'),
        DeclareLaunchArgument(
            'policy_url', default_value='',
            description='Address of the server of openpi (ws://host:port), vllm_omni or nim '
                        '(http://host:port).'),
        DeclareLaunchArgument(
            'checkpoint',
            default_value=PythonExpression(["'cosmos3-tiny' if '", sim, "' == 'true' else ''"]),
            description='Cosmos 3 checkpoint of reasoner and policy: a directory or a Hub id. By default '
                        'cosmos3-tiny, in the package, in simulation; none on a robot.'),
        DeclareLaunchArgument(
            'instruction', default_value='',
            description='Start on this instruction; empty: wait for one, in simulation take that of the '
                        'simulated episode.'),
        DeclareLaunchArgument(
            'profile', default_value='commissioning', choices=['commissioning', 'lab', 'hardware'],
            description='Limits of the controller, from config/profiles.yaml.'),
        DeclareLaunchArgument(
            'command_interface', default_value='joint_state',
            choices=['joint_state', 'joint_trajectory', 'float64_multi_array'],
            description='Message type of joint_command. The simulator takes joint_state.'),
        DeclareLaunchArgument(
            'arm_on_activate', default_value=sim,
            description='Send commands at once. By default only in simulation: on a real arm the '
                        'controller starts in SHADOW and waits for ~/arm.'),
        DeclareLaunchArgument(
            'use_sim_time', default_value=sim, description='Take the time from /clock.'),
        DeclareLaunchArgument(
            'task', default_value='pick_place', choices=['reach', 'push', 'pick_place'],
            description='Simulated task, with sim:=true.'),
        DeclareLaunchArgument(
            'seed', default_value=str(FIRST_EVALUATION_SEED), description='Seed of the simulated episode.'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of all nodes and relative topics.'),
        DeclareLaunchArgument(
            'params_file', default_value=PathJoinSubstitution([share, 'config', 'manipulation.yaml']),
            description='YAML file with the parameters of perception, generator and controller.'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Log level of the nodes.'),
    ]
    profile = PathJoinSubstitution([share, 'config', 'fastdds_shm.xml'])
    environment = [] if any(os.environ.get(name) for name in FAST_DDS_VARIABLES) else [
        SetEnvironmentVariable(name, profile) for name in FAST_DDS_VARIABLES]

    def node(name: str, overrides: dict) -> LifecycleNode:
        return LifecycleNode(
            package='cosmos3_ros',
            executable=name,
            name=name,
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            # Each node configures and activates itself, and says why if it cannot.
            parameters=[LaunchConfiguration('params_file'), {
                'autostart': True,
                'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool),
                'robot': LaunchConfiguration('robot'),
                **overrides,
            }],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        )

    text = {name: ParameterValue(LaunchConfiguration(name), value_type=str)
            for name in ('checkpoint', 'instruction', 'policy_url')}
    return LaunchDescription([
        *arguments,
        *environment,
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(PathJoinSubstitution([share, 'launch', 'simulation.launch.py'])),
            launch_arguments={name: LaunchConfiguration(name) for name in (
                'robot', 'task', 'seed', 'namespace', 'log_level')}.items(),
            condition=IfCondition(sim)),
        # The packaged checkpoint was trained on clips of its own size.
        node('perception', {
            'checkpoint': text['checkpoint'],
            'trained_clips': ParameterValue(sim, value_type=bool),
        }),
        node('generator', {
            'policy': LaunchConfiguration('policy'),
            'follow_simulation': ParameterValue(sim, value_type=bool),
            **text,
        }),
        node('controller', {
            'profile': LaunchConfiguration('profile'),
            'command_interface': LaunchConfiguration('command_interface'),
            'arm_on_activate': ParameterValue(LaunchConfiguration('arm_on_activate'), value_type=bool),
        }),
    ])
