"""LeRobot datasets to episodes.

A frame of LeRobot is an observation, the action that answered it and what this earned; there is none after the last
action. An episode of T frames becomes T+1 steps, of which the last observes once more what the one before it did, so
that the last action and its reward are kept.
"""
from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pyarrow
from pyarrow import compute

from dreamer_ros.bridge.codecs import Mode, parse_mode
from dreamer_ros.bridge.commands import Commands
from dreamer_ros.bridge.contract import PERIOD_TOLERANCE, RobotContract
from dreamer_ros.bridge.images import Crop, fit_image, open_image
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.replay.arrays import MOST_CHOICES, finite
from dreamer_ros.replay.episode import Episode, Problem
from dreamer_ros.replay.films import FilmReader
from dreamer_ros.replay.labels import Label, Labels
from dreamer_ros.replay.lerobot_layout import (
    ACTION, DONE, IMAGES, OBSERVATION, ORIGIN, REWARD, STATE, TRUNCATED, Entry, Feature, Layout, read_table)
from dreamer_ros.replay.messages import EPOCH, Sent, episode_data, episode_messages
from dreamer_ros.sections import Range
from dreamer_ros.spec import RobotSpec

TIME_TOLERANCE = 0.1  # by how much of it the time between two frames may differ from what fps says
LIMIT_TOLERANCE = 1e-5  # by how much of their range actions may be beyond their limits

# An episode for a bag: its number, the robot, what custom_data says, and its messages.
Written = Tuple[int, RobotSpec, Dict[str, str], Iterator[Sent]]


def read_lerobot(
    root: Path, contract: Optional[RobotContract], labels: Optional[Labels], image_size: Optional[Tuple[int, int]],
    problems: List[Problem]
) -> Iterator[Written]:
    """The episodes of a dataset as messages of our own topics, one at a time.

    Args:
        contract: of the robot; its names choose columns, its limits normalise actions. None to take all observations
            there are, and the smallest and the largest action of the dataset as limits.
        labels: rewards and ends instead of the dataset's; only labelled times become episodes.
        image_size: (height, width) that images are resized to.
        problems: gets what can't be used.

    Raises:
        InputError: the dataset is of no use at all.
    """
    layout = Layout(root)
    dataset = _Dataset(layout, contract, image_size)
    if layout.total not in (None, len(layout.entries)):
        problems.append(Problem(root, f'expected {layout.total} episodes, as meta/info.json says, got '
                                      f'{len(layout.entries)} in the metadata'))
    unused = [f'{feature.key} (a depth map)' if feature.is_depth else feature.key
              for feature in layout.features.values() if feature.key not in dataset.used(labels is not None)]
    if unused:
        problems.append(Problem(root, f'not used: {", ".join(unused)}'))
    rewarded = labels is not None or REWARD in layout.features
    if not rewarded:
        problems.append(Problem(root, f'all rewards are 0: there is no {REWARD}, and there are no labels'))
    without = clipped = 0
    frame = 0  # of the whole dataset
    try:
        for place, entry in enumerate(layout.entries):
            begins = EPOCH + (frame + place) * dataset.period_ns
            frame += entry.length
            try:
                episode, mode, beyond = dataset.episode(entry, begins)
                episode.meta.update({'instruction': '; '.join(entry.tasks)} if entry.tasks else {})
                found = [episode] if labels is None else list(_labelled(episode, labels))
                without += not found
                clipped += beyond
            except InputError as error:
                problems.append(Problem(root, f'episode {entry.index}: {error}', entry.length))
                continue
            for part in found:
                data = episode_data(part, mode)
                if not rewarded:
                    del data['return']
                yield entry.index, dataset.spec, data, episode_messages(part, dataset.spec, mode)
    finally:
        dataset.close()
    if clipped:
        problems.append(Problem(root, f'{clipped} of {frame} actions are beyond the limits of {contract.source} and '
                                      'count as the limits'))
    if without:
        problems.append(Problem(root, f'{without} of {len(layout.entries)} episodes are not in {labels.source}'))


class _Camera(NamedTuple):
    """A camera of the robot; `crop` in pixels of the dataset's images."""

    feature: Feature
    crop: Optional[Crop] = None


class _Number(NamedTuple):
    """A number that the policy reads: an element of a column times `scale` plus `offset`, then clipped."""

    key: str
    element: int
    scale: float = 1.0
    offset: float = 0.0
    clip: Range = (-math.inf, math.inf)


class _Dataset:
    """How the columns of a dataset become what an agent sees and does.

    Attributes:
        spec: the robot.
        period_ns: between two frames.

    Raises:
        InputError: columns are missing, or do not fit the contract.
    """

    def __init__(
        self, layout: Layout, contract: Optional[RobotContract], image_size: Optional[Tuple[int, int]]
    ):
        self._layout = layout
        self._contract = contract
        self.period_ns = round(1e9 / layout.fps)
        features = layout.features
        self._action = features.get(ACTION)
        if self._action is None or not self._action.is_vector:
            raise InputError(f'features: expected {ACTION}, numbers in a row, got {", ".join(features) or "none"}')
        for key in (REWARD, DONE, TRUNCATED):
            if key in features and (not features[key].is_vector or features[key].shape != (1,)):
                raise InputError(f'{key}: expected one number per frame, got {features[key].dtype} '
                                 f'{list(features[key].shape)}')
        self._numbers: List[_Number] = []
        self._axes = list(range(self._action.shape[0]))
        origin = _origin(layout.root) if contract is None else {}
        self._episodes = origin.get('episodes', {})
        if contract is not None:
            if image_size is not None:
                raise InputError(f'expected a robot contract or an image size, got both ({contract.source} has one)')
            self._as_contract(contract)
        elif origin:
            self._as_exported(origin['spec'], image_size)
        else:
            self._as_found(image_size)
        self._films = {camera.feature.key: FilmReader(layout.fps) for camera in self._cameras}
        self._table: Tuple[str, Any] = '', None

    def close(self) -> None:
        """Stop decoding."""
        for film in self._films.values():
            film.close()

    def used(self, labelled: bool) -> List[str]:
        """Keys of the columns that count."""
        return [ACTION, *(camera.feature.key for camera in self._cameras), *(number.key for number in self._numbers),
                *(() if labelled else (REWARD, DONE, TRUNCATED))]

    # The robot

    def _as_found(self, image_size: Optional[Tuple[int, int]]) -> None:
        """All cameras and numbers that were observed; actions between the smallest and the largest ones."""
        cameras = _cameras(self._layout)
        named = dict(zip(_camera_names(cameras), cameras))
        if 'camera' in named:  # no other camera's topic may be called like that of the first one
            named = {'camera': named.pop('camera'), **named}
        vectors = _vectors(self._layout)
        names = [name for feature in vectors for name in _names(feature)]
        if len(set(names)) < len(names):
            names = [f'{_short(feature)}.{k}' for feature in vectors for k in range(feature.shape[0])]
        if not named and not names:
            raise InputError(f'features: expected cameras or numbers called {OBSERVATION}…, got '
                             f'{", ".join(self._layout.features)}')
        discrete = self._action.shape == (1,) and 'int' in self._action.dtype
        low, high = self._layout.action_limits()
        if len(low) != self._action.shape[0]:
            raise InputError(f'meta: expected statistics of {self._action.shape[0]} numbers of {ACTION}, got '
                             f'{len(low)}')
        if discrete:
            if low[0] < 0 or high[0] >= MOST_CHOICES:
                raise InputError(f'{ACTION}: expected choices from 0, got {low[0]:g} to {high[0]:g}')
            actions = [f'{ACTION}.{k}' for k in range(max(2, int(high[0]) + 1))]
            low, high = np.zeros(len(actions)), np.ones(len(actions))
        else:
            actions = list(_names(self._action))
            actions = actions if len(set(actions)) == len(actions) else [f'{ACTION}.{k}' for k in range(len(actions))]
            still = low == high
            low, high = low - still, high + still
        self._cameras = [_Camera(feature) for feature in named.values()]
        self._numbers = [_Number(feature.key, k) for feature in vectors for k in range(feature.shape[0])]
        self.spec = RobotSpec(
            name=self._layout.root.resolve().name, image_size=self._image_size(image_size), vector=names,
            action=actions, action_low=low, action_high=high, control_period=1 / self._layout.fps, action_repeat=1,
            cameras=tuple(named), discrete=discrete)

    def _as_exported(self, spec: RobotSpec, image_size: Optional[Tuple[int, int]]) -> None:
        """What we wrote ourselves, of a robot that is known."""
        features = self._layout.features
        keys = [IMAGES + name for name in spec.cameras]
        state = features.get(STATE)
        if not (all(key in features for key in keys)
                and (state.shape[0] if state else 0) == len(spec.vector)
                and self._action.shape[0] == (1 if spec.discrete else len(spec.action))):
            raise InputError(f'features: expected those of the robot in {ORIGIN}, got {", ".join(features)}')
        self._cameras = [_Camera(features[key]) for key in keys]
        self._numbers = [_Number(STATE, k) for k in range(len(spec.vector))]
        self.spec = dataclasses.replace(spec, image_size=self._image_size(image_size))

    def _as_contract(self, contract: RobotContract) -> None:
        """What a robot contract names. Elements without names in the dataset count in their order."""
        if abs(contract.rate / self._layout.fps - 1) > PERIOD_TOLERANCE:
            raise InputError(f'fps: expected {contract.rate:g}, the rate of {contract.source}, got '
                             f'{self._layout.fps:g}')
        found = _cameras(self._layout)
        names = [_camera_name(feature) for feature in found]
        if len(found) == len(contract.cameras) == 1:
            names = [contract.cameras[0].name]
        order = _places([camera.name for camera in contract.cameras], names, True, f'{contract.source}: cameras')
        self._cameras = [_Camera(found[k], camera.crop) for k, camera in zip(order, contract.cameras)]
        vectors = _vectors(self._layout)
        elements = [(feature.key, k) for feature in vectors for k in range(feature.shape[0])]
        order = _places([entry.name for entry in contract.vector], [name for feature in vectors for name in _names(
            feature)], any(feature.names for feature in vectors), f'{contract.source}: vector')
        self._numbers = [_Number(*elements[k], entry.scale, entry.offset, entry.clip)
                         for k, entry in zip(order, contract.vector)]
        axes = [axis.name for axis in contract.command.axes]
        if len(axes) != self._action.shape[0]:
            raise InputError(f'{ACTION}: expected {len(axes)} numbers, the axes of {contract.source}, got '
                             f'{self._action.shape[0]}')
        self._axes = _places(axes, _names(self._action), bool(self._action.names), f'{contract.source}: command.axes')
        self._commands = Commands(contract)
        self.spec = contract.spec

    def _image_size(self, wanted: Optional[Tuple[int, int]]) -> Tuple[int, int]:
        sizes = {_camera_name(camera.feature): _size(camera.feature) for camera in self._cameras}
        if not sizes:
            return 0, 0
        if wanted is None and len(set(sizes.values())) > 1:
            found = ', '.join(f'{name} {height}x{width}' for name, (height, width) in sizes.items())
            raise InputError(f'features: expected images of one size, got {found}; --image-size makes them one')
        return wanted or next(iter(sizes.values()))

    # Episodes

    def episode(self, entry: Entry, begins: int) -> Tuple[Episode, Mode, int]:
        """An episode, who acted, and how many of its actions were beyond their limits.

        Args:
            begins: stamp of its first step where nothing else is known, ns.

        Raises:
            InputError: it can't be used.
        """
        rows = self._rows(entry)
        times = self._column(rows, Feature('timestamp', 'float32', (1,), (), False))[:, 0]
        late = np.abs(np.diff(times) * self._layout.fps - 1) > TIME_TOLERANCE
        if late.any():
            k = int(late.argmax())
            raise InputError(f'timestamp: expected {1 / self._layout.fps:.4f} s between frames {k} and {k + 1}, as '
                             f'fps says, got {times[k + 1] - times[k]:.4f}')
        features = self._layout.features
        values = {key: self._column(rows, features[key]) for key in dict.fromkeys(
            [ACTION, *(number.key for number in self._numbers), *(
                key for key in (REWARD, DONE, TRUNCATED) if key in features)])}
        flags = {key: values[key][:, 0] != 0 if key in values else np.zeros(len(times), bool)
                 for key in (DONE, TRUNCATED)}
        ends = flags[DONE] | flags[TRUNCATED]
        if ends[:-1].any():
            raise InputError(f'{DONE}: expected the end at the last of {len(ends)} frames, got it at frame '
                             f'{int(ends.argmax())}')
        action, beyond = self._actions(values[ACTION][:, self._axes])
        vector = np.array([
            np.clip(values[number.key][:, number.element] * number.scale + number.offset, *number.clip)
            for number in self._numbers]).reshape(len(self._numbers), -1).T
        about = self._episodes.get(entry.index, {})
        stamps = int(about.get('begins', begins)) + np.arange(len(times) + 1, dtype=np.int64) * self.period_ns
        again = [*range(len(times)), len(times) - 1]
        episode = Episode.of_transitions(
            self._images(rows, entry, int(round(times[0] * self._layout.fps))), vector[again], action,
            values[REWARD][:, 0] if REWARD in values else np.zeros(len(times)), stamps,
            # An episode of a dataset is over where it ends, unless the flags tell that it was cut.
            bool(ends[-1]) or TRUNCATED not in values, bool(flags[DONE][-1] and not flags[TRUNCATED][-1]))
        episode.number = entry.index
        return episode, about.get('actor', Mode('human')), beyond

    def _rows(self, entry: Entry) -> Any:
        """Its part of the table, in order."""
        wanted = {*self.used(False), 'timestamp', 'frame_index', 'episode_index'}
        if self._table[0] != entry.table:
            self._table = entry.table, read_table(
                self._layout.root / entry.table, Path(entry.table), wanted.__contains__)
        table = self._table[1]
        for key in ('episode_index', 'frame_index'):
            if key not in table.column_names or not pyarrow.types.is_integer(table.schema.field(key).type):
                raise InputError(f'{entry.table}: expected a column {key} of whole numbers')
        rows = table.filter(compute.equal(table['episode_index'], entry.index))
        if len(rows) != entry.length:
            raise InputError(f'{entry.table}: expected {entry.length} frames, as the metadata says, got {len(rows)}')
        if rows['frame_index'].to_pylist() != list(range(entry.length)):
            raise InputError(f'{entry.table}: expected frame_index from 0 to {entry.length - 1} in order, got others')
        return rows

    def _column(self, rows: Any, feature: Feature) -> np.ndarray:
        """f64[T, N] of a column of numbers."""
        key, size = feature.key, feature.shape[0]
        if key not in rows.column_names:
            raise InputError(f'{key}: expected a column of that name, got {", ".join(rows.column_names)}')
        column = rows[key].combine_chunks()
        nulls = column.null_count
        try:
            while hasattr(column.type, 'value_type') and not isinstance(column.type, pyarrow.DictionaryType):
                column = column.flatten()
                nulls += column.null_count
            if column.type == pyarrow.bool_():
                column = column.cast(pyarrow.int8())
            numbers = column.to_numpy(zero_copy_only=False)
        except pyarrow.ArrowException as error:
            raise InputError(f'{key}: expected numbers ({error})') from error
        if numbers.dtype.kind not in 'iuf' and not nulls:
            raise InputError(f'{key}: expected {feature.dtype}, got {rows[key].type}')
        if nulls or len(numbers) != len(rows) * size:
            raise InputError(f'{key}: expected {size} numbers in each of {len(rows)} frames, got '
                             f'{len(numbers) - nulls} in all')
        numbers = numbers.astype(np.float64).reshape(len(rows), size)
        if not finite(numbers):
            frame = int((~np.isfinite(numbers).all(1)).argmax())
            raise InputError(f'{key}: expected finite numbers, as float32, got {numbers[frame].tolist()} in frame '
                             f'{frame}')
        return numbers

    def _actions(self, values: np.ndarray) -> Tuple[np.ndarray, int]:
        """f32[T, A] in [-1, 1], and how many were beyond their limits."""
        size = len(self.spec.action)
        if self._contract is not None:
            low, high = np.array([axis.limits for axis in self._contract.command.axes]).T
            return np.array([self._commands.action(row) for row in values]), int(_beyond(values, low, high).sum())
        if self.spec.discrete:
            choices = values[:, 0]
            if (choices != np.round(choices)).any() or choices.min() < 0 or choices.max() >= size:
                raise InputError(f'{ACTION}: expected whole numbers from 0 to {size - 1}, got {choices.min():g} to '
                                 f'{choices.max():g}')
            return np.eye(size, dtype=np.float32)[choices.astype(int)], 0
        low, high = np.array(self.spec.action_low), np.array(self.spec.action_high)
        beyond = _beyond(values, low, high)
        if beyond.any():
            frame = int(beyond.argmax())
            raise InputError(f'{ACTION}: expected numbers between {low.tolist()} and {high.tolist()}, as the '
                             f'statistics say, got {values[frame].tolist()} in frame {frame}')
        return np.clip((values - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32), 0

    def _images(self, rows: Any, entry: Entry, start: int) -> np.ndarray:
        """uint8 [T+1, H, W, C] of all cameras, the last one twice."""
        height, width, channels = self.spec.image_shape
        images = np.empty((len(rows) + 1, height, width, channels), np.uint8)
        for number, (feature, crop) in enumerate(self._cameras):
            if feature.dtype == 'video':
                film = entry.films[feature.key]
                frames = self._films[feature.key].frames(
                    self._layout.root / film.path, film.path, film.first + start, len(rows))
            else:
                frames = (open_image(data, feature.key) for data in _pictures(rows, feature.key))
            place = slice(3 * number, 3 * number + 3)
            for k, frame in enumerate(frames):
                try:
                    images[k, ..., place] = fit_image(frame, crop, (height, width))
                except InputError as error:
                    raise InputError(f'{feature.key} in frame {k}: {error}') from error
        images[-1] = images[-2]
        return images


def _origin(root: Path) -> Dict[str, Any]:
    """The robot and the episodes by number, as our own file tells; empty without it.

    Raises:
        InputError: it is damaged.
    """
    if not (root / ORIGIN).exists():
        return {}
    try:
        content = json.loads(read_text(root / ORIGIN))
        return {'spec': RobotSpec.from_json(json.dumps(content['spec']), str(ORIGIN)), 'episodes': {
            number: {'begins': int(entry['begins']), 'actor': parse_mode(entry['actor'])}
            for number, entry in enumerate(content['episodes'])}}
    except (ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, InputError) else InputError(
            f'{ORIGIN}: expected what `dreamer bag export` writes ({error!r})') from error


def _labelled(episode: Episode, labels: Labels) -> Iterator[Episode]:
    """The labelled parts of an episode, with rewards and ends as the labels say."""
    stamps = episode.stamp.tolist()
    for label in labels.of(f'episode_{episode.number:06d}', stamps[0], stamps[-1]):
        rows = [k for k, stamp in enumerate(stamps) if label.start <= stamp <= label.end]
        if len(rows) > 1:
            yield _part(episode, label, rows[0], rows[-1] + 1)


def _part(episode: Episode, label: Label, first: int, end: int) -> Episode:
    rows = slice(first, end)
    stamps = episode.stamp[rows].tolist()
    reward = np.array([label.reward(before, stamp, stamp == stamps[-1]) for before, stamp in zip(stamps, stamps[1:])])
    part = Episode.of_transitions(
        episode.image[rows], episode.vector[rows], episode.action[first:end - 1], reward, episode.stamp[rows], True,
        label.terminal)
    part.meta, part.number = dict(episode.meta), episode.number
    return part


def _pictures(rows: Any, key: str) -> Iterator[Any]:
    """The bytes of the PNG or JPEG of every frame."""
    kind = rows.schema.field(key).type if key in rows.column_names else None
    if not (isinstance(kind, pyarrow.StructType) and kind.get_field_index('bytes') >= 0):
        raise InputError(f'{key}: expected a column of pictures (bytes and path), got {kind or "none"}')
    for k, data in enumerate(compute.struct_field(rows[key], 'bytes')):
        if not data.is_valid:
            raise InputError(f'{key}: expected a picture in every frame, got none in frame {k}')
        yield data.as_buffer()


def _beyond(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which rows of values are not between the limits; bool [T]."""
    slack = LIMIT_TOLERANCE * (high - low)
    return ((values < low - slack) | (values > high + slack)).any(1)


def _cameras(layout: Layout) -> List[Feature]:
    return [feature for feature in layout.features.values() if feature.is_camera and not feature.is_depth]


def _vectors(layout: Layout) -> List[Feature]:
    """Columns of numbers that were observed."""
    return [feature for feature in layout.features.values()
            if feature.key.startswith(OBSERVATION) and feature.is_vector]


def _names(feature: Feature) -> Tuple[str, ...]:
    """Of its elements; made up where the dataset has none."""
    if len(feature.names) == feature.shape[0]:
        return feature.names
    return tuple(f'{_short(feature)}.{k}' for k in range(feature.shape[0]))


def _short(feature: Feature) -> str:
    return feature.key[len(OBSERVATION):] if feature.key.startswith(OBSERVATION) else feature.key


def _camera_name(feature: Feature) -> str:
    key = feature.key
    return key[len(IMAGES):] if key.startswith(IMAGES) else key.rpartition('.')[2]


def _camera_names(features: Sequence[Feature]) -> List[str]:
    """Names that topics may have; the only camera is `camera`."""
    names: List[str] = []
    for feature in features:
        name = re.sub(r'\W', '_', _camera_name(feature), flags=re.ASCII)
        name = f'_{name}' if name[:1].isdigit() else name
        names.append(name if name not in names else f'{name}_{len(names)}')
    return ['camera'] if len(names) == 1 else names


def _size(feature: Feature) -> Tuple[int, int]:
    """(height, width) of its images."""
    if len(feature.shape) == 3 and feature.shape[2] in (1, 3, 4):
        return feature.shape[:2]
    if len(feature.shape) == 3 and feature.shape[0] in (1, 3, 4):
        return feature.shape[1:]
    raise InputError(f'{feature.key}: expected a shape of height, width and channels, got {list(feature.shape)}')


def _places(wanted: Sequence[str], found: Sequence[str], named: bool, what: str) -> List[int]:
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
