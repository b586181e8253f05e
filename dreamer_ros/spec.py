"""What a robot looks like to an agent: observations, actions, rates, limits, and their hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

from dreamer_ros.errors import InputError


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
            except (TypeError, ValueError) as error:
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
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f'{source}: robot spec: expected JSON, got {text[:60]!r} ({error})') from error
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
