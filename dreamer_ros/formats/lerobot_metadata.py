"""What lies where in a LeRobot dataset, of versions 2.0, 2.1 and 3.0.

    meta/info.json                           versions, frames per second, features, and templates of the paths below
    meta/episodes.jsonl, tasks.jsonl         2.x: length and tasks of every episode
    meta/episodes/chunk-000/file-000.parquet 3.0: the same, and where an episode lies in the other files
    meta/stats.json, episodes_stats.jsonl    smallest and largest values of every feature
    data/*.parquet                           one row per frame; 2.x: an episode per file, 3.0: many
    videos/*.mp4                             the same of every camera that is a video

Imports pyarrow only where a table is read, so that `is_lerobot` needs nothing.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.sections import Section

INFO = Path('meta') / 'info.json'
STATS = Path('meta') / 'stats.json'
# Our own file beside LeRobot's: who the robot is and who acted, which have no place there.
ORIGIN = Path('meta') / 'dreamer_ros.json'
ACTION, REWARD, DONE, TRUNCATED = 'action', 'next.reward', 'next.done', 'next.truncated'
STATE = 'observation.state'
OBSERVATION, IMAGES = 'observation.', 'observation.images.'
# What every frame has, and nobody declares.
BOOKKEEPING = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')
NUMBERS = re.compile(r'float(16|32|64)|u?int(8|16|32|64)|bool')

_VERSION = re.compile(r'v?([23])\.\d+')
_FORMAT = re.compile(r'(0?\d{1,2})?d?')
_FIELDS = {2: {'episode_chunk', 'episode_index', 'video_key'}, 3: {'chunk_index', 'file_index', 'video_key'}}


class Feature(NamedTuple):
    """A column of the dataset.

    Attributes:
        dtype: `image`, `video`, or of numbers.
        names: of its elements; empty if it does not tell.
        is_depth: of an image that holds distances.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    is_depth: bool

    @property
    def is_camera(self) -> bool:
        return self.dtype in ('image', 'video')

    @property
    def is_vector(self) -> bool:
        """Whether it holds numbers in a row."""
        return bool(NUMBERS.fullmatch(self.dtype)) and len(self.shape) == 1


class Film(NamedTuple):
    """Where an episode lies in a video; `first` is the number of its first frame there."""

    path: str
    first: int


class Entry(NamedTuple):
    """An episode as the metadata tells of it.

    Attributes:
        length: frames.
        table: the file that its rows are in.
        films: by key of the camera.
        tasks: what was to be done, in words.
    """

    index: int
    length: int
    table: str
    films: Mapping[str, Film]
    tasks: tuple[str, ...]


def is_lerobot(path: Path) -> bool:
    """Whether a path is a LeRobot dataset."""
    return (path / INFO).is_file()


class Layout:
    """The metadata of a dataset.

    Attributes:
        fps: frames per second.
        features: by key, without the bookkeeping.
        entries: the episodes in order.
        total: how many episodes it says it has; None if it does not.

    Raises:
        InputError: a file is missing, or says what can't be.
    """

    def __init__(self, root: Path):
        self.root = root
        content = _json(root / INFO, INFO)
        info = Section(str(INFO), '', content)
        version = info.text('codebase_version')
        known = _VERSION.match(version)
        if not known:
            info.fail('codebase_version', 'v2.0, v2.1 or v3.0', version)
        self._major = int(known[1])
        self.fps = info.positive('fps')
        self.features = {
            key: _feature(key, section, content['features'][key])
            for key, section in info.sections('features').items()
            if key not in BOOKKEEPING
        }
        self.total = info.count('total_episodes', least=0, default=None)
        self._chunk = info.count('chunks_size', default=1000)
        self._data = _template(info, 'data_path', self._major)
        films = [feature.key for feature in self.features.values() if feature.dtype == 'video']
        self._video = _template(info, 'video_path', self._major) if films else ''
        found = self._entries_2(films) if self._major == 2 else self._entries_3(films)
        self.entries = sorted(found, key=lambda entry: entry.index)
        for entry, next_one in zip(self.entries, self.entries[1:]):
            if entry.index == next_one.index:
                raise InputError(f'meta: expected one episode {entry.index}, got several')

    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action f64[A] each, as the statistics say.

        Raises:
            InputError: they do not.
        """
        each = Path('meta') / 'episodes_stats.jsonl'
        if (self.root / STATS).exists():
            where, found = STATS, [_json(self.root / STATS, STATS)]
        elif (self.root / each).exists():
            where, found = each, [line.get('stats') for line in _lines(self.root / each, each)]
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

    def _entries_2(self, films: Sequence[str]) -> Iterator[Entry]:
        name = Path('meta') / 'episodes.jsonl'
        for number, line in enumerate(_lines(self.root / name, name)):
            entry = Section(f'{name} line {number + 1}', '', line)
            index, length = entry.count('episode_index', least=0), entry.count('length')
            place = {'episode_chunk': index // self._chunk, 'episode_index': index}
            yield Entry(
                index,
                length,
                self._data.format(**place),
                {key: Film(self._video.format(**place, video_key=key), 0) for key in films},
                _tasks(line),
            )

    def _entries_3(self, films: Sequence[str]) -> Iterator[Entry]:
        folder = Path('meta') / 'episodes'
        files = sorted((self.root / folder).glob('*/*.parquet'))
        if not files:
            raise InputError(f'{folder}: expected chunk-000/file-000.parquet there, found none')
        for file in files:
            name = file.relative_to(self.root)
            table = read_table(file, name, lambda key: not key.startswith('stats/'))
            for number, line in enumerate(table.to_pylist()):
                entry = Section(f'{name} row {number + 1}', '', line)
                index, length = entry.count('episode_index', least=0), entry.count('length')
                yield Entry(
                    index,
                    length,
                    self._data.format(**_place(entry, 'data')),
                    {key: self._film(entry, key, length) for key in films},
                    _tasks(line),
                )

    def _film(self, entry: Section, key: str, length: int) -> Film:
        path = self._video.format(**_place(entry, f'videos/{key}'), video_key=key)
        begin, end = (entry.number(f'videos/{key}/{name}') for name in ('from_timestamp', 'to_timestamp'))
        if begin < 0 or abs((end - begin) * self.fps - length) > 0.5:
            entry.fail(
                f'videos/{key}/to_timestamp',
                f'{length} frames at {self.fps:g} per second after from_timestamp ({begin:g})',
                end,
            )
        return Film(path, round(begin * self.fps))


def read_table(path: Path, name: Path, wanted=None) -> Any:
    """A pyarrow Table of a parquet file, or those of its columns whose name is `wanted`.

    Raises:
        InputError: it is missing or damaged.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = None if wanted is None else [key for key in file.schema_arrow.names if wanted(key)]
            return file.read(columns)
    except FileNotFoundError as error:
        raise InputError(f'{name}: expected a parquet file, but it does not exist') from error
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f'{name}: expected a parquet file that can be read ({_first_line(error)})') from error


def element_names(names: Any) -> tuple[str, ...]:
    """Names of elements from what people write: a list, a list in a list, or {'motors': a list}."""
    if isinstance(names, dict):
        names = list(names.values())
    if isinstance(names, list):
        return tuple(itertools.chain.from_iterable(map(element_names, names)))
    return () if names is None else (str(names),)


def _feature(key: str, section: Section, content: Mapping[str, Any]) -> Feature:
    if '/' in key or key == '..':  # it becomes part of paths
        section.fail('', 'a feature without / in its name', key)
    dtype = section.text('dtype')
    shape = section.numbers('shape')
    if not all(size >= 1 and size.is_integer() for size in shape):
        section.fail('shape', 'sizes', list(shape))
    about = [content[name] for name in ('info', 'video_info') if isinstance(content.get(name), dict)]
    is_depth = any(part.get(name) is True for part in about for name in ('is_depth_map', 'video.is_depth_map'))
    return Feature(key, dtype, tuple(map(int, shape)), element_names(content.get('names')), is_depth)


def _template(info: Section, key: str, major: int) -> str:
    """A template that names nothing but a file below the dataset."""
    template = info.text(key)
    try:
        parts = list(string.Formatter().parse(template))
        sound = all(
            field is None
            or field in _FIELDS[major]
            and conversion is None
            and (not spec if field == 'video_key' else _FORMAT.fullmatch(spec))
            for _, field, spec, conversion in parts
        )
    except ValueError:
        sound = False
    place = PurePosixPath(template)
    if not sound or place.is_absolute() or '..' in place.parts:
        info.fail(key, f'a path below the dataset, with {", ".join(sorted(_FIELDS[major]))} in braces', template)
    return template


def _place(entry: Section, what: str) -> dict[str, int]:
    return {name: entry.count(f'{what}/{name}', least=0) for name in ('chunk_index', 'file_index')}


def _tasks(line: Mapping[str, Any]) -> tuple[str, ...]:
    tasks = line.get('tasks')
    return tuple(map(str, tasks)) if isinstance(tasks, list) else ()


def _json(path: Path, name: Path) -> Any:
    return _parse(_text(path, name), str(name))


def _lines(path: Path, name: Path) -> list[Any]:
    lines = [
        _parse(line, f'{name} line {number + 1}')
        for number, line in enumerate(_text(path, name).splitlines())
        if line.strip()
    ]
    for number, line in enumerate(lines):
        if not isinstance(line, dict):
            raise InputError(f'{name} line {number + 1}: expected a mapping of names to values, got {line!r}')
    return lines


def _text(path: Path, name: Path) -> str:
    if not path.is_file():
        raise InputError(f'{name}: expected a file of that name, but it does not exist')
    return read_text(path)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where}: expected JSON ({error})') from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
