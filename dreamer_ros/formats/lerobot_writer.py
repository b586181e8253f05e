"""Writes episodes as a LeRobot dataset of version 3.0; see `lerobot_metadata`.

Images are PNG in the table, which loses nothing, and actions are in the robot's units. The format has no place for the
observation after the last action.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from dreamer_ros.episodes.bag_reader import partial_path
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.formats.exporting import read_bag
from dreamer_ros.formats.lerobot_metadata import (
    ACTION,
    BOOKKEEPING,
    DONE,
    IMAGES,
    INFO,
    ORIGIN,
    REWARD,
    STATE,
    STATS,
    TRUNCATED,
)
from dreamer_ros.spec import RobotSpec

# LeRobot's limits: megabytes in one file of a table, and files in a folder.
FILE_MB, FILES = 100, 1000
FILE = 'chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
PICTURE = pyarrow.struct([('bytes', pyarrow.binary()), ('path', pyarrow.string())])

# Smallest, largest, mean, standard deviation and count of a column's elements.
Statistics = dict[str, np.ndarray]


def export_lerobot(bags: Iterable[Path], folder: Path) -> Iterator[tuple[Path, int, list[Problem]]]:
    """Write the episodes of bags of one robot as one dataset. The folder gets its name when it is whole.

    Yields:
        A bag, the number of frames from it, and what could not be used.

    Raises:
        InputError: `folder` exists, the bags are of different robots or hold no episode, or the disk
            refuses.
    """
    if folder.exists():
        raise InputError(f'{folder}: expected a new folder for the dataset, but it exists')
    partial = partial_path(folder.parent, folder.name)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        dataset: _Dataset | None = None
        for bag in bags:
            spec, episodes, problems = read_bag(bag, bag.parent)
            dataset = dataset or _Dataset(partial, spec)
            if dataset.spec.hash != spec.hash:
                raise InputError(
                    f'{bag}: expected the robot of the bags before it, but {dataset.spec.difference(spec)}'
                )
            before = dataset.frames
            for episode in episodes:
                if len(episode) < 2:
                    problems.append(Problem(bag, 'an episode without an action is left out', len(episode)))
                else:
                    dataset.add(episode)
            yield bag, dataset.frames - before, problems
        if dataset is None or not dataset.frames:
            raise InputError(f'{folder}: expected an episode to write, got none')
        dataset.finish()
        partial.rename(folder)
    except OSError as error:
        raise InputError(f'{folder}: can not be written ({error.strerror or error})') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Dataset:
    """A dataset that grows.

    Attributes:
        spec: the robot.
        frames: written so far.
    """

    def __init__(self, root: Path, spec: RobotSpec):
        self.spec, self.frames = spec, 0
        self._root = root
        self._features = _features(spec)
        self._episodes: list[dict[str, Any]] = []  # rows of their table
        self._statistics: list[dict[str, Statistics]] = []  # of each episode, by column
        self._tasks: dict[str, int] = {}
        self._origin: list[dict[str, Any]] = []
        self._writer: parquet.ParquetWriter | None = None
        self._file = -1
        self._bytes = 0

    def add(self, episode: Episode) -> None:
        """Append an episode with at least one action."""
        length = len(episode) - 1
        task = episode.meta.get('instruction') or self.spec.name
        columns = self._columns(episode, self._tasks.setdefault(task, len(self._tasks)))
        table = pyarrow.table({key: _column(values) for key, values in columns.items()})
        if self._writer is None or self._bytes >= FILE_MB * 2**20:
            self._next_file(table.schema)
        self._writer.write_table(table)
        self._bytes += table.nbytes
        statistics = {key: _statistics(values) for key, values in columns.items()}
        chunk, file = divmod(self._file, FILES)
        self._episodes.append(
            {
                'episode_index': len(self._episodes),
                'tasks': [task],
                'length': length,
                'data/chunk_index': chunk,
                'data/file_index': file,
                'dataset_from_index': self.frames,
                'dataset_to_index': self.frames + length,
                'meta/episodes/chunk_index': 0,
                'meta/episodes/file_index': 0,
                **{f'stats/{key}/{name}': value for key, found in statistics.items() for name, value in _lists(found)},
            }
        )
        self._statistics.append(statistics)
        self._origin.append({'begins': int(episode.stamp[0]), 'actor': episode.actor})
        self.frames += length

    def finish(self) -> None:
        """Write the metadata, which are known only at the end."""
        self._writer.close()
        fps, number = 1 / self.spec.control_period, len(self._episodes)
        info = {
            'codebase_version': 'v3.0',
            'robot_type': self.spec.name,
            'total_episodes': number,
            'total_frames': self.frames,
            'total_tasks': len(self._tasks),
            'chunks_size': FILES,
            'data_files_size_in_mb': FILE_MB,
            'video_files_size_in_mb': 200,
            'fps': round(fps) if abs(fps - round(fps)) < 1e-6 * fps else fps,
            'splits': {'train': f'0:{number}'},
            'data_path': f'data/{FILE}',
            'video_path': None,
            'features': self._features,
        }
        stats = {key: dict(_lists(_together([each[key] for each in self._statistics]))) for key in self._features}
        origin = {'spec': self.spec.to_dict(), 'episodes': self._origin}
        place = self._root / 'meta' / 'episodes' / FILE.format(chunk_index=0, file_index=0)
        place.parent.mkdir(parents=True)
        for path, content in ((INFO, info), (STATS, stats), (ORIGIN, origin)):
            (self._root / path).write_text(json.dumps(content, indent=4), encoding='utf-8')
        parquet.write_table(pyarrow.Table.from_pylist(self._episodes), place)
        parquet.write_table(_task_table(self._tasks), self._root / 'meta' / 'tasks.parquet')

    def _columns(self, episode: Episode, task: int) -> dict[str, np.ndarray]:
        """[T, N] of every column of numbers, uint8 [T, H, W, 3] of every camera."""
        length, spec = len(episode) - 1, self.spec
        action, frame = episode.action[:-1], np.arange(length)
        numbers = {
            STATE: episode.vector[:-1],
            ACTION: action.argmax(1) if spec.discrete else spec.limits.to_units(action),
            REWARD: episode.reward[1:],
            DONE: episode.is_last[1:],
            TRUNCATED: episode.is_last[1:] & ~episode.is_terminal[1:],
            'timestamp': frame * spec.control_period,
            'frame_index': frame,
            'episode_index': np.full(length, len(self._episodes)),
            'index': self.frames + frame,
            'task_index': np.full(length, task),
        }
        columns = {IMAGES + name: episode.image[:-1, ..., 3 * k : 3 * k + 3] for k, name in enumerate(spec.cameras)}
        for key, values in numbers.items():
            if key in self._features:
                columns[key] = values.reshape(length, -1).astype(self._features[key]['dtype'])
        return columns

    def _next_file(self, schema: pyarrow.Schema) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file, self._bytes = self._file + 1, 0
        path = self._root / 'data' / FILE.format(chunk_index=self._file // FILES, file_index=self._file % FILES)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = parquet.ParquetWriter(path, schema)


def _features(spec: RobotSpec) -> dict[str, dict[str, Any]]:
    """The columns as info.json describes them, in order."""
    image = {'dtype': 'image', 'shape': [*spec.image_size, 3], 'names': ['height', 'width', 'channels']}
    numbers: dict[str, tuple[str, tuple[str, ...] | None]] = {
        **({STATE: ('float32', spec.vector)} if spec.vector else {}),
        ACTION: ('int64', None) if spec.discrete else ('float32', spec.action),
        REWARD: ('float32', None),
        DONE: ('bool', None),
        TRUNCATED: ('bool', None),
        **{key: ('float32' if key == 'timestamp' else 'int64', None) for key in BOOKKEEPING},
    }
    return {
        **{IMAGES + name: image for name in spec.cameras},
        **{
            key: {'dtype': dtype, 'shape': [len(names or 'x')], 'names': names and list(names)}
            for key, (dtype, names) in numbers.items()
        },
    }


def _column(values: np.ndarray) -> pyarrow.Array:
    """A column of a table. Single numbers are not nested."""
    if values.ndim == 4:
        return pyarrow.array([{'bytes': _png(image), 'path': None} for image in values], PICTURE)
    if values.shape[1] == 1:
        return pyarrow.array(values[:, 0])
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, 'PNG', compress_level=1)
    return buffer.getvalue()


def _statistics(values: np.ndarray) -> Statistics:
    """Of [T, N], [N] each; of images [T, H, W, 3] from 0 to 1, [3, 1, 1] each."""
    count = {'count': np.array([len(values)])}
    if values.ndim == 2:
        return {name: getattr(values.astype(np.float64), name)(0) for name in ('min', 'max', 'mean', 'std')} | count
    counts = np.array([np.bincount(values[..., k].ravel(), minlength=256) for k in range(3)])
    levels, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    found = {
        'min': levels[(counts > 0).argmax(1)],
        'max': levels[255 - (counts[:, ::-1] > 0).argmax(1)],
        'mean': mean,
        'std': np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1)),
    }
    return {name: value[:, None, None] for name, value in found.items()} | count


def _together(found: list[Statistics]) -> Statistics:
    """Statistics of all episodes from those of each."""
    stacked = {name: np.stack([values[name] for values in found]) for name in found[0]}
    weight = (stacked['count'] / stacked['count'].sum()).reshape(-1, *[1] * (stacked['mean'].ndim - 1))
    mean = (stacked['mean'] * weight).sum(0)
    return {
        'min': stacked['min'].min(0),
        'max': stacked['max'].max(0),
        'mean': mean,
        'std': np.sqrt(((stacked['std'] ** 2 + (stacked['mean'] - mean) ** 2) * weight).sum(0)),
        'count': stacked['count'].sum(0),
    }


def _lists(values: Statistics) -> Iterator[tuple[str, list]]:
    return ((name, value.tolist()) for name, value in values.items())


def _task_table(tasks: dict[str, int]) -> pyarrow.Table:
    """A table of pandas with the task in words as its index, where LeRobot looks it up."""
    index = '__index_level_0__'
    table = pyarrow.table({'task_index': list(tasks.values()), index: list(tasks)})
    keys = ('name', 'field_name', 'pandas_type', 'numpy_type', 'metadata')
    columns = (('task_index', 'task_index', 'int64', 'int64', None), (None, index, 'unicode', 'object', None))
    about = {
        'index_columns': [index],
        'column_indexes': [],
        'columns': [dict(zip(keys, column)) for column in columns],
        'pandas_version': '1.5.0',
        'creator': {'library': 'pyarrow', 'version': pyarrow.__version__},
    }
    return table.replace_schema_metadata({'pandas': json.dumps(about)})
