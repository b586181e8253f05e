"""What pyproject.toml cannot say: the version, the data files and executables of a ROS installation.

The name and the packages are repeated for `colcon build` with the setuptools of Ubuntu 22.04, which does not read
pyproject.toml.
"""

import os
import re
import sys

from setuptools import find_packages, setup

PACKAGE = 'dreamer_ros'

NODES = [
    'simulator',
    'agent',
    'robot_agent',
    'trainer',
    'offline_trainer',
    'recorder',
    'evaluator',
    'mock_robot',
    'file_server',
    'bag_puller',
    'player',
    'resimulator',
    'dream_player',
]


def version():
    """As in package.xml, the one place that holds it."""
    with open('package.xml', encoding='utf-8') as file:
        return re.search(r'<version>(.+?)</version>', file.read()).group(1)


def data_files():
    """Launch files, worlds, contracts, presets and published scores, folder by folder, under share/dreamer_ros."""
    share = os.path.join('share', PACKAGE)
    yield 'share/ament_index/resource_index/packages', [os.path.join('resource', PACKAGE)]
    yield share, ['package.xml']
    for top in ('launch', 'sim', 'robots', 'models', os.path.join('docs', 'data')):
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name != '__pycache__']
            if files:
                yield os.path.join(share, folder), [os.path.join(folder, name) for name in sorted(files)]


def console_scripts():
    """`dreamer` everywhere; the nodes by their bare names only where colcon puts them, in lib/dreamer_ros.

    A pip environment's bin is on PATH, and a command called `agent` does not belong there.
    """
    scripts = ['dreamer = dreamer_ros.cli.main:entry_point']
    if not {'bdist_wheel', 'editable_wheel', 'dist_info'} & set(sys.argv):
        scripts += [f'{node} = dreamer_ros.nodes.{node}:main' for node in NODES]
    return scripts


setup(
    name=PACKAGE,
    version=version(),
    license='Apache-2.0',
    python_requires='>=3.10',  # in pyproject.toml it would stop colcon
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed', 'ros/*.xml']},
    data_files=list(data_files()),
    entry_points={'console_scripts': console_scripts()},
)
