"""Life of a node's process: start, stop on signals, parameters that say what they expect."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence

import rclpy
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from dreamer_ros.errors import InputError, run_main
from dreamer_ros.launcher import end_with_launcher

ENDING = (signal.SIGINT, signal.SIGTERM)  # in this order: who handles SIGTERM has a handler for SIGINT too
# Python's own signal handler writes there, whatever its threads are doing.
_numbers = os.pipe()
for _end in _numbers:
    os.set_blocking(_end, False)


def run_node(name: str, body: Callable[[Node, threading.Event], int | None], make: Callable[[str], Node] = Node) -> int:
    """Run the main function of a process that is one node, between `rclpy.init` and shutdown.

    SIGINT and SIGTERM only set the event: the ROS context stays alive, so that `body` can still save and
    publish before it returns. The kernel sends SIGTERM when the launcher of the process ends.

    Args:
        name: of the node, unless it is remapped.
        body: gets the fresh node and the stop event, works until the event is set; returns the exit code.
        make: makes the node of its name.

    Returns:
        Exit code; 2 after an InputError, which is printed as one line.
    """
    stop = threading.Event()
    for number in ENDING:
        signal.signal(number, lambda *_: stop.set())
    signal.set_wakeup_fd(_numbers[1], warn_on_full_buffer=False)
    end_with_launcher()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)

    def serve() -> int | None:
        node = make(name)
        try:
            return body(node, stop)
        finally:
            node.destroy_node()

    try:
        return run_main(serve)
    finally:
        rclpy.try_shutdown()


def terminating() -> str:
    """The name of the signal that asked this process to end, once; '' if none did. From any thread, at once, while
    the stop event is set only when the main thread gets to it.
    """
    try:
        numbers = os.read(_numbers[0], 100)
    except BlockingIOError:
        return ''
    return next((signal.Signals(number).name for number in numbers if number in ENDING), '')


class Parameters:
    """Declares the parameters of a node once, read-only, and checks their values.

    Every method declares one parameter and returns its value. `finish` refuses names nobody declared.

    Raises:
        InputError: naming node, parameter, what was expected and what came.
    """

    def __init__(self, node: Node):
        self._node = node
        self._names = []

    def text(self, name: str, default: str, description: str, choices: Sequence[str] = ()) -> str:
        """A string, one of `choices` where given."""
        value = self._declare(
            name, default, Parameter.Type.STRING, description, f'one of: {", ".join(choices)}' if choices else ''
        )
        if choices and value not in choices:
            self._refuse(name, f'one of {", ".join(choices)}', value)
        return value

    def flag(self, name: str, default: bool, description: str) -> bool:
        """True or false."""
        return self._declare(name, default, Parameter.Type.BOOL, description)

    def integer(self, name: str, default: int, description: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self._declare(
            name,
            default,
            Parameter.Type.INTEGER,
            description,
            f'from {low} to {high}',
            [IntegerRange(from_value=low, to_value=high, step=1)],
        )

    def number(self, name: str, default: float, description: str, low: float, high: float) -> float:
        """A number from `low` to `high`, both included."""
        value = self._declare(name, default, Parameter.Type.DOUBLE, description, f'from {low:g} to {high:g}')
        if not low <= value <= high:
            self._refuse(name, f'a number from {low:g} to {high:g}', value)
        return value

    def integers(self, name: str, default: Sequence[int], description: str, low: int, high: int) -> tuple:
        """As many whole numbers as the default has, each from `low` to `high`."""
        value = self._declare(
            name,
            list(default),
            Parameter.Type.INTEGER_ARRAY,
            description,
            f'{len(default)} values from {low} to {high}',
        )
        if len(value) != len(default) or not all(low <= item <= high for item in value):
            self._refuse(name, f'{len(default)} values from {low} to {high}', list(value))
        return tuple(value)

    def texts(self, name: str, default: Sequence[str], description: str) -> tuple:
        """A list of strings."""
        return tuple(self._declare(name, list(default), Parameter.Type.STRING_ARRAY, description))

    def finish(self) -> None:
        """Refuse parameters that were given but do not exist: rclpy ignores a misspelt name."""
        for name in sorted(self._node._parameter_overrides):
            if not self._node.has_parameter(name) and not name.startswith('qos_overrides.'):
                raise InputError(
                    f'{self._node.get_fully_qualified_name()}: parameter {name}: '
                    f'expected one of {", ".join(self._names)}, got an unknown name'
                )

    def _declare(self, name, default, kind, description, constraints='', integer_range=()):
        descriptor = ParameterDescriptor(
            name=name,
            type=kind.value,
            description=description,
            additional_constraints=constraints,
            read_only=True,
            integer_range=list(integer_range),
        )
        self._names.append(name)
        try:
            return self._node.declare_parameter(name, default, descriptor).value
        except ParameterException:
            given = self._node._parameter_overrides[name].value
            expected = kind.name.lower().replace('_', ' ') + (f' {constraints}' if constraints else '')
            self._refuse(name, expected, given)

    def _refuse(self, name, expected, given):
        raise InputError(
            f'{self._node.get_fully_qualified_name()}: parameter {name}: expected {expected}, got {given!r}'
        )
