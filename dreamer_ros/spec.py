"""What a robot looks like to an agent: observations, actions, rates, limits, and their hash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.schema import load_json


class ActionLimits:
    """The physical limits of the axes of an action, and the way between its [-1, 1] and their units.

    Attributes:
        low, high: f64[A] in the units of the axes; what -1 and 1 stand for.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]):
        self.low = np.array(low, np.float64)
        self.high = np.array(high, np.float64)

    def to_units(self, action: np.ndarray) -> np.ndarray:
        """f64[..., A] in units, of actions [..., A] in [-1, 1]; what lies beyond is not clipped."""
        return self.low + (np.asarray(action, np.float64) + 1) / 2 * (self.high - self.low)

    def from_units(self, values: np.ndarray) -> np.ndarray:
        """f32[..., A] in [-1, 1], of values [..., A] in units; what lies beyond the limits is clipped."""
        scaled = (np.asarray(values, np.float64) - self.low) / (self.high - self.low) * 2 - 1
        return np.clip(scaled, -1, 1).astype(np.float32)

    def within(self, values: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
        """bool[...]: whether no axis of values [..., A] is beyond its limits by more than that share of its range."""
        slack = tolerance * (self.high - self.low)
        return np.all((self.low - slack <= values) & (values <= self.high + slack), -1)


@dataclasses.dataclass(frozen=True)
class RobotSpec:
    """The contract between a robot (or simulator) and every policy made for it.

    Attributes:
        name: task or robot name, for people; not part of the hash.
        image_size: (height, width) of every camera's image in pixels, RGB; (0, 0) without cameras.
        vector: names of the scalar inputs (joint positions and velocities) the policy reads; may be empty.
        action: names of the actuators, or of a discrete robot's choices, in the order of the action vector.
        action_low, action_high: physical limits per actuator; on the wire actions are normalised to [-1, 1].
            0 and 1 per choice of a discrete robot.
        control_period: seconds between two actions of the agent.
        action_repeat: control steps of the simulator (env steps) per action.
        cameras: their names; an observation holds their images one after the other along the channels,
            [H, W, 3 * cameras]. May be empty. The only camera of a robot is usually called `camera`.
        discrete: an action is one of several choices, as a one-hot vector.

    Raises:
        InputError: a field cannot be converted to its type, or the fields contradict each other.
    """

    name: str
    image_size: tuple[int, int]
    vector: tuple[str, ...]
    action: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    control_period: float
    action_repeat: int
    cameras: tuple[str, ...] = ('camera',)
    discrete: bool = False

    def __post_init__(self):
        # Equal specs must hash equally, whether their numbers came as int, float or numpy scalars.
        convert = {
            'name': str,
            'image_size': _tuple_of(int),
            'vector': _tuple_of(str),
            'action': _tuple_of(str),
            'action_low': _tuple_of(float),
            'action_high': _tuple_of(float),
            'control_period': float,
            'action_repeat': int,
            'cameras': _tuple_of(str),
            'discrete': _flag,
        }
        for key, kind in convert.items():
            value = getattr(self, key)
            try:
                object.__setattr__(self, key, kind(value))
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f'robot spec: {key} cannot be {value!r} ({error})') from error
        # The first publishes on camera/image_raw, so that no other may be called like that.
        if (
            len(set(self.cameras)) < len(self.cameras)
            or 'camera' in self.cameras[1:]
            or not all(_CAMERA.fullmatch(name) for name in self.cameras)
        ):
            raise InputError(
                'robot spec: cameras must be different names of letters, digits and underscores '
                f'that do not begin with a digit, and `camera` only the first, got {self.cameras}'
            )
        if self.cameras:
            if len(self.image_size) != 2 or min(self.image_size) < 1:
                raise InputError(f'robot spec: image_size must be (height, width) in pixels, got {self.image_size}')
        elif self.image_size != (0, 0) or not self.vector:
            raise InputError(
                'robot spec: without cameras image_size must be (0, 0) and vector not empty, '
                f'got {self.image_size} and {self.vector}'
            )
        if self.discrete and len(self.action) < 2:
            raise InputError(f'robot spec: discrete needs an action of at least 2 choices, got {self.action}')
        if not len(self.action) == len(self.action_low) == len(self.action_high):
            raise InputError(
                f'robot spec: {len(self.action)} actions need as many limits, got {len(self.action_low)} '
                f'action_low and {len(self.action_high)} action_high'
            )
        if not self.control_period > 0.0 or self.action_repeat < 1:
            raise InputError(
                f'robot spec: control_period and action_repeat must be positive, got {self.control_period} and '
                f'{self.action_repeat}'
            )

    @property
    def channels(self) -> int:
        """Of the image of an observation: 3 per camera."""
        return 3 * len(self.cameras)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the image of an observation."""
        return (*self.image_size, self.channels)

    @functools.cached_property
    def limits(self) -> ActionLimits:
        """Of the actuators; of a discrete robot 0 and 1 per choice."""
        return ActionLimits(self.action_low, self.action_high)

    def simulator_options(self) -> dict[str, Any]:
        """The options with which a simulator of the task shows an agent what the spec describes."""
        if not self.cameras:
            return {'inputs': 'vector', 'action_repeat': self.action_repeat}
        return {
            'inputs': 'both' if self.vector else 'image',
            'image_size': self.image_size,
            'cameras': () if self.cameras == ('camera',) else self.cameras,
            'action_repeat': self.action_repeat,
        }

    def to_dict(self) -> dict:
        """Plain JSON-ready values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
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
        data = load_json(text, f'{source}: robot spec')
        names = {field.name for field in dataclasses.fields(cls)}
        # Before there were several cameras and discrete actions, specs did not speak of them.
        if not isinstance(data, dict) or not names - set(_LATER) <= set(data) <= names:
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise InputError(f'{source}: robot spec: expected the keys {sorted(names)}, got {found}')
        try:
            return cls(**data)
        except InputError as error:
            raise InputError(f'{source}: {error}') from error

    @property
    def hash(self) -> str:
        """16 hex digits over everything but the name: equal hashes mean interchangeable robots."""
        data = {key: value for key, value in self.to_dict().items() if key != 'name' and value != _LATER.get(key)}
        text = json.dumps(data, sort_keys=True, separators=(',', ':'))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def difference(self, other: RobotSpec) -> str:
        """Name the fields that make two specs incompatible, for an error message."""
        mine, theirs = self.to_dict(), other.to_dict()
        return ', '.join(
            f'{key} is {theirs[key]} instead of {mine[key]}'
            for key in mine
            if key != 'name' and mine[key] != theirs[key]
        )


# Fields that came later, by the value that says what older specs meant: it leaves their hashes as they were.
_LATER = {'cameras': ['camera'], 'discrete': False}

_CAMERA = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')


def _flag(value) -> bool:
    if value not in (True, False):
        raise TypeError('expected true or false')
    return bool(value)


def _tuple_of(kind):
    def convert(values) -> tuple:
        if isinstance(values, str):  # a string is a sequence, too
            raise TypeError('expected a list')
        return tuple(kind(value) for value in values)

    return convert
