"""The pip half of the package: ``pip install .`` and ``-e .``, with ROS from PyPI wheels or sourced.

colcon never runs this file (package.xml says ament_cmake). It runs the same CMakeLists.txt, installs
that into a staging tree and packs the tree: the Python package as such, everything else (libraries,
executables, share/, include/) under the environment's prefix, where the ROS wheels put theirs, so that
one environment is one ament prefix.
"""

from distutils.command.install_data import install_data as install_data_base
import os
from pathlib import Path
import shutil
import subprocess
import sys

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py as build_py_base

ROOT = Path(__file__).resolve().parent
NAME = 'cosmos3_ros'
SITE = f'lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages'
DISTRO = os.environ.get('COSMOS3_ROS_WHEELS', 'kilted')  # or 'jazzy'

INTERFACES = [
    'action-msgs', 'builtin-interfaces', 'diagnostic-msgs', 'lifecycle-msgs', 'rosgraph-msgs',
    'sensor-msgs', 'std-msgs', 'std-srvs', 'trajectory-msgs',
]
RUNTIME = ['rclpy', 'rmw-fastrtps-cpp', *INTERFACES]
# The wheels do not declare what they need at build time: each generator has to be named.
GENERATORS = [
    'ament-cmake', 'ament-cmake-core', 'ament-cmake-include-directories', 'ament-cmake-python',
    'ament-cmake-ros', 'ament-package', 'rosidl-core-generators', 'rosidl-default-generators',
    'rosidl-default-runtime',
]
if DISTRO == 'jazzy':
    GENERATORS += [
        'ament-cmake-gmock', 'ament-cmake-gtest', 'ament-cmake-pytest', 'fastrtps-cmake-module',
        'python-cmake-module',
    ]
else:
    GENERATORS += ['ament-cmake-ros-core']
# ament-package is Python only: it leaves no share/<name>/package.xml to look for.
WITHOUT_SHARE = {'ament-package'}


def wheel_names(packages):
    return [f'ros-{DISTRO}-{name}' for name in packages]


def sourced_prefixes():
    return [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]


def ament_prefixes():
    """Sourced workspaces first, then the environments on sys.path (pip's isolated one too)."""
    found = [
        *sourced_prefixes(),
        *(Path(p).parents[2] for p in sys.path if p.endswith(SITE)),
        Path(sys.prefix),
    ]
    return [p for p in dict.fromkeys(found) if (p / 'share' / 'ament_index').is_dir()]


def are_present(prefixes, packages):
    return all(
        any((p / 'share' / name.replace('-', '_') / 'package.xml').is_file() for p in prefixes)
        for name in packages
        if name not in WITHOUT_SHARE
    )


def find_tool(name):
    """The real binary of a PyPI wheel (its script is Python and breaks under another PYTHONPATH)."""
    try:
        module = __import__(name)
        binary = Path(getattr(module, 'CMAKE_BIN_DIR' if name == 'cmake' else 'BIN_DIR')) / name
        if binary.is_file():
            return str(binary)
    except (ImportError, AttributeError):
        pass
    return shutil.which(name)


def stage_cmake_install(build_base):
    """Build and install with CMake; return the staging prefix."""
    work = Path(build_base).resolve() / f'rosidl-{DISTRO}-{sys.implementation.cache_tag}'
    target = work / 'install'
    shutil.rmtree(target, ignore_errors=True)
    cmake, ninja, prefixes = find_tool('cmake'), find_tool('ninja'), ament_prefixes()
    if not cmake:
        raise SystemExit(f'{NAME}: CMake is needed to generate the messages (pip install cmake ninja)')
    path = os.pathsep.join(map(str, prefixes))
    sites = [str(p / SITE) for p in prefixes if (p / SITE).is_dir()]
    sites += [p for p in sys.path if p.endswith('-packages')]
    env = dict(
        os.environ,
        AMENT_PREFIX_PATH=path,
        CMAKE_PREFIX_PATH=path,
        PYTHONPATH=os.pathsep.join(dict.fromkeys(sites)),
        # The wheels re-execute every Python once to set LD_LIBRARY_PATH; the generators need none.
        _ROS_WHEELS_BOOTSTRAP_COMPLETE='1',
    )
    build = work / 'build'
    configure = [
        cmake, '-S', str(ROOT), '-B', str(build), f'-DCMAKE_INSTALL_PREFIX={target}',
        '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF',
        f'-DPython3_EXECUTABLE={sys.executable}', f'-DPYTHON_INSTALL_DIR={SITE}',
    ]
    if ninja:
        configure += ['-G', 'Ninja', f'-DCMAKE_MAKE_PROGRAM={ninja}']
    jobs = str(os.cpu_count() or 1)
    for command in (
        configure,
        [cmake, '--build', str(build), '--parallel', jobs],
        [cmake, '--install', str(build)],
    ):
        if subprocess.run(command, env=env).returncode:
            # Not an Exception: an editable build swallows those and 'succeeds' without messages.
            raise SystemExit(f'{NAME}: generating the messages failed in: {" ".join(command)}')
    return target


class build_py(build_py_base):  # noqa: N801
    """Add the CMake install tree to the wheel."""

    editable_mode = False

    def run(self):
        target = stage_cmake_install(self.get_finalized_command('build').build_base)
        super().run()
        data_files = {}
        generated_root = Path(SITE, NAME)
        for path in sorted(target.rglob('*')):
            relative = path.relative_to(target)
            if (not path.is_file() or '__pycache__' in relative.parts or path.name.endswith('.ep.c')
                    or '.egg-info' in str(relative)):
                continue
            if relative.parts[:len(generated_root.parts)] != generated_root.parts:
                data_files.setdefault(str(relative.parent), []).append(str(path))
                continue
            inside = relative.relative_to(generated_root)
            is_generated = inside.parts[0] in ('msg', 'srv', 'action') or inside.suffix == '.so'
            if is_generated and self.editable_mode:
                # Beside the checkout on sys.path; cosmos3_ros/__init__.py extends its path over both.
                data_files.setdefault(str(relative.parent), []).append(str(path))
            elif is_generated or inside.suffix != '.py':
                destination = Path(self.build_lib) / NAME / inside
                if not self.editable_mode:
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, destination)
        self.distribution.data_files = list(data_files.items())


class install_data(install_data_base):  # noqa: N801
    """data_files are known only after the build."""

    def run(self):
        self.data_files = self.distribution.data_files or []
        super().run()


class BinaryDistribution(Distribution):
    """A wheel for this platform and Python."""

    def has_ext_modules(self):
        return True

    def has_data(self):
        # setuptools' editable wheel asks for this name before it installs data_files.
        return True


def ros_requirements():
    # A sourced ROS installation brings its own; wheels beside it would be a second ROS in a process.
    return [] if are_present(sourced_prefixes(), RUNTIME) else wheel_names(RUNTIME)


def build_requirements():
    if are_present(ament_prefixes(), GENERATORS + INTERFACES):
        return []
    return [*wheel_names(INTERFACES + GENERATORS), 'catkin-pkg', 'numpy', 'cmake', 'ninja']


def declared_requirements():
    """install_requires of setup.cfg: naming the argument here replaces that list."""
    from setuptools.config.setupcfg import read_configuration

    declared = read_configuration(str(ROOT / 'setup.cfg'))['options']['install_requires']
    return list(declared)


setup(
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_dir={'': '.'},  # editable: a plain .pth line; the finder hook loses against the generated half
    install_requires=declared_requirements() + ros_requirements(),
    setup_requires=build_requirements(),
    cmdclass={'build_py': build_py, 'install_data': install_data},
    distclass=BinaryDistribution,
    data_files=[(f'share/{NAME}', ['package.xml'])],
    zip_safe=False,
)
