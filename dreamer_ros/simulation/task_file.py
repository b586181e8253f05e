"""The task YAML of a world in `sim/`: read and validated here, explained in sim/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from dreamer_ros.schema import Count, Expected, Mismatch, Model, Name, Positive, Range, check, load_yaml


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if not len(set(names)) == len(names) > 0:
        raise ValueError
    return names


def _positive(factors: tuple[float, float]) -> tuple[float, float]:
    if not 0 < factors[0] <= factors[1]:
        raise ValueError
    return factors


Names = Annotated[
    tuple[Name, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    AfterValidator(_different),
    Expected('a name or a list of different names'),
]
Factors = Annotated[tuple[float, float], AfterValidator(_positive), Expected('[low, high], factors above 0')]


class Actions(Model):
    """Discrete actions instead of one action per actuator."""

    discrete: dict[str, tuple[float, ...]] = Field({}, description='control of each actuator, by choice')

    @model_validator(mode='after')
    def _are_choices(self) -> Actions:
        if len(self.discrete) == 1:
            raise Mismatch('discrete', 'at least 2 choices', next(iter(self.discrete)))
        return self


class Placement(Model):
    """Where a body may stand at the start of an episode."""

    body: Name = Field(description='a body with a freejoint or mocap')
    x: Range | None = Field(None, description='m; as in the model')
    y: Range | None = Field(None, description='m; as in the model')
    z: Range | None = Field(None, description='m; as in the model')
    yaw: Range | None = Field(None, description="degrees about the vertical, added to the model's orientation; none")
    apart: dict[str, Positive] = Field({}, description='least horizontal distance in m, by other body')


class Reset(Model):
    """What is random at the start of an episode."""

    bodies: tuple[Placement, ...] = Field((), description='placed in this order')
    joints: dict[str, Range] = Field({}, description='degrees or m, by hinge or slide joint')


class _Pair(Model):
    start: Name = Field(alias='from', description='a site or a body')
    goal: Name = Field(alias='to', description='a site or a body')


class _Reward(Model):
    weight: float = Field(1.0, description='times the value')


class Closeness(_Pair, _Reward):
    """From 1 within `near` down to 0.1 at `far`, and on towards 0."""

    type: Literal['closeness'] = Field(description='1 within near, 0.1 at far')
    near: Positive = Field(description='m')
    far: Positive = Field(description='m')

    @model_validator(mode='after')
    def _grows(self) -> Closeness:
        if self.far <= self.near:
            raise Mismatch('far', f'more than near ({self.near})', self.far)
        return self


class Approach(_Pair, _Reward):
    """How a body nears another, or looks at it."""

    type: Literal['progress', 'facing'] = Field(
        description='m by which the distance shrank; or cosine between the x axis and the direction, at least 0'
    )


class Effort(_Reward):
    """Mean square of the action."""

    type: Literal['effort'] = Field(description='mean square of the action')


Reward = Closeness | Approach | Effort


class End(Model):
    """Ends the episode for good where a measure is below or above a bound."""

    below: float | None = Field(None, description='m or degrees')
    above: float | None = Field(None, description='m or degrees')
    reward: float = Field(0.0, description='added once')

    @model_validator(mode='after')
    def _has_one_bound(self) -> End:
        if (self.below is None) == (self.above is None):
            raise Mismatch('', 'either below or above', 'neither' if self.below is None else 'both')
        return self

    def reached(self, value: float) -> bool:
        """Whether a value of the measure ends the episode."""
        return value < self.below if self.below is not None else value > self.above


class Distance(_Pair, End):
    """Distance between two sites or bodies."""

    type: Literal['distance'] = Field(description='m between from and to')


class Posture(End):
    """Height above the ground plane, or inclination."""

    type: Literal['height', 'tilt'] = Field(description='m above z = 0; degrees between its z axis and the vertical')
    of: Name = Field(description='a site or a body')


class Randomise(Model):
    """Factors that are drawn anew for every episode."""

    light: Factors | None = Field(None, description='brightness of all lights; none')
    colour: Factors | None = Field(None, description='red, green and blue of every material and geom; none')
    friction: Factors | None = Field(None, description='sliding friction of all geoms; none')
    mass: Factors | None = Field(None, description='mass and inertia of all bodies; none')


class TaskFile(Model):
    """A task file whose names are yet to be checked against the model."""

    model: Name = Field(description='the MJCF file, relative to the task file')
    camera: Names = Field((), description="that the robot sees through; the model's first")
    actions: Actions = Actions()
    control_period: Positive = Field(description='s per control step, a multiple of the physics timestep')
    physics_timestep: Positive | None = Field(None, description="s; the model's")
    episode_length: Count = Field(1000, description='control steps per episode')
    reset: Reset = Reset()
    reward: tuple[Annotated[Reward, Field(discriminator='type')], ...] = Field(
        (), description='terms whose weighted sum is the reward of a control step'
    )
    end: tuple[Annotated[Distance | Posture, Field(discriminator='type')], ...] = Field(
        (), description='conditions that end the episode for good'
    )
    randomise: Randomise = Randomise()
    _path: Path = PrivateAttr(Path())

    @model_validator(mode='after')
    def _rewards(self) -> TaskFile:
        if not self.reward:
            raise Mismatch('reward', 'a list of at least one term', 'none')
        return self

    @property
    def path(self) -> Path:
        """The file."""
        return self._path


def read(path: Path) -> TaskFile:
    """Read a task file.

    Raises:
        InputError: no such file, not YAML, or a key or value that does not belong there.
    """
    where = f'task file {path}'
    task = check(TaskFile, load_yaml(path, where), where)
    task._path = path
    return task
