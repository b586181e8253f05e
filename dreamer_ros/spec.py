"""What a robot looks like to an agent: observations, actions, rates, limits, and their hash."""
from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Tuple

from dreamer_ros.errors import InputError


@dataclasses.dataclass(frozen=True)
class RobotSpec:
    """The contract between a robot (or simulator) and every policy made for it.

    Attributes:
        name: task or robot name, for people; not part of the hash.
        image_size: (height, width) of the camera image in pixels, RGB.
        vector: names of the scalar inputs (joint positions and velocities) the policy reads; may be empty.
        action: names of the actuators, in the order of the action vector.
        action_low, action_high: physical limits per actuator; on the wire actions are normalised to [-1, 1].
        control_period: seconds between two actions of the agent.
        action_repeat: control steps of the simulator (env steps) per action.

    Raises:
        InputError: a field cannot be converted to its type, or names and limits differ in number.
    """

    name: str
    image_size: Tuple[int, int]
    vector: Tuple[str, ...]
    action: Tuple[str, ...]
    action_low: Tuple[float, ...]
    action_high: Tuple[float, ...]
    control_period: float
    action_repeat: int

    def __post_init__(self):
        # Equal specs must hash equally, whether their numbers came as int, float or numpy scalars.
        convert = {
            'name': str, 'image_size': _tuple_of(int), 'vector': _tuple_of(str), 'action': _tuple_of(str),
            'action_low': _tuple_of(float), 'action_high': _tuple_of(float),
            'control_period': float, 'action_repeat': int}
        for key, kind in convert.items():
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, kind(value))
            except (TypeError, ValueError) as error:
                raise InputError(f'robot spec: {key} cannot be {value!r} ({error})') from error
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise InputError(f'robot spec: image_size must be (height, width) in pixels, got {self.image_size}')
        if not len(self.action) == len(self.action_low) == len(self.action_high):
            raise InputError(
                f'robot spec: {len(self.action)} actions need as many limits, got {len(self.action_low)} '
                f'action_low and {len(self.action_high)} action_high')
        if not self.control_period > 0.0 or self.action_repeat < 1:
            raise InputError(
                f'robot spec: control_period and action_repeat must be positive, got {self.control_period} and '
                f'{self.action_repeat}')

    def to_dict(self) -> dict:
        """Plain JSON-ready values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(',', ':'))

    @classmethod
    def from_json(cls, text: str, source: str) -> RobotSpec:
        """Parse what `to_json` wrote; `source` names the topic or file in the error.

        Raises:
            InputError: the text is not JSON, keys are missing or unknown, or a value does not fit.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f'{source}: robot spec: expected JSON, got {text[:60]!r} ({error})') from error
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise InputError(f'{source}: robot spec: expected the keys {sorted(names)}, got {found}')
        try:
            return cls(**data)
        except InputError as error:
            raise InputError(f'{source}: {error}') from error

    @property
    def hash(self) -> str:
        """16 hex digits over everything but the name: equal hashes mean interchangeable robots."""
        data = self.to_dict()
        del data['name']
        text = json.dumps(data, sort_keys=True, separators=(',', ':'))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def difference(self, other: RobotSpec) -> str:
        """Name the fields that make two specs incompatible, for an error message."""
        mine, theirs = self.to_dict(), other.to_dict()
        return ', '.join(
            f'{key} is {theirs[key]} instead of {mine[key]}'
            for key in mine if key != 'name' and mine[key] != theirs[key]
        )


def _tuple_of(kind):
    def convert(values) -> tuple:
        if isinstance(values, str):  # a string is a sequence, too
            raise TypeError('expected a list')
        return tuple(kind(value) for value in values)
    return convert
