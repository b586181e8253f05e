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
    """

    name: str
    image_size: Tuple[int, int]
    vector: Tuple[str, ...]
    action: Tuple[str, ...]
    action_low: Tuple[float, ...]
    action_high: Tuple[float, ...]
    control_period: float
    action_repeat: int

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
    def from_json(cls, text: str) -> RobotSpec:
        """Parse what `to_json` wrote.

        Raises:
            InputError: the text is not JSON, or keys are missing or unknown.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f'robot spec: expected JSON, got {text[:60]!r} ({error})') from error
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise InputError(f'robot spec: expected the keys {sorted(names)}, got {found}')
        return cls(
            name=str(data['name']),
            image_size=tuple(int(n) for n in data['image_size']),
            vector=tuple(data['vector']),
            action=tuple(data['action']),
            action_low=tuple(float(x) for x in data['action_low']),
            action_high=tuple(float(x) for x in data['action_high']),
            control_period=float(data['control_period']),
            action_repeat=int(data['action_repeat']),
        )

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
