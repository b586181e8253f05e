"""The files and the metadata of a LeRobot dataset of version 2.0, 2.1 or 3.0.

    meta/info.json                           versions, frames per second, features
    meta/episodes.jsonl, tasks.jsonl         2.x: length and tasks of every episode
    meta/episodes/chunk-000/file-000.parquet 3.0: the same, and the place of every episode in the other files
    meta/stats.json, episodes_stats.jsonl    smallest and largest values of every feature
    data/*.parquet                           one row per frame; 2.x: an episode per file, 3.0: many
    videos/*.mp4                             the same for every camera that is a video

Imports pyarrow only where a table is read, so that `is_lerobot` needs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.schema import Count, Expected, Model, Name, Positive, check, load_json

INFO = Path('meta') / 'info.json'
STATS = Path('meta') / 'stats.json'
# Our own file beside LeRobot's, for the robot and for who acted.
ORIGIN = Path('meta') / 'dreamer_ros.json'
ACTION, REWARD, DONE, TRUNCATED = 'action', 'next.reward', 'next.done', 'next.truncated'
STATE = 'observation.state'
OBSERVATION, IMAGES = 'observation.', 'observation.images.'
# Columns of every frame that are no features.
BOOKKEEPING = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')

_NUMBERS = re.compile(r'float(16|32|64)|u?int(8|16|32|64)|bool')
# Files of an episode by major version: its table, and its video of a camera.
_PATHS = {
    2: ('data/chunk-{chunk:03d}/episode_{file:06d}.parquet', 'videos/chunk-{chunk:03d}/{key}/episode_{file:06d}.mp4'),
    3: ('data/chunk-{chunk:03d}/file-{file:03d}.parquet', 'videos/{key}/chunk-{chunk:03d}/file-{file:03d}.mp4'),
}

Index = Annotated[int, Field(ge=0)]


def _flat(names: Any) -> tuple[str, ...]:
    """Names of elements from the forms in use: a list, a list in a list, or {'motors': a list}."""
    if isinstance(names, (dict, list, tuple)):
        return tuple(name for part in (names.values() if isinstance(names, dict) else names) for name in _flat(part))
    return () if names is None else (str(names),)


class Feature(Model):
    """A column of the dataset.

    Attributes:
        dtype: `image`, `video`, or a type of numbers.
        names: of its elements; empty without any.
    """

    model_config = ConfigDict(extra='ignore')

    key: str
    dtype: Name
    shape: tuple[Count, ...]
    names: Annotated[tuple[str, ...], BeforeValidator(_flat)] = ()
    info: Any = None
    video_info: Any = None

    @property
    def is_depth(self) -> bool:
        """Whether it is an image that holds distances."""
        about = [part for part in (self.info, self.video_info) if isinstance(part, dict)]
        return any(part.get(name) is True for part in about for name in ('is_depth_map', 'video.is_depth_map'))

    @property
    def is_camera(self) -> bool:
        """Whether it holds images to look at."""
        return self.dtype in ('image', 'video') and not self.is_depth

    @property
    def is_vector(self) -> bool:
        """Whether a frame holds a row of numbers."""
        return bool(_NUMBERS.fullmatch(self.dtype)) and len(self.shape) == 1

    @property
    def elements(self) -> tuple[str, ...]:
        """Names of its elements, numbered if it has none."""
        return self.names if len(self.names) == self.shape[0] else self.numbered

    @property
    def numbered(self) -> tuple[str, ...]:
        """Numbered names of its elements."""
        return tuple(f'{self.key.removeprefix(OBSERVATION)}.{k}' for k in range(self.shape[0]))

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self.key.removeprefix(IMAGES) if self.key.startswith(IMAGES) else self.key.rpartition('.')[2]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of its images.

        Raises:
            InputError: the shape is not that of an image.
        """
        if len(self.shape) == 3 and self.shape[2] in (1, 3, 4):
            return self.shape[:2]
        if len(self.shape) == 3 and self.shape[0] in (1, 3, 4):
            return self.shape[1:]
        raise InputError(f'{self.key}: expected a shape of height, width and channels, got {list(self.shape)}')


class _Info(Model):
    """meta/info.json."""

    model_config = ConfigDict(extra='ignore')

    codebase_version: Annotated[str, Field(pattern=r'^v?[23]\.\d+'), Expected('v2.0, v2.1 or v3.0')]
    fps: Positive
    # Their names become parts of paths.
    features: dict[Annotated[str, Field(pattern='^[^/]*[^/.][^/]*$')], Feature]
    total_episodes: Index | None = None
    chunks_size: Count = 1000


class _Row(Model):
    """An episode in the metadata."""

    model_config = ConfigDict(extra='ignore')

    episode_index: Index
    length: Count
    tasks: tuple[str, ...] | None = None


class Entry(NamedTuple):
    """An episode in the metadata.

    Attributes:
        length: frames.
        tasks: instructions in words.
        table: the file with its rows.
        films: by key of the camera, the video file and the number of the episode's first frame in it.
    """

    number: int
    length: int
    tasks: tuple[str, ...]
    table: str
    films: Mapping[str, tuple[str, int]]


def is_lerobot(path: Path) -> bool:
    """Whether a path is a LeRobot dataset."""
    return (path / INFO).is_file()


class Metadata:
    """The metadata of a dataset.

    Attributes:
        fps: frames per second.
        features: by key, without the bookkeeping.
        entries: the episodes in order.
        total: number of episodes as info.json says; None if it does not.

    Raises:
        InputError: a file is missing, damaged, or contradicts itself.
    """

    def __init__(self, root: Path):
        self.root = root
        content = _json(root, INFO)
        if isinstance(content, dict) and isinstance(features := content.get('features'), dict):
            content['features'] = {
                key: {**feature, 'key': key} if isinstance(feature, dict) else feature
                for key, feature in features.items()
                if key not in BOOKKEEPING
            }
        info = check(_Info, content, str(INFO))
        self.fps, self.features, self.total = info.fps, info.features, info.total_episodes
        self._films = [key for key, feature in info.features.items() if feature.dtype == 'video']
        entries = self._entries_2(info.chunks_size) if info.codebase_version.strip('v')[0] == '2' else self._entries_3()
        self.entries = sorted(entries, key=lambda entry: entry.number)
        for entry, next_one in zip(self.entries, self.entries[1:]):
            if entry.number == next_one.number:
                raise InputError(f'meta: expected one episode {entry.number}, got several')

    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action f64[A] each, from the statistics.

        Raises:
            InputError: they are not there.
        """
        where = Path('meta') / 'episodes_stats.jsonl'
        if (self.root / STATS).exists():
            where, found = STATS, [_json(self.root, STATS)]
        elif (self.root / where).exists():
            found = [line.get('stats') for _, line in _lines(self.root, where)]
        else:
            raise InputError(
                f'{STATS}: expected the smallest and the largest actions there, or a robot contract with '
                'limits, but there is no such file'
            )
        try:
            low, high = (
                np.array([np.ravel(stats[ACTION][key]) for stats in found], np.float64) for key in ('min', 'max')
            )
            low, high = low.min(0), high.max(0)
            if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
                raise ValueError(f'{low.tolist()} and {high.tolist()}')
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f'{where}: expected the smallest and the largest {ACTION}, got {error!r}') from error
        return low, high

    def _entries_2(self, chunks_size: int) -> Iterator[Entry]:
        table, video = _PATHS[2]
        for where, line in _lines(self.root, Path('meta') / 'episodes.jsonl'):
            row = check(_Row, line, where)
            place = {'chunk': row.episode_index // chunks_size, 'file': row.episode_index}
            films = {key: (video.format(**place, key=key), 0) for key in self._films}
            yield Entry(row.episode_index, row.length, row.tasks or (), table.format(**place), films)

    def _entries_3(self) -> Iterator[Entry]:
        table, video = _PATHS[3]
        folder = Path('meta') / 'episodes'
        files = sorted((self.root / folder).glob('*/*.parquet'))
        if not files:
            raise InputError(f'{folder}: expected chunk-000/file-000.parquet there, found none')
        for name in (file.relative_to(self.root) for file in files):
            lines = read_table(self.root, name, lambda key: not key.startswith('stats/')).to_pylist()
            for number, line in enumerate(lines, start=1):
                where = f'{name} row {number}'
                row, films = check(_Row, line, where), {}
                for key in self._films:
                    path = video.format(**_place(line, f'videos/{key}', where), key=key)
                    films[key] = path, self._first(line, key, where)
                place = _place(line, 'data', where)
                yield Entry(row.episode_index, row.length, row.tasks or (), table.format(**place), films)

    def _first(self, line: Mapping[str, Any], key: str, where: str) -> int:
        """Number of an episode's first frame in the film of a camera."""
        begin, end = (_value(float, line, f'videos/{key}/{name}_timestamp', where) for name in ('from', 'to'))
        if begin < 0 or abs((end - begin) * self.fps - line['length']) > 0.5:
            raise InputError(
                f'{where}: videos/{key}/to_timestamp: expected {line["length"]} frames at {self.fps:g} per second '
                f'after from_timestamp ({begin:g}), got {end:g}'
            )
        return round(begin * self.fps)


def read_table(root: Path, name: str | Path, wanted: Callable[[str], bool]) -> Any:
    """A pyarrow Table of those columns of a parquet file below `root` whose name is `wanted`.

    Raises:
        InputError: it is missing or damaged.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(root / name) as file:
            return file.read([key for key in file.schema_arrow.names if wanted(key)])
    except FileNotFoundError as error:
        raise InputError(f'{name}: expected a parquet file, but it does not exist') from error
    except (OSError, pyarrow.ArrowException) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f'{name}: expected a parquet file that can be read ({reason})') from error


def _place(line: Mapping[str, Any], what: str, where: str) -> dict[str, int]:
    return {name: _value(Index, line, f'{what}/{name}_index', where) for name in ('chunk', 'file')}


def _value(kind: Any, line: Mapping[str, Any], key: str, where: str) -> Any:
    return check(kind, line.get(key), f'{where}: {key}')


def _json(root: Path, name: Path) -> Any:
    return load_json(_text(root, name), str(name))


def _lines(root: Path, name: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place of each line, for errors, and its content."""
    for number, text in enumerate(_text(root, name).splitlines(), start=1):
        where = f'{name} line {number}'
        if text.strip():
            line = load_json(text, where)
            if not isinstance(line, dict):
                raise InputError(f'{where}: expected a mapping of names to values, got {line!r}')
            yield where, line


def _text(root: Path, name: Path) -> str:
    if not (root / name).is_file():
        raise InputError(f'{name}: expected a file of that name, but it does not exist')
    return read_text(root / name)
