"""Reads the episodes of LeRobot datasets.

A frame of LeRobot is an observation, the action that answered it and the reward for that. There is no observation after
the last action. An episode of T frames becomes T+1 steps. The last step repeats the observation before it, so that the
last action and its reward are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute

from dreamer_ros.episodes.episode import Episode, actor_data
from dreamer_ros.episodes.labels import Label, Labels
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.formats.lerobot_metadata import ACTION, DONE, ORIGIN, REWARD, TRUNCATED, Entry, Metadata, read_table
from dreamer_ros.formats.lerobot_robot import contract_robot, exported_robot, observed_robot
from dreamer_ros.formats.npz import EPOCH, finite
from dreamer_ros.formats.video_reader import FilmReader
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.schema import load_json
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.encodings import rgb_picture
from dreamer_ros.wire.images import fit, open_image

TIME_TOLERANCE = 0.1  # relative difference from 1 / fps that the time between two frames may have


def read_lerobot(
    root: Path,
    contract: RobotContract | None,
    labels: Labels | None,
    image_size: tuple[int, int] | None,
    problems: list[Problem],
) -> Iterator[tuple[RobotSpec, Episode, bool]]:
    """The episodes of a dataset, one at a time, each with its robot and whether its rewards are known.

    Args:
        contract: of the robot. Its names choose columns, its limits normalise actions. None takes all observations,
            with the smallest and the largest action of the dataset as limits.
        labels: rewards and ends instead of the dataset's; only labelled times become episodes.
        image_size: (height, width) that images are resized to.
        problems: gets what can't be used.

    Raises:
        InputError: nothing of the dataset can be used.
    """
    data = Metadata(root)
    dataset = _Dataset(data, contract, image_size)
    if data.total not in (None, len(data.entries)):
        reason = f'expected {data.total} episodes, as meta/info.json says, got {len(data.entries)} in the metadata'
        problems.append(Problem(root, reason))
    used = {*dataset.columns, *(camera.feature.key for camera in dataset.robot.cameras)}
    if labels is not None:
        used -= {REWARD, DONE, TRUNCATED}
    unused = [
        f'{feature.key} (a depth map)' if feature.is_depth else feature.key
        for feature in data.features.values()
        if feature.key not in used
    ]
    if unused:
        problems.append(Problem(root, f'not used: {", ".join(unused)}'))
    rewarded = labels is not None or REWARD in data.features
    if not rewarded:
        problems.append(Problem(root, f'all rewards are 0: there is no {REWARD}, and there are no labels'))
    without = clipped = 0
    frame = 0  # of the whole dataset
    try:
        for place, entry in enumerate(data.entries):
            begins = EPOCH + (frame + place) * dataset.period_ns
            frame += entry.length
            try:
                episode, beyond = dataset.episode(entry, begins)
                found = [episode] if labels is None else list(_labelled(episode, labels))
            except InputError as error:
                problems.append(Problem(root, f'episode {entry.number}: {error}', entry.length))
                continue
            without += not found
            clipped += beyond
            for part in found:
                yield dataset.robot.spec, part, rewarded
    finally:
        dataset.close()
    if clipped and contract:
        reason = f'{clipped} of {frame} actions are beyond the limits of {contract.source} and count as the limits'
        problems.append(Problem(root, reason))
    if without and labels:
        problems.append(Problem(root, f'{without} of {len(data.entries)} episodes are not in {labels.source}'))


class _Dataset:
    """Reads the episodes of a dataset.

    Attributes:
        robot: the one recorded.
        columns: keys of the numbers to read.
        period_ns: between two frames.

    Raises:
        InputError: columns are missing, or do not fit the contract.
    """

    def __init__(self, data: Metadata, contract: RobotContract | None, image_size: tuple[int, int] | None):
        self._data = data
        self.period_ns = round(1e9 / data.fps)
        given = [data.features[key] for key in (REWARD, DONE, TRUNCATED) if key in data.features]
        for feature in given:
            if not feature.is_vector or feature.shape != (1,):
                raise InputError(
                    f'{feature.key}: expected one number per frame, got {feature.dtype} {list(feature.shape)}'
                )
        self._known: dict[int, tuple[int, dict[str, str]]] = {}  # episode -> when it begins, and who acted
        if contract is not None:
            if image_size is not None:
                raise InputError(f'expected a robot contract or an image size, got both ({contract.source} has one)')
            self.robot = contract_robot(data, contract)
        elif (data.root / ORIGIN).exists():
            spec, self._known = _origin(data.root / ORIGIN)
            self.robot = exported_robot(data, spec, image_size)
        else:
            self.robot = observed_robot(data, image_size)
        numbers = [number.key for number in self.robot.numbers]
        self.columns = list(dict.fromkeys([ACTION, *numbers, *(feature.key for feature in given)]))
        self._films = {camera.feature.key: FilmReader(data.fps) for camera in self.robot.cameras}
        self._table: tuple[str, Any] = '', None

    def close(self) -> None:
        """Stop decoding."""
        for film in self._films.values():
            film.close()

    def episode(self, entry: Entry, begins: int) -> tuple[Episode, int]:
        """An episode, and how many of its actions were beyond their limits.

        Args:
            begins: stamp of its first step (ns), unless the dataset has one.

        Raises:
            InputError: it can't be used.
        """
        rows, fps = self._rows(entry), self._data.fps
        times = _numbers(rows, 'timestamp', 1)[:, 0]
        late = np.abs(np.diff(times) * fps - 1) > TIME_TOLERANCE
        if late.any():
            k = int(late.argmax())
            raise InputError(
                f'timestamp: expected {1 / fps:.4f} s between frames {k} and {k + 1}, as fps says, '
                f'got {times[k + 1] - times[k]:.4f}'
            )
        values = {key: _numbers(rows, key, self._data.features[key].shape[0]) for key in self.columns}
        nothing = np.zeros((len(times), 1))
        reward, done, truncated = (values.get(key, nothing)[:, 0] for key in (REWARD, DONE, TRUNCATED))
        ends = (done != 0) | (truncated != 0)
        if ends[:-1].any():
            raise InputError(
                f'{DONE}: expected the end at the last of {len(ends)} frames, got it at frame {int(ends.argmax())}'
            )
        action, beyond = self.robot.actions(values[ACTION])
        vector = np.empty((len(times), len(self.robot.numbers)))
        for k, number in enumerate(self.robot.numbers):
            vector[:, k] = np.clip(values[number.key][:, number.element] * number.scale + number.offset, *number.clip)
        begins, acted = self._known.get(entry.number, (begins, {}))
        again = [*range(len(times)), len(times) - 1]
        episode = Episode.of_transitions(
            self._images(rows, entry, int(round(times[0] * fps))),
            vector[again],
            action,
            reward,
            begins + np.arange(len(again), dtype=np.int64) * self.period_ns,
            # The end of a recorded episode is its last step, unless the flags say that it was cut.
            bool(ends[-1]) or TRUNCATED not in values,
            bool(done[-1] and not truncated[-1]),
        )
        episode.number = entry.number
        episode.meta = {**acted, **({'instruction': '; '.join(entry.tasks)} if entry.tasks else {})}
        return episode, beyond

    def _rows(self, entry: Entry) -> Any:
        """The episode's rows of the table, in order."""
        pictures = [camera.feature.key for camera in self.robot.cameras]
        wanted = {*self.columns, *pictures, 'timestamp', 'frame_index', 'episode_index'}
        if self._table[0] != entry.table:
            table = read_table(self._data.root, entry.table, wanted.__contains__)
            self._table = entry.table, table
        table = self._table[1]
        for key in ('episode_index', 'frame_index'):
            if key not in table.column_names or not pyarrow.types.is_integer(table.schema.field(key).type):
                raise InputError(f'{entry.table}: expected a column {key} of whole numbers')
        rows = table.filter(compute.equal(table['episode_index'], entry.number))
        if len(rows) != entry.length:
            raise InputError(f'{entry.table}: expected {entry.length} frames, as the metadata says, got {len(rows)}')
        if rows['frame_index'].to_pylist() != list(range(entry.length)):
            raise InputError(f'{entry.table}: expected frame_index from 0 to {entry.length - 1} in order, got others')
        return rows

    def _images(self, rows: Any, entry: Entry, start: int) -> np.ndarray:
        """uint8 [T+1, H, W, C] of all cameras, the last one twice."""
        height, width, channels = self.robot.spec.image_shape
        images = np.empty((len(rows) + 1, height, width, channels), np.uint8)
        for number, (feature, view) in enumerate(self.robot.cameras):
            key = feature.key
            if feature.dtype == 'video':
                path, first = entry.films[key]
                films = self._films[key].frames(self._data.root / path, path, first + start, len(rows))
                frames = (rgb_picture(frame) for frame in films)
            else:
                frames = (open_image(data, key) for data in _pictures(rows, key))
            place = slice(3 * number, 3 * number + 3)
            for k, frame in enumerate(frames):
                try:
                    images[k, ..., place] = fit(frame, view, (height, width))
                except InputError as error:
                    raise InputError(f'{key} in frame {k}: {error}') from error
        images[-1] = images[-2]
        return images


def _origin(path: Path) -> tuple[RobotSpec, dict[int, tuple[int, dict[str, str]]]]:
    """The content of our own file: the robot, and for every episode its first stamp (ns) and who acted.

    Raises:
        InputError: it is damaged.
    """
    content = load_json(path, str(ORIGIN))
    try:
        known = {
            number: (int(entry['begins']), actor_data(entry['actor'] or ''))
            for number, entry in enumerate(content['episodes'])
        }
        return RobotSpec.from_json(json.dumps(content['spec']), str(ORIGIN)), known
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{ORIGIN}: expected what `dreamer bag export` writes ({error!r})') from error


def _numbers(rows: Any, key: str, size: int) -> np.ndarray:
    """f64[T, N] of a column of numbers."""
    if key not in rows.column_names:
        raise InputError(f'{key}: expected a column of that name, got {", ".join(rows.column_names)}')
    try:
        numbers = np.array(rows[key].to_pylist(), np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f'{key}: expected {size} numbers in each frame, got {rows[key].type}') from error
    if numbers.size != len(rows) * size:
        raise InputError(f'{key}: expected {size} numbers in each of {len(rows)} frames, got {numbers.size} in all')
    numbers = numbers.reshape(len(rows), size)
    if not finite(numbers):
        frame = int((~np.isfinite(numbers.astype(np.float32)).all(1)).argmax())
        raise InputError(f'{key}: expected finite numbers, as float32, got {numbers[frame].tolist()} in frame {frame}')
    return numbers


def _pictures(rows: Any, key: str) -> Iterator[Any]:
    """The PNG or JPEG of every frame."""
    kind = rows.schema.field(key).type if key in rows.column_names else None
    if not (isinstance(kind, pyarrow.StructType) and kind.get_field_index('bytes') >= 0):
        raise InputError(f'{key}: expected a column of pictures (bytes and path), got {kind or "none"}')
    for k, data in enumerate(compute.struct_field(rows[key], 'bytes')):
        if not data.is_valid:
            raise InputError(f'{key}: expected a picture in every frame, got none in frame {k}')
        yield data.as_buffer()


def _labelled(episode: Episode, labels: Labels) -> Iterator[Episode]:
    """The labelled parts of an episode, with rewards and ends as the labels say."""
    stamps = episode.stamp.tolist()
    for label in labels.of(f'episode_{episode.number:06d}', stamps[0], stamps[-1]):
        rows = [k for k, stamp in enumerate(stamps) if label.start <= stamp <= label.end]
        if len(rows) > 1:
            yield _part(episode, label, slice(rows[0], rows[-1] + 1))


def _part(episode: Episode, label: Label, rows: slice) -> Episode:
    stamps = episode.stamp[rows].tolist()
    reward = [label.reward(before, stamp, stamp == stamps[-1]) for before, stamp in zip(stamps, stamps[1:])]
    part = Episode.of_transitions(
        episode.image[rows],
        episode.vector[rows],
        episode.action[rows][:-1],
        np.array(reward),
        episode.stamp[rows],
        True,
        label.terminal,
    )
    part.meta, part.number = dict(episode.meta), episode.number
    return part
