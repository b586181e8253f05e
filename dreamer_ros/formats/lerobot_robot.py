"""The robot of a LeRobot dataset: the columns that an agent observes, and the meaning of its actions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.formats.lerobot_metadata import ACTION, IMAGES, OBSERVATION, ORIGIN, STATE, Feature, Metadata
from dreamer_ros.formats.npz import choice_count, one_hot
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import PERIOD_TOLERANCE, RobotContract
from dreamer_ros.spec import ActionLimits, RobotSpec
from dreamer_ros.wire.images import PLAIN, View

Size = tuple[int, int]
NO_CLIP = (-math.inf, math.inf)


class Camera(NamedTuple):
    """A camera of the robot. `view` is of the dataset's images."""

    feature: Feature
    view: View = PLAIN


class Number(NamedTuple):
    """A number that the policy reads: an element of a column times `scale` plus `offset`, then clipped."""

    key: str
    element: int
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float, float] = NO_CLIP


@dataclasses.dataclass
class DatasetRobot:
    """A robot, and its columns in a dataset.

    Attributes:
        spec: the robot as agents see it.
        cameras, numbers: where its observations come from, in the order of the spec.
        actions: from a column f64[T, N] to f32[T, A] in [-1, 1] and the number of those beyond the limits. Raises
            InputError where the limits are strict.
    """

    spec: RobotSpec
    cameras: list[Camera]
    numbers: list[Number]
    actions: Callable[[np.ndarray], tuple[np.ndarray, int]]


def observed_robot(data: Metadata, image_size: Size | None) -> DatasetRobot:
    """The robot of a dataset without a contract: all cameras and observed numbers, and actions between the smallest and
    the largest of the dataset.

    Args:
        image_size: (height, width) that images are resized to; None for theirs.

    Raises:
        InputError: columns are missing or do not fit.
    """
    action, features, vectors = _action(data), _cameras(data), _vectors(data)
    named = dict(zip(_topic_names(features), features))
    if 'camera' in named:  # the name of the first camera's topic
        named = {'camera': named.pop('camera'), **named}
    names = [name for feature in vectors for name in feature.elements]
    if len(set(names)) < len(names):
        names = [name for feature in vectors for name in feature.numbered]
    if not named and not names:
        raise InputError(f'features: expected cameras or numbers called {OBSERVATION}…, got {", ".join(data.features)}')
    cameras = [Camera(feature) for feature in named.values()]
    axes, limits, discrete = _observed_limits(data, action)
    spec = RobotSpec(
        name=data.root.resolve().name,
        image_size=_image_size(cameras, image_size),
        vector=tuple(names),
        action=tuple(axes),
        action_low=tuple(limits.low),
        action_high=tuple(limits.high),
        control_period=1 / data.fps,
        action_repeat=1,
        cameras=tuple(named),
        discrete=discrete,
    )
    return DatasetRobot(spec, cameras, [Number(*place) for place in _elements(vectors)], _actions_within(spec))


def exported_robot(data: Metadata, spec: RobotSpec, image_size: Size | None) -> DatasetRobot:
    """The robot of a dataset that we wrote ourselves; see `observed_robot`."""
    action, features = _action(data), data.features
    keys = [IMAGES + name for name in spec.cameras]
    state = features[STATE].shape if STATE in features else (0,)
    if (
        not all(key in features and features[key].image_size == spec.image_size for key in keys)
        or state != (len(spec.vector),)
        or action.shape[0] != (1 if spec.discrete else len(spec.action))
    ):
        raise InputError(f'features: expected those of the robot in {ORIGIN}, got {", ".join(features)}')
    cameras = [Camera(features[key]) for key in keys]
    spec = dataclasses.replace(spec, image_size=_image_size(cameras, image_size))
    return DatasetRobot(spec, cameras, [Number(STATE, k) for k in range(len(spec.vector))], _actions_within(spec))


def contract_robot(data: Metadata, contract: RobotContract) -> DatasetRobot:
    """A robot as its contract describes it. The contract's names choose columns. Where the dataset has no names, the
    order of the elements counts.

    Raises:
        InputError: columns are missing or do not fit.
    """
    action, source, command = _action(data), contract.source, contract.command
    if abs(contract.rate / data.fps - 1) > PERIOD_TOLERANCE:
        raise InputError(f'fps: expected {contract.rate:g}, the rate of {source}, got {data.fps:g}')
    found, vectors = _cameras(data), _vectors(data)
    names = [feature.camera for feature in found]
    if len(found) == len(contract.cameras) == 1:
        names = list(contract.cameras)
    order = _places(list(contract.cameras), names, True, f'{source}: cameras')
    cameras = [
        Camera(found[k], View(crop=camera.crop, rotate=camera.rotate))
        for k, camera in zip(order, contract.cameras.values())
    ]
    order = _places(
        list(contract.spec.vector),
        [name for feature in vectors for name in feature.elements],
        any(feature.names for feature in vectors),
        f'{source}: vector',
    )
    elements = _elements(vectors)
    numbers = [
        Number(*elements[k], entry.scale, entry.offset, entry.clip or NO_CLIP)
        for k, entry in zip(order, (entry for entry in contract.vector for _ in entry.names))
    ]
    axes = [axis.name for axis in command.axes]
    if len(axes) != action.shape[0]:
        raise InputError(f'{ACTION}: expected {len(axes)} numbers, the axes of {source}, got {action.shape[0]}')
    columns = _places(axes, action.elements, bool(action.names), f'{source}: command.axes')
    limits, commands = ActionLimits(*zip(*(axis.limits for axis in command.axes))), Commands(contract)

    def actions(values: np.ndarray) -> tuple[np.ndarray, int]:
        values = values[:, columns]
        return np.array([commands.action(row) for row in values]), int((~limits.within(values)).sum())

    return DatasetRobot(contract.spec, cameras, numbers, actions)


def _observed_limits(data: Metadata, action: Feature) -> tuple[Sequence[str], ActionLimits, bool]:
    """Names and limits of the actions, and whether they are choices."""
    size = action.shape[0]
    low, high = data.action_limits()
    if len(low) != size:
        raise InputError(f'meta: expected statistics of {size} numbers of {ACTION}, got {len(low)}')
    if size == 1 and 'int' in action.dtype:
        choices = [f'{ACTION}.{k}' for k in range(choice_count(np.array([low, high]), ACTION))]
        return choices, ActionLimits([0] * len(choices), [1] * len(choices)), True
    names = action.elements
    still = low == high
    limits = ActionLimits(low - still, high + still)
    return names if len(set(names)) == size else action.numbered, limits, False


def _actions_within(spec: RobotSpec) -> Callable[[np.ndarray], tuple[np.ndarray, int]]:
    """Strict `DatasetRobot.actions`: none may be beyond the limits of the robot."""

    def actions(values: np.ndarray) -> tuple[np.ndarray, int]:
        if spec.discrete:
            return one_hot(values[:, 0], len(spec.action), ACTION), 0
        sound = spec.limits.within(values)
        if not sound.all():
            frame = int(sound.argmin())
            raise InputError(
                f'{ACTION}: expected numbers between {list(spec.action_low)} and {list(spec.action_high)}, as the '
                f'metadata says, got {values[frame].tolist()} in frame {frame}'
            )
        return spec.limits.from_units(values), 0

    return actions


def _action(data: Metadata) -> Feature:
    action = data.features.get(ACTION)
    if action is None or not action.is_vector:
        raise InputError(f'features: expected {ACTION}, numbers in a row, got {", ".join(data.features) or "none"}')
    return action


def _cameras(data: Metadata) -> list[Feature]:
    return [feature for feature in data.features.values() if feature.is_camera]


def _vectors(data: Metadata) -> list[Feature]:
    """Columns of observed numbers."""
    return [feature for feature in data.features.values() if feature.key.startswith(OBSERVATION) and feature.is_vector]


def _elements(vectors: Sequence[Feature]) -> list[tuple[str, int]]:
    """Column and place of every number."""
    return [(feature.key, k) for feature in vectors for k in range(feature.shape[0])]


def _topic_names(features: Sequence[Feature]) -> list[str]:
    """Cameras' names as topics may have them. A single camera is called `camera`."""
    names: list[str] = []
    for feature in features:
        name = re.sub(r'\W', '_', feature.camera, flags=re.ASCII)
        name = f'_{name}' if name[:1].isdigit() else name
        names.append(name if name not in names else f'{name}_{len(names)}')
    return ['camera'] if len(names) == 1 else names


def _image_size(cameras: Sequence[Camera], wanted: Size | None) -> Size:
    """(height, width) of all images: the wanted one, else the dataset's."""
    sizes = {camera.feature.camera: camera.feature.image_size for camera in cameras}
    if not sizes:
        return 0, 0
    if wanted is None and len(set(sizes.values())) > 1:
        found = ', '.join(f'{name} {height}x{width}' for name, (height, width) in sizes.items())
        raise InputError(f'features: expected images of one size, got {found}; --image-size makes them one')
    return wanted or next(iter(sizes.values()))


def _places(wanted: Sequence[str], found: Sequence[str], named: bool, what: str) -> list[int]:
    """Positions of names among those of the dataset. Where the dataset has none, the order counts.

    Raises:
        InputError: a name is missing or doubled.
    """
    if not named and len(wanted) == len(found):
        return list(range(len(found)))
    for name in wanted:
        if list(found).count(name) != 1:
            raise InputError(f'{what}: expected names of the dataset ({", ".join(found) or "none"}), got {name!r}')
    return [list(found).index(name) for name in wanted]
