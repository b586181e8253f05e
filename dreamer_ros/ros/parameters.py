"""Declares the parameters of a node from a model, and reads them once."""

from __future__ import annotations

import typing
from array import array
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from dreamer_ros.options import Options
from dreamer_ros.schema import Row, check, describe

SomeOptions = TypeVar('SomeOptions', bound=Options)

# By the type of a field: of the value itself, and of a list of such values.
_TYPES = {
    bool: (Parameter.Type.BOOL, Parameter.Type.BOOL_ARRAY),
    int: (Parameter.Type.INTEGER, Parameter.Type.INTEGER_ARRAY),
    float: (Parameter.Type.DOUBLE, Parameter.Type.DOUBLE_ARRAY),
    str: (Parameter.Type.STRING, Parameter.Type.STRING_ARRAY),
}
_INTEGERS = -(2**63), 2**63 - 1
_FLOATS = -float('inf'), float('inf')


def read_parameters(node: Node, model: type[SomeOptions]) -> SomeOptions:
    """Declare the parameters of a model, read-only, and return their values.

    An optional field is declared with its type alone. ROS has no empty lists, so empty texts in a list are dropped.

    Raises:
        InputError: an unknown parameter, or a value that does not fit.
    """
    # rclpy itself ignores a parameter that nobody declares, such as a misspelt one.
    given = {
        name: _plain(parameter.value)
        for name, parameter in node._parameter_overrides.items()
        if not node.has_parameter(name) and not name.startswith('qos_overrides.')
    }
    parameters = check(model, given, f'parameters of {node.get_fully_qualified_name()}')
    for row in describe(model):
        value = getattr(parameters, row.key)
        kind = _type(row)
        empty = value is None or value == ()
        node.declare_parameter(row.key, kind if empty else value, _descriptor(row, kind), ignore_override=True)
    return parameters


def _plain(value: Any) -> Any:
    """A parameter's value for a model: arrays of rclpy become lists."""
    return [item for item in value if item != ''] if isinstance(value, (list, tuple, array)) else value


def _type(row: Row) -> Parameter.Type:
    of_lists = typing.get_origin(row.kind) is tuple
    kind = typing.get_args(row.kind)[0] if of_lists else row.kind
    return _TYPES.get(kind, _TYPES[str])[of_lists]  # a choice is a text


def _descriptor(row: Row, kind: Parameter.Type) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=row.key, type=kind.value, description=row.help, additional_constraints=row.allowed, read_only=True
    )
    low, above, high, below = row.limits
    if kind is Parameter.Type.INTEGER and row.allowed:
        low = low if above is None else above + 1
        high = high if below is None else below - 1
        least, most = (bound if given is None else given for given, bound in zip((low, high), _INTEGERS))
        descriptor.integer_range = [IntegerRange(from_value=least, to_value=most, step=1)]
    elif kind is Parameter.Type.DOUBLE and row.allowed:
        given = (low if above is None else above, high if below is None else below)
        least, most = (bound if value is None else float(value) for value, bound in zip(given, _FLOATS))
        descriptor.floating_point_range = [FloatingPointRange(from_value=least, to_value=most)]
    return descriptor
