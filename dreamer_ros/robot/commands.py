"""Converts actions to a robot's command messages, and recorded commands back to actions."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import Part, RobotContract
from dreamer_ros.spec import ActionLimits
from dreamer_ros.wire.codecs import fill_stamp
from dreamer_ros.wire.definitions import blank_message, encode, typestore
from dreamer_ros.wire.fields import Field, has_header, names_list

TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
_POINT = 'trajectory_msgs/msg/JointTrajectoryPoint'


class Commands:
    """The command of a contract.

    An action is a policy's output: f32[A] in [-1, 1], or one value per choice of which the largest counts. Values
    are the content of a command: f64[axes] in the units of the contract.

    Attributes:
        parts: what each receiver gets, in the order of the contract.
    """

    def __init__(self, contract: RobotContract):
        command = contract.command
        self._limits = ActionLimits(*zip(*(axis.limits for axis in command.axes)))
        self._choices = np.array([command.pose(values) for values in command.choices.values()])
        self._size = len(contract.spec.action)
        self.parts = tuple(CommandPart(part, contract.period_ns) for part in command.parts)

    def values(self, action: np.ndarray) -> np.ndarray:
        """Values f64[axes] of an action."""
        if len(self._choices):
            return self._choices[np.argmax(action)]
        return self._limits.to_units(action)

    def action(self, values: np.ndarray) -> np.ndarray:
        """The action f32[A] nearest to values; one-hot for a robot with choices."""
        if len(self._choices):
            distance = np.square((self._choices - values) / (self._limits.high - self._limits.low)).sum(-1)
            return np.eye(self._size, dtype=np.float32)[distance.argmin()]
        return self._limits.from_units(values)

    def within_limits(self, values: np.ndarray) -> bool:
        """Whether all axes are within their limits, except for rounding."""
        return bool(self._limits.within(values))

    def encode(self, values: np.ndarray, stamp_ns: int) -> tuple[bytes | None, ...]:
        """What each receiver gets, see `CommandPart.encode`; None where a value is NaN, which is not commanded."""
        return tuple(
            None if np.isnan(values[part.axes]).any() else part.encode(values[part.axes], stamp_ns)
            for part in self.parts
        )


class CommandPart:
    """What one receiver gets.

    Args:
        part: of the contract.
        period_ns: nanoseconds between two commands.

    Attributes:
        receiver: of the contract.
        axes: i64[N], the axes that it gets.
    """

    def __init__(self, part: Part, period_ns: int):
        self.receiver, self.axes = part.receiver, part.axes
        self._type = part.receiver.message
        self._fields, self._matrix, self._inverse = part.fields, part.matrix, np.linalg.pinv(part.matrix)
        # One message is filled again and again, from the control loop or from a watchdog.
        self._lock = threading.Lock()
        # A trajectory stamped 0 starts when it arrives; one stamped now would have begun already.
        self._stamped = has_header(self._type) and self._type != TRAJECTORY
        self._message = blank_message(self._type)
        if has_header(self._type):
            self._message.header.frame_id = part.receiver.frame_id
        constants = [field for field, _ in part.constants]
        places = _places(self._message, self._type, [*part.fields, *constants], period_ns)
        self._places = places[: len(part.fields)]
        for place, (field, value) in zip(places[len(part.fields) :], part.constants):
            _set(place, field, value)

    def encode(self, values: np.ndarray, stamp_ns: int) -> bytes:
        """The serialised message or goal (CDR), for rclpy to publish or a bag to hold. Thread-safe.

        Args:
            values: f64[N], already made safe.
            stamp_ns: stamp of the header, if the type has one.
        """
        with self._lock:
            for place, field, value in zip(self._places, self._fields, (self._matrix @ values).tolist()):
                _set(place, field, value)
            if self._stamped:
                fill_stamp(self._message.header.stamp, stamp_ns)
            return encode(self._message, self._type)

    def decode(self, message: Any) -> np.ndarray:
        """Values f64[N] of a command message from rclpy or a bag, not limited.

        Raises:
            InputError: a field or joint is missing, or a number is not finite.
        """
        numbers = np.array([field.read(message) for field in self._fields])
        if not np.isfinite(numbers).all():
            raise InputError(f'{self.receiver.name}: expected finite numbers, got {numbers.tolist()}')
        return self._inverse @ numbers


class _Place(NamedTuple):
    """Where a number is written: an attribute of a message, or an element of a list."""

    holder: Any
    at: Any


def _set(place: _Place, field: Field, value: float) -> None:
    number = value if 'float' in field.number else bool(round(value)) if field.number == 'bool' else round(value)
    if isinstance(place.at, str):
        setattr(place.holder, place.at, number)
    else:
        place.holder[place.at] = number


def _places(message: Any, type_name: str, fields: list[Field], period_ns: int) -> list[_Place]:
    """Make room in a message for all fields, and say where each is written."""
    parents = [_parent(message, type_name, field, period_ns) for field in fields]
    joints: dict[int, list[str]] = {}  # names, by the message that holds them
    for (_, named), field in zip(parents, fields):
        element = field.parts[-1].element
        if isinstance(element, str) and element not in joints.setdefault(id(named), []):
            joints[id(named)].append(element)
            setattr(named, names_list(named) or '', joints[id(named)])
    for (parent, named), field in zip(parents, fields):
        attribute, element = field.parts[-1]
        if element is not None:
            size = max(len(joints.get(id(named), ())), element + 1 if isinstance(element, int) else 0)
            values = getattr(parent, attribute)
            if len(values) < size:
                setattr(parent, attribute, np.zeros(size, values.dtype))
    places = []
    for (parent, named), field in zip(parents, fields):
        attribute, element = field.parts[-1]
        number = joints[id(named)].index(element) if isinstance(element, str) else element
        places.append(_Place(parent, attribute) if number is None else _Place(getattr(parent, attribute), number))
    return places


def _parent(message: Any, type_name: str, field: Field, period_ns: int) -> tuple[Any, Any]:
    """The message inside a message that a field is an attribute of, and that which names its joints."""
    named = message
    for attribute, element in field.parts[:-1]:
        kind, content = dict(typestore().fielddefs[type_name][1])[attribute]
        message = getattr(message, attribute)
        if isinstance(element, int):
            type_name = content[0][1]
            while len(message) <= element:
                message.append(blank_message(type_name))
                if type_name == _POINT:  # each is to be reached one period after the one before
                    duration = message[-1].time_from_start
                    duration.sec, duration.nanosec = divmod(len(message) * period_ns, 1_000_000_000)
            message = message[element]
        else:
            type_name = content
        named = message if names_list(message) else named
    return message, named
