"""The launch files against the scenarios they are made from."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from dreamer_ros.launching import SCENARIOS, scenario, scenario_options
from dreamer_ros.options import as_arguments

LAUNCH = Path(__file__).resolve().parents[2] / 'launch'


def test_every_scenario_has_a_launch_file():
    assert {path.name for path in LAUNCH.iterdir() if path.is_file()} == {f'{name}.launch.py' for name in SCENARIOS}


def descriptions(name):
    pytest.importorskip('launch_ros.actions', reason='the launch files need a ROS installation')
    return runpy.run_path(str(LAUNCH / f'{name}.launch.py'))['generate_launch_description']()


@pytest.mark.parametrize('name', SCENARIOS)
def test_arguments_are_those_of_the_scenario(name):
    declared = {argument.name: argument for argument in descriptions(name).get_launch_arguments()}
    expected = as_arguments(scenario_options(name))
    assert list(declared) == [argument.name for argument in expected]
    for argument in expected:
        assert ''.join(part.text for part in declared[argument.name].default_value) == argument.default
        assert declared[argument.name].description.startswith(argument.help)  # launch appends the choices
        assert tuple(declared[argument.name].choices or ()) == argument.choices


def test_nodes_are_the_processes_of_the_scenario(tmp_path):
    description = descriptions('sim_train')
    from launch_ros.actions import Node

    from launch import LaunchContext

    context = LaunchContext()
    values = {argument.name: argument.default for argument in as_arguments(scenario_options('sim_train'))}
    values.update(simulators='2', preset='dreamerv3_1m', logdir=str(tmp_path))
    context.launch_configurations.update(values)
    started = description.entities[-1].execute(context)
    nodes = [action for action in started if isinstance(action, Node)]
    expected = scenario('sim_train', values).processes
    assert [node.node_executable for node in nodes] == [process.executable for process in expected]
    assert all(node.node_package == 'dreamer_ros' for node in nodes)
