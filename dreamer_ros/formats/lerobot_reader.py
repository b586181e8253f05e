"""LeRobot datasets to episodes.

A frame of LeRobot is an observation, the action that answered it and what this earned; there is none after the last
action. An episode of T frames becomes T+1 steps, of which the last observes once more what the one before it did, so
that the last action and its reward are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.labels import Label, Labels
from dreamer_ros.episodes.messages import EPOCH, Sent, episode_data, episode_messages
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.formats.lerobot_metadata import (
    ACTION,
    DONE,
    ORIGIN,
    REWARD,
    TRUNCATED,
    Entry,
    Feature,
    Layout,
    read_table,
)
from dreamer_ros.formats.lerobot_robot import ContractRobot, ExportedRobot, Robot
from dreamer_ros.formats.npz import finite
from dreamer_ros.formats.video_reader import FilmReader
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import Mode, parse_mode
from dreamer_ros.wire.images import fit_image, open_image

TIME_TOLERANCE = 0.1  # by how much of it the time between two frames may differ from what fps says

# An episode for a bag: its number, the robot, what custom_data says, and its messages.
Written = tuple[int, RobotSpec, dict[str, str], Iterator[Sent]]


def read_lerobot(
    root: Path,
    contract: RobotContract | None,
    labels: Labels | None,
    image_size: tuple[int, int] | None,
    problems: list[Problem],
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
        problems.append(
            Problem(
                root,
                f'expected {layout.total} episodes, as meta/info.json says, got {len(layout.entries)} in the metadata',
            )
        )
    unused = [
        f'{feature.key} (a depth map)' if feature.is_depth else feature.key
        for feature in layout.features.values()
        if feature.key not in dataset.used(labels is not None)
    ]
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
                yield entry.index, dataset.robot.spec, data, episode_messages(part, dataset.robot.spec, mode)
    finally:
        dataset.close()
    if clipped:
        problems.append(
            Problem(
                root, f'{clipped} of {frame} actions are beyond the limits of {contract.source} and count as the limits'
            )
        )
    if without:
        problems.append(Problem(root, f'{without} of {len(layout.entries)} episodes are not in {labels.source}'))


class _Dataset:
    """Reads the episodes of a dataset.

    Attributes:
        robot: whose it is.
        period_ns: between two frames.

    Raises:
        InputError: columns are missing, or do not fit the contract.
    """

    def __init__(self, layout: Layout, contract: RobotContract | None, image_size: tuple[int, int] | None):
        self._layout = layout
        self.period_ns = round(1e9 / layout.fps)
        features = layout.features
        for key in (REWARD, DONE, TRUNCATED):
            if key in features and (not features[key].is_vector or features[key].shape != (1,)):
                raise InputError(
                    f'{key}: expected one number per frame, got {features[key].dtype} {list(features[key].shape)}'
                )
        self._known: dict[int, tuple[int, Mode]] = {}  # episode -> when it begins, and who acted
        if contract is not None:
            if image_size is not None:
                raise InputError(f'expected a robot contract or an image size, got both ({contract.source} has one)')
            self.robot: Robot = ContractRobot(layout, contract)
        elif (layout.root / ORIGIN).exists():
            spec, self._known = _origin(layout.root / ORIGIN)
            self.robot = ExportedRobot(layout, spec, image_size)
        else:
            self.robot = Robot(layout, image_size)
        self._films = {camera.feature.key: FilmReader(layout.fps) for camera in self.robot.cameras}
        self._table: tuple[str, Any] = '', None

    def close(self) -> None:
        """Stop decoding."""
        for film in self._films.values():
            film.close()

    def used(self, labelled: bool) -> list[str]:
        """Keys of the columns that count."""
        return [
            ACTION,
            *(camera.feature.key for camera in self.robot.cameras),
            *(number.key for number in self.robot.numbers),
            *(() if labelled else (REWARD, DONE, TRUNCATED)),
        ]

    def episode(self, entry: Entry, begins: int) -> tuple[Episode, Mode, int]:
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
            raise InputError(
                f'timestamp: expected {1 / self._layout.fps:.4f} s between frames {k} and {k + 1}, as '
                f'fps says, got {times[k + 1] - times[k]:.4f}'
            )
        features = self._layout.features
        values = {
            key: self._column(rows, features[key])
            for key in dict.fromkeys(
                [
                    ACTION,
                    *(number.key for number in self.robot.numbers),
                    *(key for key in (REWARD, DONE, TRUNCATED) if key in features),
                ]
            )
        }
        flags = {
            key: values[key][:, 0] != 0 if key in values else np.zeros(len(times), bool) for key in (DONE, TRUNCATED)
        }
        ends = flags[DONE] | flags[TRUNCATED]
        if ends[:-1].any():
            raise InputError(
                f'{DONE}: expected the end at the last of {len(ends)} frames, got it at frame {int(ends.argmax())}'
            )
        action, beyond = self.robot.actions(values[ACTION])
        vector = np.empty((len(times), len(self.robot.numbers)))
        for k, number in enumerate(self.robot.numbers):
            vector[:, k] = np.clip(values[number.key][:, number.element] * number.scale + number.offset, *number.clip)
        begins, mode = self._known.get(entry.index, (begins, Mode('human')))
        stamps = begins + np.arange(len(times) + 1, dtype=np.int64) * self.period_ns
        again = [*range(len(times)), len(times) - 1]
        episode = Episode.of_transitions(
            self._images(rows, entry, int(round(times[0] * self._layout.fps))),
            vector[again],
            action,
            values[REWARD][:, 0] if REWARD in values else np.zeros(len(times)),
            stamps,
            # An episode of a dataset is over where it ends, unless the flags tell that it was cut.
            bool(ends[-1]) or TRUNCATED not in values,
            bool(flags[DONE][-1] and not flags[TRUNCATED][-1]),
        )
        episode.number = entry.index
        return episode, mode, beyond

    def _rows(self, entry: Entry) -> Any:
        """Its part of the table, in order."""
        wanted = {*self.used(False), 'timestamp', 'frame_index', 'episode_index'}
        if self._table[0] != entry.table:
            self._table = (
                entry.table,
                read_table(self._layout.root / entry.table, Path(entry.table), wanted.__contains__),
            )
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
            raise InputError(
                f'{key}: expected {size} numbers in each of {len(rows)} frames, got {len(numbers) - nulls} in all'
            )
        numbers = numbers.astype(np.float64).reshape(len(rows), size)
        if not finite(numbers):
            frame = int((~np.isfinite(numbers).all(1)).argmax())
            raise InputError(
                f'{key}: expected finite numbers, as float32, got {numbers[frame].tolist()} in frame {frame}'
            )
        return numbers

    def _images(self, rows: Any, entry: Entry, start: int) -> np.ndarray:
        """uint8 [T+1, H, W, C] of all cameras, the last one twice."""
        height, width, channels = self.robot.spec.image_shape
        images = np.empty((len(rows) + 1, height, width, channels), np.uint8)
        for number, (feature, crop) in enumerate(self.robot.cameras):
            if feature.dtype == 'video':
                film = entry.films[feature.key]
                frames = self._films[feature.key].frames(
                    self._layout.root / film.path, film.path, film.first + start, len(rows)
                )
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


def _origin(path: Path) -> tuple[RobotSpec, dict[int, tuple[int, Mode]]]:
    """What our own file tells: the robot, and of every episode when it begins (ns) and who acted.

    Raises:
        InputError: it is damaged.
    """
    try:
        content = json.loads(read_text(path))
        return RobotSpec.from_json(json.dumps(content['spec']), str(ORIGIN)), {
            number: (int(entry['begins']), parse_mode(entry['actor']))
            for number, entry in enumerate(content['episodes'])
        }
    except (ValueError, KeyError, TypeError) as error:
        raise (
            error
            if isinstance(error, InputError)
            else InputError(f'{ORIGIN}: expected what `dreamer bag export` writes ({error!r})')
        ) from error


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
        episode.image[rows],
        episode.vector[rows],
        episode.action[first : end - 1],
        reward,
        episode.stamp[rows],
        True,
        label.terminal,
    )
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
