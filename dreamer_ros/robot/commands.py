"""Converts actions to a robot's command messages, and recorded commands back to actions."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import ActionLimits
from dreamer_ros.wire.codecs import fill_stamp
from dreamer_ros.wire.definitions import blank_message, encode
from dreamer_ros.wire.fields import Field, has_header

TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'


class Commands:
    """The command of a contract.

    An action is a policy's output: f32[A] in [-1, 1], or one value per choice of which the largest counts. Values
    are the content of a command: f64[axes] in the units of the contract.
    """

    def __init__(self, contract: RobotContract):
        command = contract.command
        self._contract = contract
        self._type = command.type
        self._limits = ActionLimits(*zip(*(axis.limits for axis in command.axes)))
        self._choices = np.array([command.pose(values) for values in command.choices.values()])
        self._size = len(contract.spec.action)
        self._matrix = command.matrix
        self._inverse = np.linalg.pinv(command.matrix)
        # One message is filled again and again, from the control loop or from a watchdog.
        self._lock = threading.Lock()
        # A trajectory stamped 0 starts when it arrives; one stamped now would have begun already.
        self._stamped = has_header(command.type) and command.type != TRAJECTORY
        self._message = self._blank()

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

    def encode(self, values: np.ndarray, stamp_ns: int) -> bytes:
        """The serialised command message (CDR), for rclpy to publish or a bag to hold. Thread-safe.

        Args:
            values: f64[axes], already made safe.
            stamp_ns: stamp of the header, if the type has one.
        """
        with self._lock:
            for field, value in zip(self._contract.command.fields, self._matrix @ values):
                self._set(field, float(value))
            if self._stamped:
                fill_stamp(self._message.header.stamp, stamp_ns)
            return encode(self._message, self._type)

    def decode(self, message: Any) -> np.ndarray:
        """Values f64[axes] of a command message from rclpy or a bag, not limited.

        Raises:
            InputError: a field or joint is missing, or a number is not finite.
        """
        command = self._contract.command
        numbers = np.array([field.read(message) for field in command.fields])
        if not np.isfinite(numbers).all():
            raise InputError(f'{command.topic}: expected finite numbers, got {numbers.tolist()}')
        return self._inverse @ numbers

    def _blank(self) -> Any:
        """A message with room for every field."""
        command = self._contract.command
        message = blank_message(self._type)
        if has_header(self._type):
            message.header.frame_id = command.frame_id
        if self._type == TRAJECTORY:
            point = blank_message('trajectory_msgs/msg/JointTrajectoryPoint')
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(self._contract.period_ns, 1_000_000_000)
            message.points = [point]
        lists = [field for field in command.fields if field.parts[-1].element is not None]
        self._joints = list(
            dict.fromkeys(field.parts[-1].element for field in lists if isinstance(field.parts[-1].element, str))
        )
        if self._joints:
            setattr(message, 'joint_names' if self._type == TRAJECTORY else 'name', self._joints)
        for field in lists:
            parent, last = _parent(message, field), field.parts[-1]
            size = len(self._joints) or int(last.element) + 1
            values = getattr(parent, last.attribute)
            if len(values) < size:
                setattr(parent, last.attribute, np.zeros(size, values.dtype))
        return message

    def _set(self, field: Field, value: float) -> None:
        parent, (attribute, element) = _parent(self._message, field), field.parts[-1]
        if element is None:
            setattr(parent, attribute, value)
        else:
            number = element if isinstance(element, int) else self._joints.index(element)
            getattr(parent, attribute)[number] = value


def _parent(message: Any, field: Field) -> Any:
    """The message inside a message that a field is an attribute of."""
    for attribute, element in field.parts[:-1]:
        message = getattr(message, attribute)
        if element is not None:
            message = message[element]
    return message
