"""Parameters of nodes: declared once, described to ROS, and those that launches give are theirs."""

from __future__ import annotations

import importlib
from typing import Annotated, Literal

import pytest
import rclpy
from pydantic import Field
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterType
from rclpy.node import Node
from rclpy.parameter import Parameter

from dreamer_ros.errors import InputError
from dreamer_ros.launching import scenario
from dreamer_ros.options import Options
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.schema import check


class Sample(Options):
    """One field of each kind."""

    count: int = Field(3, ge=1, le=9, description='How many there are.')
    many: int | None = Field(None, ge=0, description='How many there may be.')
    ratio: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    size: tuple[int, int] = (64, 48)
    names: tuple[str, ...] = ('a',)
    mode: Literal['fast', 'slow'] = 'fast'
    flag: bool = False


@pytest.fixture
def read(ros_domain):
    """read(count=5) gives the node and the parameters it has read."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    nodes = []

    def make(**values):
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        nodes.append(Node('sample', context=context, parameter_overrides=overrides))
        return nodes[-1], read_parameters(nodes[-1], Sample)

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_values_and_defaults(read):
    assert read()[1] == Sample()
    node, parameters = read(count=5, many=2, ratio=2, size=[1, 2], names=['', 'b'], mode='slow', flag=True)
    assert parameters.model_dump() == dict(
        count=5, many=2, ratio=2.0, size=(1, 2), names=('b',), mode='slow', flag=True
    )
    assert node.get_parameter('ratio').value == 2.0 and list(node.get_parameter('names').value) == ['b']
    assert read(names=[''], use_sim_time=False)[1].names == ()


def test_descriptions(read):
    node, _ = read()
    count, many, ratio, mode = (node.describe_parameter(name) for name in ('count', 'many', 'ratio', 'mode'))
    assert (count.type, count.description, count.read_only) == (
        ParameterType.PARAMETER_INTEGER,
        'How many there are.',
        True,
    )
    assert list(count.integer_range) == [IntegerRange(from_value=1, to_value=9, step=1)]
    assert list(many.integer_range) == [IntegerRange(from_value=0, to_value=2**63 - 1, step=1)]
    assert many.type == ParameterType.PARAMETER_INTEGER and not node.get_parameter_or('many').value
    assert list(ratio.floating_point_range) == [FloatingPointRange(from_value=0.0, to_value=2.0)]
    assert ratio.additional_constraints == 'above 0 and of at most 2'
    assert mode.additional_constraints == 'fast, slow'


@pytest.mark.parametrize(
    'values, sentence',
    [
        ({'cuont': 3}, 'parameters of /sample: unknown key cuont; did you mean count?'),
        ({'count': 10}, 'parameters of /sample: count: expected a whole number from 1 to 9, got 10'),
        ({'count': '3'}, "count: expected a whole number from 1 to 9, got '3'"),
        ({'ratio': 0.0}, 'ratio: expected a number above 0 and of at most 2, got 0.0'),
        ({'size': [1]}, 'size: expected a list of 2 whole numbers'),
        ({'mode': 'fats'}, "mode: expected one of fast, slow, got 'fats'"),
        ({'flag': 1}, 'flag: expected true or false, got 1'),
    ],
)
def test_what_does_not_fit(read, values, sentence):
    with pytest.raises(InputError) as error:
        read(**values)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    'name, arguments',
    [
        ('sim_train', {'simulators': '2', 'mode': 'realtime'}),
        ('sim_eval', {'policy': 'cartpole_swingup'}),
        ('deploy', {'policy': 'cartpole_swingup', 'record': 'true'}),
        ('robot_train', {'robot': 'rover', 'mock': 'true', 'task': 'rover_target'}),
        ('robot_train', {'robot': 'rover', 'role': 'robot'}),
        ('robot_train', {'robot': 'rover', 'role': 'trainer', 'bags': 'http://127.0.0.1:1', 'trust': 'lan'}),
        ('record', {'robot': 'rover arm'}),
        ('replay', {'bag': '.', 'policy': 'cartpole_swingup'}),
        ('replay', {'bag': '.', 'mode': 'simulate'}),
        ('replay', {'bag': '.', 'mode': 'dream', 'run': 'x'}),
    ],
)
def test_nodes_know_the_parameters_that_scenarios_give_them(name, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for process in scenario(name, arguments).processes:
        model = ''.join(word.title() for word in process.executable.split('_')) + 'Parameters'
        check(getattr(importlib.import_module(process.module), model), dict(process.parameters), process.label)
