"""The core runs where there is no ROS: every module but nodes/ and cli/ imports with ROS blocked."""

import pkgutil
import subprocess
import sys

import cosmos3_ros

SHELL = ('nodes', 'cli', 'msg', 'srv', 'action', 'launch')
ROS = ('rclpy', 'rcl_interfaces', 'sensor_msgs', 'std_msgs', 'trajectory_msgs', 'builtin_interfaces',
       'cosmos3_ros.msg', 'cosmos3_ros.srv', 'cosmos3_ros.action', 'launch', 'launch_ros', 'cv_bridge')

# One interpreter for all: importing torch once is slow enough. What a missing library of an extra
# stops (ImportError) is not this test's business; ROS is reported by another exception.
PROGRAM = f'''
import importlib, sys
class Ros(Exception):
    pass
class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {ROS!r} or name.split('.')[0] in {ROS!r}:
            raise Ros(name)
sys.meta_path.insert(0, Block())
failed = False
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
    except Ros as error:
        failed = True
        print(name, 'imports', error)
sys.exit(failed)
'''


def core_modules() -> list[str]:
    packages = [i.name for i in pkgutil.iter_modules(cosmos3_ros.__path__) if i.name not in SHELL]
    names = [f'cosmos3_ros.{package}' for package in packages]
    for package in packages:
        path = [f'{root}/{package}' for root in cosmos3_ros.__path__]
        names += [i.name for i in pkgutil.walk_packages(path, f'cosmos3_ros.{package}.')]
    return names


def run(*modules: str) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run(
        [sys.executable, '-c', PROGRAM, *modules], capture_output=True, text=True, timeout=180)


def test_core_imports_without_ros() -> None:
    modules = core_modules()
    assert {'cosmos3_ros.control.controller', 'cosmos3_ros.generator.policy'} <= set(modules)
    done = run(*modules)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_block_works() -> None:
    done = run('cosmos3_ros.nodes.base')
    assert done.returncode == 1 and 'cosmos3_ros.nodes.base imports' in done.stdout
