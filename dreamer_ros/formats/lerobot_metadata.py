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

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.schema import Count, Expected, Model, Name, Positive, check, load_json

INFO = Path('meta') / 'info.json'
STATS = Path('meta') / 'stats.json'
# Our own file beside LeRobot's: who the robot is and who acted, which have no place there.
ORIGIN = Path('meta') / 'dreamer_ros.json'
ACTION, REWARD, DONE, TRUNCATED = 'action', 'next.reward', 'next.done', 'next.truncated'
STATE = 'observation.state'
OBSERVATION, IMAGES = 'observation.', 'observation.images.'
# What every frame has, and nobody declares.
BOOKKEEPING = ('timestamp', 'frame_index', 'episode_index', 'index', 'task_index')

_NUMBERS = re.compile(r'float(16|32|64)|u?int(8|16|32|64)|bool')
_FIELD = re.compile(r'\{(\w+)(?::0?(\d{0,2})d?)?\}')
# What the templates of paths may hold, by major version.
_FIELDS = {2: {'episode_chunk', 'episode_index', 'video_key'}, 3: {'chunk_index', 'file_index', 'video_key'}}

Index = Annotated[int, Field(ge=0)]


def _flat(names: Any) -> tuple[str, ...]:
    """Names of elements from what people write: a list, a list in a list, or {'motors': a list}."""
    if isinstance(names, (dict, list, tuple)):
        return tuple(name for part in (names.values() if isinstance(names, dict) else names) for name in _flat(part))
    return () if names is None else (str(names),)


class Feature(Model):
    """A column of the dataset.

    Attributes:
        dtype: `image`, `video`, or of numbers.
        names: of its elements; empty if it does not tell.
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
        return self.dtype in ('image', 'video')

    @property
    def is_vector(self) -> bool:
        """Whether it holds numbers in a row."""
        return bool(_NUMBERS.fullmatch(self.dtype)) and len(self.shape) == 1


class _Info(Model):
    """meta/info.json."""

    model_config = ConfigDict(extra='ignore')

    codebase_version: Annotated[str, Field(pattern=r'^v?[23]\.\d+'), Expected('v2.0, v2.1 or v3.0')]
    fps: Positive
    # Their names become parts of paths.
    features: dict[Annotated[str, Field(pattern='^[^/]*[^/.][^/]*$')], Feature]
    total_episodes: Index | None = None
    chunks_size: Count = 1000
    data_path: Name
    video_path: str | None = None


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


class Metadata:
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
        content = _json(root, INFO)
        if isinstance(content, dict) and isinstance(features := content.get('features'), dict):
            content['features'] = {
                key: {**feature, 'key': key} if isinstance(feature, dict) else feature
                for key, feature in features.items()
                if key not in BOOKKEEPING
            }
        self._info = info = check(_Info, content, str(INFO))
        self.fps, self.features, self.total = info.fps, info.features, info.total_episodes
        self._films = [key for key, feature in info.features.items() if feature.dtype == 'video']
        major = int(info.codebase_version.lstrip('v')[0])
        for key, template in {'data_path': info.data_path, 'video_path': info.video_path}.items():
            if key == 'data_path' or self._films:
                _check_template(key, template, _FIELDS[major])
        self.entries = sorted(self._entries_2() if major == 2 else self._entries_3(), key=lambda entry: entry.index)
        for entry, next_one in zip(self.entries, self.entries[1:]):
            if entry.index == next_one.index:
                raise InputError(f'meta: expected one episode {entry.index}, got several')

    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action f64[A] each, as the statistics say.

        Raises:
            InputError: they do not.
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

    def _entries_2(self) -> Iterator[Entry]:
        for where, line in _lines(self.root, Path('meta') / 'episodes.jsonl'):
            index = _value(Index, line, 'episode_index', where)
            place = {'episode_chunk': index // self._info.chunks_size, 'episode_index': index}
            films = {key: Film(_fill(self._info.video_path, **place, video_key=key), 0) for key in self._films}
            yield self._entry(where, line, place, films)

    def _entries_3(self) -> Iterator[Entry]:
        folder = Path('meta') / 'episodes'
        files = sorted((self.root / folder).glob('*/*.parquet'))
        if not files:
            raise InputError(f'{folder}: expected chunk-000/file-000.parquet there, found none')
        for file in files:
            name = file.relative_to(self.root)
            table = read_table(file, name, lambda key: not key.startswith('stats/'))
            for number, line in enumerate(table.to_pylist(), start=1):
                where = f'{name} row {number}'
                films = {key: self._film(where, line, key) for key in self._films}
                yield self._entry(where, line, _place(where, line, 'data'), films)

    def _entry(self, where: str, line: Mapping[str, Any], place: Mapping[str, int], films: dict[str, Film]) -> Entry:
        tasks = line.get('tasks')
        return Entry(
            _value(Index, line, 'episode_index', where),
            _value(Count, line, 'length', where),
            _fill(self._info.data_path, **place),
            films,
            tuple(map(str, tasks)) if isinstance(tasks, list) else (),
        )

    def _film(self, where: str, line: Mapping[str, Any], key: str) -> Film:
        path = _fill(self._info.video_path, **_place(where, line, f'videos/{key}'), video_key=key)
        begin, end = (_value(float, line, f'videos/{key}/{name}_timestamp', where) for name in ('from', 'to'))
        length = _value(Count, line, 'length', where)
        if begin < 0 or abs((end - begin) * self.fps - length) > 0.5:
            raise InputError(
                f'{where}: videos/{key}/to_timestamp: expected {length} frames at {self.fps:g} per second after '
                f'from_timestamp ({begin:g}), got {end:g}'
            )
        return Film(path, round(begin * self.fps))


def read_table(path: Path, name: Path, wanted: Callable[[str], bool]) -> Any:
    """A pyarrow Table of those columns of a parquet file whose name is `wanted`.

    Raises:
        InputError: it is missing or damaged.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.read([key for key in file.schema_arrow.names if wanted(key)])
    except FileNotFoundError as error:
        raise InputError(f'{name}: expected a parquet file, but it does not exist') from error
    except (OSError, pyarrow.ArrowException) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f'{name}: expected a parquet file that can be read ({reason})') from error


def _check_template(key: str, template: Any, fields: set[str]) -> None:
    """Refuse a template that names anything but a file below the dataset."""
    place = PurePosixPath(template or '')
    rest = _FIELD.sub('', template or '')
    known = all(match[1] in fields for match in _FIELD.finditer(template or ''))
    if not template or not known or set('{}') & set(rest) or place.is_absolute() or '..' in place.parts:
        raise InputError(
            f'{INFO}: {key}: expected a path below the dataset, with {", ".join(sorted(fields))} in braces, '
            f'got {template!r}'
        )


def _fill(template: str, **values: Any) -> str:
    return _FIELD.sub(lambda match: str(values[match[1]]).zfill(int(match[2] or 0)), template)


def _place(where: str, line: Mapping[str, Any], what: str) -> dict[str, int]:
    return {name: _value(Index, line, f'{what}/{name}', where) for name in ('chunk_index', 'file_index')}


def _value(kind: Any, line: Mapping[str, Any], key: str, where: str) -> Any:
    return check(kind, line.get(key), f'{where}: {key}')


def _json(root: Path, name: Path) -> Any:
    return load_json(_text(root, name), str(name))


def _lines(root: Path, name: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line is, and what it says."""
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
