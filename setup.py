"""Installs for `pip install .`, `pip install -e .` and `colcon build`."""

import os
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

# What a robot needs.
ROBOT = [
    'numpy>=1.23',  # observations and actions
    'onnxruntime>=1.16',  # runs the policy
    'pyyaml>=5.4',  # presets and parameters
    'pydantic>=2.7,<3',  # the typed models of every file, parameter and option; compiled wheels exist for aarch64
    'mcap>=1.6',  # writes and reads episode bags
    'zstandard>=0.20',  # compresses them
    'rosbags>=0.11',  # message definitions and type hashes; foreign bags
    'pillow>=9.0',  # decodes and resizes camera images
]

SIMULATION = [
    'mujoco>=3.1,<4',  # physics and rendering; 4 breaks dm_control
    "dm_control>=1.0.16; python_version < '3.13'",  # the control suite
    'pyopengl>=3.1.6',  # MuJoCo's way to EGL
    # dm_control needs labmaze, for tasks that are not used here, which has no wheel for Python 3.13. There it is to
    # be installed with --no-deps, as the Makefile does, beside what else it needs:
    *(
        f"{name}; python_version >= '3.13'"
        for name in (
            'absl-py',
            'dm-env',
            'dm-tree',
            'glfw',
            'lxml',
            'protobuf',
            'pyparsing',
            'requests',
            'scipy',
            'tqdm',
        )
    ),
]

FIGURES = [
    'matplotlib>=3.7',  # curves of runs and of bags
    'imageio-ffmpeg>=0.4.9',  # encodes videos
]

SIGNING = [
    'cryptography>=40'  # ed25519
]

LEROBOT = [
    'pyarrow>=14',  # tables of LeRobot datasets
    'imageio-ffmpeg>=0.6',  # decodes their videos; its ffmpeg knows AV1
]

GYMNASIUM = [
    'gymnasium>=1.0,<2'  # the API of environments that every reinforcement learning library speaks
]

BASELINES = [
    'stable-baselines3>=2.7,<3'  # soft actor-critic with returns of several steps
]

EXTRAS = {
    # ROS 2 itself from wheels, for machines without a ROS installation (x86-64 Linux).
    'ros': [
        'ros-rclpy[fastrtps]>=7.1.6,<10',  # Jazzy and Kilted
        'ros-common-interfaces>=5.3,<6',  # sensor_msgs and friends
    ],
    # Simulated tasks as Gymnasium environments: dreamer_ros.make.
    'gym': [*SIMULATION, *GYMNASIUM],
    # Only for a robot whose contract names a public key, and for whoever signs its policies.
    'signing': SIGNING,
    # Simulators, for training and for watching a policy.
    'sim': SIMULATION,
    'train': [
        *SIMULATION,
        'torch>=2.4,<3',  # the learner
        'cmaes>=0.10,<0.14',  # evolves the controller of World Models; its state is checkpointed by attribute
        'onnx>=1.15',  # writes policies
        'safetensors>=0.4',  # checkpoints without pickle
        'tensorboard>=2.14',  # metrics in a browser
        *FIGURES,
        'tqdm>=4.65',  # the progress bar
    ],
    # Looking at bags: `dreamer bag plot`, `dreamer bag video` and `dreamer view`.
    'view': [
        *FIGURES,
        'rerun-sdk>=0.39,<1',  # the viewer; 170 MB, and needs NumPy 2
    ],
    # LeRobot datasets in and out: `dreamer bag import` and `dreamer bag export --format lerobot`.
    'lerobot': LEROBOT,
    # The model-free agent that `dreamer benchmark` compares with.
    'baselines': BASELINES,
    'test': [
        *BASELINES,
        *GYMNASIUM,
        *LEROBOT,
        *SIGNING,
        'pytest>=7.4',  # runs the tests
        'pytest-timeout>=2.2',  # a test that hangs fails alone, with a stack of every thread
        'pytest-xdist>=3.5',  # two tests at a time: those of nodes mostly wait
        'pytest-rerunfailures>=14',  # tests against the clock of a busy machine, see tests/nodes/conftest.py
        'setuptools',  # builds the package, which is tested too
        'wheel',  # needed by setuptools before 70
        'imageio>=2.31',  # reads back pictures and videos
        'mcap-ros2-support>=0.5',  # reads bags back by another decoder than ours
        'scipy>=1.10',  # high-precision references
    ],
}


def data_files():
    """Launch files, worlds, presets and published scores, folder by folder, under share/dreamer_ros."""
    share = os.path.join('share', PACKAGE)
    yield 'share/ament_index/resource_index/packages', [os.path.join('resource', PACKAGE)]
    yield share, ['package.xml']
    for top in ('launch', 'sim', 'models', os.path.join('docs', 'data')):
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
    version='0.1.0',
    description='Robots learn control from their camera by dreaming, over ROS 2',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    data_files=list(data_files()),
    install_requires=ROBOT,
    extras_require=EXTRAS,
    entry_points={'console_scripts': console_scripts()},
    zip_safe=False,
)
