"""Whose a LeRobot dataset is: which of its columns an agent observes, and what its actions mean."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.formats.lerobot_metadata import ACTION, IMAGES, OBSERVATION, ORIGIN, STATE, Feature, Layout
from dreamer_ros.formats.npz import MOST_CHOICES
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import PERIOD_TOLERANCE, RobotContract
from dreamer_ros.sections import Range
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.images import Crop

LIMIT_TOLERANCE = 1e-5  # by how much of their range actions may be beyond their limits
Size = tuple[int, int]


class Camera(NamedTuple):
    """A camera of the robot; `crop` in pixels of the dataset's images."""

    feature: Feature
    crop: Crop | None = None


class Number(NamedTuple):
    """A number that the policy reads: an element of a column times `scale` plus `offset`, then clipped."""

    key: str
    element: int
    scale: float = 1.0
    offset: float = 0.0
    clip: Range = (-math.inf, math.inf)


class Robot:
    """The robot of a dataset, as nothing else tells of it: with all cameras and numbers that were observed, and actions
    between the smallest and the largest ones.

    Args:
        image_size: (height, width) that images are resized to; None for theirs.

    Attributes:
        spec: what an agent sees of it.
        cameras, numbers: where its observations come from, in the order of the spec.

    Raises:
        InputError: columns are missing or do not fit.
    """

    cameras: list[Camera]
    numbers: list[Number]
    spec: RobotSpec

    def __init__(self, layout: Layout, image_size: Size | None):
        self._action = _action(layout)
        cameras, vectors = _cameras(layout), _vectors(layout)
        named = dict(zip(_topic_names(cameras), cameras))
        if 'camera' in named:  # no other camera's topic may be called like that of the first one
            named = {'camera': named.pop('camera'), **named}
        names = [name for feature in vectors for name in _names(feature)]
        if len(set(names)) < len(names):
            names = [name for feature in vectors for name in _counted(feature)]
        if not named and not names:
            raise InputError(
                f'features: expected cameras or numbers called {OBSERVATION}…, got {", ".join(layout.features)}'
            )
        self.cameras = [Camera(feature) for feature in named.values()]
        self.numbers = [Number(*element) for element in _elements(vectors)]
        actions, low, high, discrete = self._limits(layout)
        self.spec = RobotSpec(
            name=layout.root.resolve().name,
            image_size=_image_size(self.cameras, image_size),
            vector=names,
            action=actions,
            action_low=low,
            action_high=high,
            control_period=1 / layout.fps,
            action_repeat=1,
            cameras=tuple(named),
            discrete=discrete,
        )

    def _limits(self, layout: Layout) -> tuple[Sequence[str], np.ndarray, np.ndarray, bool]:
        """Names and limits of the actions, and whether they are choices."""
        size = self._action.shape[0]
        low, high = layout.action_limits()
        if len(low) != size:
            raise InputError(f'meta: expected statistics of {size} numbers of {ACTION}, got {len(low)}')
        if size == 1 and 'int' in self._action.dtype:
            if low[0] < 0 or high[0] >= MOST_CHOICES:
                raise InputError(f'{ACTION}: expected choices from 0, got {low[0]:g} to {high[0]:g}')
            choices = [f'{ACTION}.{k}' for k in range(max(2, int(high[0]) + 1))]
            return choices, np.zeros(len(choices)), np.ones(len(choices)), True
        names = _names(self._action)
        still = low == high
        return names if len(set(names)) == size else _counted(self._action), low - still, high + still, False

    def actions(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Actions f32[T, A] in [-1, 1] of a column f64[T, N], and how many were beyond their limits.

        Raises:
            InputError: there are none that are allowed to.
        """
        size = len(self.spec.action)
        if self.spec.discrete:
            choices = values[:, 0]
            if (choices != np.round(choices)).any() or choices.min() < 0 or choices.max() >= size:
                raise InputError(
                    f'{ACTION}: expected whole numbers from 0 to {size - 1}, got {choices.min():g} to {choices.max():g}'
                )
            return np.eye(size, dtype=np.float32)[choices.astype(int)], 0
        low, high = np.array(self.spec.action_low), np.array(self.spec.action_high)
        beyond = _beyond(values, low, high)
        if beyond.any():
            frame = int(beyond.argmax())
            raise InputError(
                f'{ACTION}: expected numbers between {low.tolist()} and {high.tolist()}, as the metadata '
                f'says, got {values[frame].tolist()} in frame {frame}'
            )
        return np.clip((values - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32), 0


class ExportedRobot(Robot):
    """A robot whose dataset we wrote ourselves."""

    def __init__(self, layout: Layout, spec: RobotSpec, image_size: Size | None):
        self._action = _action(layout)
        features = layout.features
        keys = [IMAGES + name for name in spec.cameras]
        state = features[STATE].shape if STATE in features else (0,)
        if not all(key in features and _size(features[key]) == spec.image_size for key in keys) or (
            state != (len(spec.vector),) or self._action.shape[0] != (1 if spec.discrete else len(spec.action))
        ):
            raise InputError(f'features: expected those of the robot in {ORIGIN}, got {", ".join(features)}')
        self.cameras = [Camera(features[key]) for key in keys]
        self.numbers = [Number(STATE, k) for k in range(len(spec.vector))]
        self.spec = dataclasses.replace(spec, image_size=_image_size(self.cameras, image_size))


class ContractRobot(Robot):
    """A robot as its contract describes it, whose names choose columns. Elements without names in the dataset count in
    their order.
    """

    def __init__(self, layout: Layout, contract: RobotContract):
        self._action, source = _action(layout), contract.source
        if abs(contract.rate / layout.fps - 1) > PERIOD_TOLERANCE:
            raise InputError(f'fps: expected {contract.rate:g}, the rate of {source}, got {layout.fps:g}')
        found, vectors = _cameras(layout), _vectors(layout)
        names = [_camera_name(feature) for feature in found]
        if len(found) == len(contract.cameras) == 1:
            names = [contract.cameras[0].name]
        order = _places([camera.name for camera in contract.cameras], names, True, f'{source}: cameras')
        self.cameras = [Camera(found[k], camera.crop) for k, camera in zip(order, contract.cameras)]
        names = [name for feature in vectors for name in _names(feature)]
        order = _places(
            [entry.name for entry in contract.vector],
            names,
            any(feature.names for feature in vectors),
            f'{source}: vector',
        )
        elements = _elements(vectors)
        self.numbers = [
            Number(*elements[k], entry.scale, entry.offset, entry.clip) for k, entry in zip(order, contract.vector)
        ]
        axes = [axis.name for axis in contract.command.axes]
        if len(axes) != self._action.shape[0]:
            raise InputError(
                f'{ACTION}: expected {len(axes)} numbers, the axes of {source}, got {self._action.shape[0]}'
            )
        self._axes = _places(axes, _names(self._action), bool(self._action.names), f'{source}: command.axes')
        self._low, self._high = np.array([axis.limits for axis in contract.command.axes]).T
        self._commands = Commands(contract)
        self.spec = contract.spec

    def actions(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        values = values[:, self._axes]
        return np.array([self._commands.action(row) for row in values]), int(
            _beyond(values, self._low, self._high).sum()
        )


def _beyond(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which rows of values are not between the limits; bool [T]."""
    slack = LIMIT_TOLERANCE * (high - low)
    return ((values < low - slack) | (values > high + slack)).any(1)


def _action(layout: Layout) -> Feature:
    action = layout.features.get(ACTION)
    if action is None or not action.is_vector:
        raise InputError(f'features: expected {ACTION}, numbers in a row, got {", ".join(layout.features) or "none"}')
    return action


def _cameras(layout: Layout) -> list[Feature]:
    return [feature for feature in layout.features.values() if feature.is_camera and not feature.is_depth]


def _vectors(layout: Layout) -> list[Feature]:
    """Columns of numbers that were observed."""
    return [
        feature for feature in layout.features.values() if feature.key.startswith(OBSERVATION) and feature.is_vector
    ]


def _elements(vectors: Sequence[Feature]) -> list[tuple[str, int]]:
    """Column and place of every number."""
    return [(feature.key, k) for feature in vectors for k in range(feature.shape[0])]


def _names(feature: Feature) -> tuple[str, ...]:
    """Of its elements; made up where the dataset has none."""
    return feature.names if len(feature.names) == feature.shape[0] else _counted(feature)


def _counted(feature: Feature) -> tuple[str, ...]:
    name = feature.key[len(OBSERVATION) :] if feature.key.startswith(OBSERVATION) else feature.key
    return tuple(f'{name}.{k}' for k in range(feature.shape[0]))


def _camera_name(feature: Feature) -> str:
    key = feature.key
    return key[len(IMAGES) :] if key.startswith(IMAGES) else key.rpartition('.')[2]


def _topic_names(features: Sequence[Feature]) -> list[str]:
    """Names that cameras' topics may have; the only camera is `camera`."""
    names: list[str] = []
    for feature in features:
        name = re.sub(r'\W', '_', _camera_name(feature), flags=re.ASCII)
        name = f'_{name}' if name[:1].isdigit() else name
        names.append(name if name not in names else f'{name}_{len(names)}')
    return ['camera'] if len(names) == 1 else names


def _size(feature: Feature) -> Size:
    """(height, width) of its images."""
    if len(feature.shape) == 3 and feature.shape[2] in (1, 3, 4):
        return feature.shape[:2]
    if len(feature.shape) == 3 and feature.shape[0] in (1, 3, 4):
        return feature.shape[1:]
    raise InputError(f'{feature.key}: expected a shape of height, width and channels, got {list(feature.shape)}')


def _image_size(cameras: Sequence[Camera], wanted: Size | None) -> Size:
    """(height, width) of all images: as wanted, or as they are."""
    sizes = {_camera_name(camera.feature): _size(camera.feature) for camera in cameras}
    if not sizes:
        return 0, 0
    if wanted is None and len(set(sizes.values())) > 1:
        found = ', '.join(f'{name} {height}x{width}' for name, (height, width) in sizes.items())
        raise InputError(f'features: expected images of one size, got {found}; --image-size makes them one')
    return wanted or next(iter(sizes.values()))


def _places(wanted: Sequence[str], found: Sequence[str], named: bool, what: str) -> list[int]:
    """Where names are among those of the dataset; in their order where the dataset has none.

    Raises:
        InputError: they are not there.
    """
    if not named and len(wanted) == len(found):
        return list(range(len(found)))
    for name in wanted:
        if list(found).count(name) != 1:
            raise InputError(f'{what}: expected names of the dataset ({", ".join(found) or "none"}), got {name!r}')
    return [list(found).index(name) for name in wanted]
