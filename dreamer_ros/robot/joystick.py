"""Converts joystick messages to actions, as a robot contract says."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import JOY, RobotContract
from dreamer_ros.wire.codecs import FLOAT32_MAX
from dreamer_ros.wire.fields import Field


class Hand(NamedTuple):
    """The state of a joystick.

    Attributes:
        takes_over: whether it is in use or, if there is a takeover button, that is held.
        values: f64[axes] in their units, with `relative` per second; 0 for sticks at rest. None for choices.
        choice: the pressed choice, or None.
        said: what the person says with the buttons of `SAYINGS`.
    """

    takes_over: bool
    values: np.ndarray | None
    choice: str | None
    said: frozenset[str] = frozenset()


SAYINGS = ('success', 'failure', 'ready')  # keys of the joystick in a contract


class Sticks:
    """Reads sensor_msgs/Joy and makes actions of them.

    Args:
        contract: of the robot, with a joystick.
    """

    def __init__(self, contract: RobotContract):
        joystick, command = contract.joystick, contract.command
        self._joystick = joystick
        self._takeover = _field(joystick.takeover) if joystick.takeover else None
        said = {name: getattr(joystick, name) for name in SAYINGS}
        self._sayings = {name: _field(stick) for name, stick in said.items() if stick}
        # In the order of the choices, of which the first in use wins.
        self._buttons = {name: _field(joystick.choices[name]) for name in command.choices if name in joystick.choices}
        self._gains = [
            [(_field(stick), gain) for stick, gain in joystick.axes.get(axis.name, {}).items()] for axis in command.axes
        ]
        self._commands = Commands(contract)
        self._stop = command.stop
        self._period = 1.0 / contract.rate
        self._names = contract.spec.action

    def read(self, message: Any) -> Hand:
        """One message, live or from a bag.

        Raises:
            InputError: a stick or button is missing, or its value is not finite.
        """
        choice, values = None, None
        if self._buttons:
            pressed = [name for name, field in self._buttons.items() if self._stick(message, field)]
            choice = pressed[0] if pressed else None
            used = choice is not None
        else:
            moved = [[self._stick(message, field) * gain for field, gain in gains] for gains in self._gains]
            values = np.array([sum(parts) for parts in moved])
            used = any(part != 0 for parts in moved for part in parts)
        if self._takeover:
            used = self._stick(message, self._takeover) != 0
            if not used:  # the sticks count only while the button is held
                choice, values = None, None if values is None else np.zeros_like(values)
        said = frozenset(name for name, field in self._sayings.items() if self._stick(message, field))
        return Hand(used, values, choice, said)

    def action(self, hand: Hand, now: np.ndarray) -> np.ndarray:
        """The action f32[A] of a joystick's state.

        Args:
            now: f64[axes], present positions in the axes' units, NaN where unknown.
        """
        if self._buttons:
            if hand.choice is not None:
                return np.eye(len(self._names), dtype=np.float32)[self._names.index(hand.choice)]
            return self._commands.action(np.where(np.isnan(self._stop), now, self._stop))
        if self._joystick.mode == 'absolute':
            return self._commands.action(hand.values)
        rest = np.where(np.isnan(self._stop), self._commands.values(np.zeros(len(now))), self._stop)
        return self._commands.action(np.where(np.isnan(now), rest, now) + hand.values * self._period)

    def _stick(self, message: Any, field: Field) -> float:
        """Its value, 0 within the dead zone."""
        value = field.read(message)
        if not abs(value) <= FLOAT32_MAX:
            raise InputError(f'{self._joystick.topic}: {field.text}: expected a finite value, got {value}')
        return value if abs(value) > self._joystick.dead_zone else 0.0


def _field(stick: str) -> Field:
    return Field.parse(stick, JOY)
