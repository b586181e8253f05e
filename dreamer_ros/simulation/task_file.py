"""The task YAML of a world in `sim/`: read and validated here, explained in sim/README.md."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.sections import Range, Section, parse_yaml


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a body may stand at the start of an episode.

    Attributes:
        body: its name.
        x, y, z: m; None keeps the model's.
        yaw: degrees about the vertical, on top of the model's orientation.
        apart: (other body, least horizontal distance in m) pairs.
    """

    body: str
    x: Range | None
    y: Range | None
    z: Range | None
    yaw: Range | None
    apart: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Reward:
    """One term of the reward: `weight` times a measure of the given type."""

    type: str
    weight: float
    parameters: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class End:
    """A condition that ends the episode: a measure of the given type below or above a bound."""

    type: str
    below: float
    above: float
    reward: float
    parameters: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """A task file whose names are yet to be checked against the model. sim/README.md explains the keys."""

    path: Path
    model: Path
    cameras: tuple[str, ...]
    choices: dict[str, tuple[float, ...]]
    control_period: float
    physics_timestep: float | None
    episode_length: int
    placements: tuple[Placement, ...]
    joints: dict[str, Range]
    rewards: tuple[Reward, ...]
    ends: tuple[End, ...]
    randomise: dict[str, Range]


_PARAMETERS = {  # of each type: which are names, which are positive numbers
    'closeness': (('from', 'to'), ('near', 'far')),
    'progress': (('from', 'to'), ()),
    'facing': (('from', 'to'), ()),
    'effort': ((), ()),
    'distance': (('from', 'to'), ()),
    'height': (('of',), ()),
    'tilt': (('of',), ()),
}
_REWARD_TYPES = ('closeness', 'progress', 'facing', 'effort')
_END_TYPES = ('distance', 'height', 'tilt')
_RANDOMISED = ('light', 'colour', 'friction', 'mass')


def read(path: Path) -> TaskFile:
    """Read a task file.

    Raises:
        InputError: no such file, not YAML, or a key or value that does not belong there.
    """
    top = parse_yaml(read_text(path), f'task file {path}')
    reset, actions = top.section('reset'), top.section('actions')
    task = TaskFile(
        path=path,
        model=path.parent / top.text('model'),
        cameras=top.texts('camera'),
        choices=_choices(actions.section('discrete')),
        control_period=top.positive('control_period'),
        physics_timestep=top.positive('physics_timestep', default=None),
        episode_length=top.count('episode_length', default=1000),
        placements=tuple(_placement(item) for item in reset.items('bodies')),
        joints=_ranges(reset.section('joints')),
        rewards=tuple(_reward(item) for item in top.items('reward')),
        ends=tuple(_end(item) for item in top.items('end')),
        randomise=_ranges(top.section('randomise'), _RANDOMISED, positive=True),
    )
    reset.finish()
    actions.finish()
    top.finish()
    if not task.rewards:
        raise InputError(f'task file {path}: reward: expected a list of at least one term, got none')
    return task


def _placement(section: Section) -> Placement:
    apart = section.section('apart')
    placement = Placement(
        body=section.text('body'),
        x=section.range('x', default=None),
        y=section.range('y', default=None),
        z=section.range('z', default=None),
        yaw=section.range('yaw', default=None),
        apart=tuple((body, apart.positive(body)) for body in apart.keys()),
    )
    section.finish()
    return placement


def _reward(section: Section) -> Reward:
    kind = section.choice('type', _REWARD_TYPES)
    weight = float(section.number('weight', default=1.0))
    parameters = _parameters(section, kind)
    if kind == 'closeness' and parameters['far'] <= parameters['near']:
        section.fail('far', f'more than near ({parameters["near"]})', parameters['far'])
    section.finish()
    return Reward(kind, weight, parameters)


def _end(section: Section) -> End:
    kind = section.choice('type', _END_TYPES)
    bounds = section.keys()
    if ('below' in bounds) == ('above' in bounds):
        section.fail('', 'either below or above', sorted(set(bounds) & {'below', 'above'}))
    end = End(
        type=kind,
        below=float(section.number('below', default=-math.inf)),
        above=float(section.number('above', default=math.inf)),
        reward=float(section.number('reward', default=0.0)),
        parameters=_parameters(section, kind),
    )
    section.finish()
    return end


def _parameters(section: Section, kind: str) -> dict[str, Any]:
    names, numbers = _PARAMETERS[kind]
    parameters = {key: section.text(key) for key in names}
    parameters.update((key, float(section.positive(key))) for key in numbers)
    return parameters


def _choices(section: Section) -> dict[str, tuple[float, ...]]:
    """Discrete actions: name -> control of each actuator."""
    choices = {name: section.numbers(name) for name in section.keys()}
    if len(choices) == 1:
        section.fail('', 'at least 2 choices', next(iter(choices)))
    return choices


def _ranges(section: Section, allowed: tuple[str, ...] = (), positive: bool = False) -> dict[str, Range]:
    """Every key's range; the keys must be among `allowed`, if any are given."""
    ranges = {}
    for key in section.keys():
        if allowed and key not in allowed:
            section.fail('', f'the keys {", ".join(allowed)}', key)
        ranges[key] = section.range(key)
        if positive and ranges[key][0] <= 0:
            section.fail(key, 'factors above 0', list(ranges[key]))
    return ranges
