"""What gets installed, where, and what the robot's part of it imports."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
NODES = {
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
}
DATA = ('launch', 'sim', 'robots', 'models')


def imported_by(modules) -> set:
    """Top-level packages in memory after a fresh interpreter has imported the modules."""
    code = f'import sys, {", ".join(modules)}; print(*{{name.partition(".")[0] for name in sys.modules}})'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return set(result.stdout.split())


def modules_of(*packages: str) -> list:
    """Every module of some subpackages."""
    return [
        f'dreamer_ros.{package}.{path.stem}'
        for package in packages
        for path in sorted((ROOT / 'dreamer_ros' / package).glob('[!_]*.py'))
    ]


def test_the_robots_part_imports_neither_torch_nor_mujoco():
    names = imported_by(
        [
            *(f'dreamer_ros.nodes.{name}' for name in ('agent', 'robot_agent', 'recorder', 'file_server', 'player')),
            'dreamer_ros.policy.runner',
            'dreamer_ros.policy.loader',
            *modules_of('wire', 'robot', 'episodes', 'replay', 'transfer'),
        ]
    )
    assert {'rclpy', 'onnxruntime', 'numpy'} <= names
    assert not names & {'torch', 'mujoco', 'dm_control', 'onnx', 'matplotlib', 'tensorboard', 'imageio'}


def test_only_nodes_import_rclpy():
    names = imported_by(
        [
            'dreamer_ros.launching',
            'dreamer_ros.launching.supervisor',
            'dreamer_ros.cli.main',
            *modules_of(
                'wire',
                'robot',
                'episodes',
                'replay',
                'formats',
                'transfer',
                'policy',
                'simulation',
                'nets',
                'agents',
                'training',
            ),
        ]
    )
    assert {'torch', 'mujoco', 'onnxruntime'} <= names
    assert not names & {'rclpy', 'launch', 'launch_ros', 'sensor_msgs'}


def test_one_version():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    version = manifest.find('version').text
    assert 'dynamic = ["version"' in (ROOT / 'pyproject.toml').read_text()
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert f'\n## [{version}]' in (ROOT / 'CHANGELOG.md').read_text()
    assert manifest.find('name').text == 'dreamer_ros'
    assert manifest.find('license').text == 'Apache-2.0'
    assert 'Apache License' in (ROOT / manifest.find('license').get('file')).read_text()


def test_every_ros_package_that_is_imported_is_declared():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    declared = {element.text for element in manifest.iter('exec_depend')}
    source = '\n'.join(path.read_text() for path in (ROOT / 'dreamer_ros').rglob('*.py'))
    ros_package = r'^\s*(?:from|import) (\w+_msgs|std_srvs|\w+_interfaces|rclpy|launch\w*)'
    imported = set(re.findall(ros_package, source, re.M))
    assert imported and imported <= declared, imported - declared


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """The files that make the package, to build in without touching the checkout."""
    folder = tmp_path_factory.mktemp('source')
    for name in ('dreamer_ros', 'resource', *DATA):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'setup.py', 'setup.cfg', 'package.xml', 'LICENSE', 'README.md', 'MANIFEST.in'):
        shutil.copy(ROOT / name, folder)
    return folder


def data_files(source: Path) -> set:
    paths = [path for top in DATA for path in (source / top).rglob('*') if path.is_file()]
    return {str(path.relative_to(source)) for path in paths}


def test_a_wheel_holds_the_data_and_puts_only_dreamer_on_the_path(source, tmp_path):
    subprocess.run(
        [sys.executable, '-m', 'pip', '-q', 'wheel', '.', '--no-deps', '--no-build-isolation', '-w', tmp_path],
        cwd=source,
        check=True,
    )
    [wheel] = tmp_path.glob('dreamer_ros-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [entry_points] = [name for name in names if name.endswith('entry_points.txt')]
        scripts = re.findall(r'^(\w+) = ', archive.read(entry_points).decode(), re.M)
        share = {name.partition('/share/dreamer_ros/')[2] for name in names if '/share/dreamer_ros/' in name}
    assert scripts == ['dreamer']
    assert data_files(source) <= share and 'package.xml' in share
    assert not any(name.startswith('tests/') for name in names)
    python = {
        f'dreamer_ros/{path.relative_to(source / "dreamer_ros")}'
        for path in (source / 'dreamer_ros').rglob('*')
        if path.is_file() and path.suffix != '.pyc'
    }
    assert python <= set(names), python - set(names)


def test_colcon_can_read_the_setup(source):
    """It prints what setuptools knows of the package and reads that back as literals."""
    code = (
        'from distutils.core import run_setup; package = run_setup("setup.py", stop_after="config"); '
        'print(repr([package.python_requires, package.install_requires, package.extras_require, package.entry_points]))'
    )
    command = [sys.executable, '-W', 'ignore', '-c', f'import setuptools; {code}']
    result = subprocess.run(command, cwd=source, stdout=subprocess.PIPE, text=True, check=True)
    python, needs, extras, scripts = ast.literal_eval(result.stdout)
    assert python == '>=3.10' and any(name.startswith('onnxruntime') for name in needs)
    assert {'train', 'sim', 'ros', 'test'} <= set(extras) and len(scripts['console_scripts']) == len(NODES) + 1


def test_an_ament_install_has_executables_and_finds_its_data(source, tmp_path):
    """As `colcon build` calls setup.py; run from the install space, far from the checkout."""
    prefix = tmp_path / 'install'
    subprocess.run(
        [
            sys.executable,
            'setup.py',
            '-q',
            'install',
            '--prefix',
            prefix,
            '--record',
            tmp_path / 'record.txt',
            '--single-version-externally-managed',
        ],
        cwd=source,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    executables = prefix / 'lib' / 'dreamer_ros'
    assert {path.name for path in executables.iterdir()} == NODES | {'dreamer'}
    assert all(os.access(path, os.X_OK) for path in executables.iterdir())
    # the Python of the activated environment, not the one colcon runs with
    assert all(path.read_text().startswith('#!/usr/bin/env python3\n') for path in executables.iterdir())
    share = prefix / 'share' / 'dreamer_ros'
    installed = {str(path.relative_to(share)) for path in share.rglob('*') if path.is_file()}
    assert data_files(source) <= installed
    assert (prefix / 'share/ament_index/resource_index/packages/dreamer_ros').exists()

    [packages] = prefix.glob('**/site-packages')
    code = 'import dreamer_ros.paths as p; print(p.__file__); print(p.share("models")); print(p.share("sim"))'
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, 'PYTHONPATH': str(packages), 'AMENT_PREFIX_PATH': str(prefix)},
    )
    assert result.stdout.splitlines() == [
        str(packages / 'dreamer_ros' / 'paths.py'),
        str(share / 'models'),
        str(share / 'sim'),
    ]
