"""The task YAML of a world in `sim/`: read and validated here, explained in sim/README.md."""
from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import yaml

from dreamer_ros.errors import InputError

Range = Tuple[float, float]


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
    x: Optional[Range]
    y: Optional[Range]
    z: Optional[Range]
    yaw: Optional[Range]
    apart: Tuple[Tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Reward:
    """One term of the reward: `weight` times a measure of the given type."""

    type: str
    weight: float
    parameters: Dict[str, Any]


@dataclasses.dataclass(frozen=True)
class End:
    """A condition that ends the episode: a measure of the given type below or above a bound."""

    type: str
    below: float
    above: float
    reward: float
    parameters: Dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """A task file whose names are yet to be checked against the model. sim/README.md explains the keys."""

    path: Path
    model: Path
    cameras: Tuple[str, ...]
    choices: Dict[str, Tuple[float, ...]]
    control_period: float
    physics_timestep: Optional[float]
    episode_length: int
    placements: Tuple[Placement, ...]
    joints: Dict[str, Range]
    rewards: Tuple[Reward, ...]
    ends: Tuple[End, ...]
    randomise: Dict[str, Range]


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
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise InputError(f'task file {path}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'task file {path}: expected YAML, got {" ".join(str(error).split())}') from error
    top = _Section(path, '', content)
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


class _Section:
    """A mapping of the file; values are taken out by key, and what is left over at the end is unknown."""

    def __init__(self, path: Path, where: str, content: Any):
        self._path = path
        self._where = where
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            self.fail('', 'a mapping of names to values', content)
        self._left = dict(content)
        self._known = []

    def fail(self, key: str, expected: str, got: Any) -> None:
        raise InputError(f'task file {self._path}: {self._place(key)}: expected {expected}, got {got!r}')

    def keys(self) -> Tuple[str, ...]:
        return tuple(self._left)

    def text(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a name', lambda value: isinstance(value, str) and value, default)

    def texts(self, key: str) -> Tuple[str, ...]:
        """A name or a list of different ones; empty by default."""
        value = self._take(key, 'a name or a list of different names', _is_names, {'default': []})
        return (value,) if isinstance(value, str) else tuple(value)

    def numbers(self, key: str) -> Tuple[float, ...]:
        value = self._take(key, 'a list of numbers',
                           lambda value: isinstance(value, list) and all(map(_is_number, value)), {})
        return tuple(float(number) for number in value)

    def number(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a number', _is_number, default)

    def positive(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a number above 0', lambda value: _is_number(value) and value > 0, default)

    def count(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a whole number of at least 1',
                          lambda value: isinstance(value, int) and _is_number(value) and value >= 1, default)

    def range(self, key: str, **default: Any) -> Optional[Range]:
        value = self._take(key, '[low, high]', _is_range, default)
        return value and (float(value[0]), float(value[1]))

    def choice(self, key: str, options: Tuple[str, ...]) -> str:
        return self._take(key, f'one of {", ".join(options)}', lambda value: value in options, {})

    def section(self, key: str) -> _Section:
        self._known.append(key)
        return _Section(self._path, self._place(key), self._left.pop(key, {}))

    def items(self, key: str) -> Tuple[_Section, ...]:
        content = self._take(key, 'a list', lambda value: isinstance(value, list), {'default': []})
        return tuple(_Section(self._path, f'{self._place(key)}[{number}]', item)
                     for number, item in enumerate(content))

    def finish(self) -> None:
        if self._left:
            self.fail('', f'the keys {", ".join(self._known)}', next(iter(self._left)))

    def _take(self, key: str, expected: str, valid: Any, default: Dict[str, Any]) -> Any:
        self._known.append(key)
        if key not in self._left:
            if default:
                return default['default']
            raise InputError(f'task file {self._path}: {self._place(key)} ({expected}) is missing')
        value = self._left.pop(key)
        if not valid(value):
            self.fail(key, expected, value)
        return value

    def _place(self, key: str) -> str:
        return '.'.join(part for part in (self._where, key) if part) or 'the whole file'


def _placement(section: _Section) -> Placement:
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


def _reward(section: _Section) -> Reward:
    kind = section.choice('type', _REWARD_TYPES)
    weight = float(section.number('weight', default=1.0))
    parameters = _parameters(section, kind)
    if kind == 'closeness' and parameters['far'] <= parameters['near']:
        section.fail('far', f'more than near ({parameters["near"]})', parameters['far'])
    section.finish()
    return Reward(kind, weight, parameters)


def _end(section: _Section) -> End:
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


def _parameters(section: _Section, kind: str) -> Dict[str, Any]:
    names, numbers = _PARAMETERS[kind]
    parameters = {key: section.text(key) for key in names}
    parameters.update((key, float(section.positive(key))) for key in numbers)
    return parameters


def _choices(section: _Section) -> Dict[str, Tuple[float, ...]]:
    """Discrete actions: name -> control of each actuator."""
    choices = {name: section.numbers(name) for name in section.keys()}
    if len(choices) == 1:
        section.fail('', 'at least 2 choices', next(iter(choices)))
    return choices


def _ranges(section: _Section, allowed: Tuple[str, ...] = (), positive: bool = False) -> Dict[str, Range]:
    """Every key's range; the keys must be among `allowed`, if any are given."""
    ranges = {}
    for key in section.keys():
        if allowed and key not in allowed:
            section.fail('', f'the keys {", ".join(allowed)}', key)
        ranges[key] = section.range(key)
        if positive and ranges[key][0] <= 0:
            section.fail(key, 'factors above 0', list(ranges[key]))
    return ranges


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_names(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return (isinstance(names, list) and all(isinstance(name, str) and name for name in names)
            and len(set(names)) == len(names) > 0)


def _is_range(value: Any) -> bool:
    return (isinstance(value, list) and len(value) == 2 and all(_is_number(bound) for bound in value)
            and value[0] <= value[1])
