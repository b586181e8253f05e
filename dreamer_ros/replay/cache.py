"""Decoded bags in files beside them: a bag is read once, and not again at the next start.

A bag NAME has two files in `.cache/<key>/` of its folder, where the key is the hash of what it is read as:

    NAME.json   first line: SHA-256 of the second, which is one JSON object: names, sizes and times of the
                bag's files and their SHA-256, what reading them had to complain about, and for every episode its
                length, return, stamps, identity, marks, place in the other file and SHA-256 of its bytes there.
    NAME.steps  for every episode its images uint8 [T, H, W, C], then its rows (`buffer.row_type`) [T].

A step of 64x64 RGB with two actions takes 12,288 + 15 bytes, so 1,000,000 of them 12.3 GB of disk, and that is
the memory budget too: the files are mapped, the kernel keeps as much of them in its page cache as nobody else
needs, and the process itself holds about 1 KB per episode.

Files get their names when they are whole, and are never changed: a kill -9 at any moment leaves no torn file
under a name that counts, and any number of processes may use one folder. They are not synced to disk. What a
power cut or anything else does to them is found by their hashes, before an episode is used for the first time
and whenever its file is not the one that was checked; then the bag is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dreamer_ros.episodes.episode import Episode, EpisodeInfo
from dreamer_ros.episodes.report import Problem
from dreamer_ros.replay import keep
from dreamer_ros.replay.buffer import EpisodeLost, StoredEpisode, row_type
from dreamer_ros.replay.mapping import FileMap
from dreamer_ros.spec import RobotSpec

FOLDER = '.cache'
VERSION = 2  # raise it when the files mean something else, or bags would be read into other steps
LEFTOVER_SECONDS = 3600.0  # since a file under a temporary name was written: nobody will finish it
BLOCK = 1 << 20
MARKED = 64  # one of so many steps is a mark

Read = Callable[[Path], tuple[list[Episode], list[Problem]]]


class _Steps(NamedTuple):
    """An open file of steps, and what tells it from others of its name."""

    which: tuple[int, int, int]  # inode, size, time of the last change
    map: FileMap


class CachedBag(NamedTuple):
    """What a bag holds.

    Attributes:
        episodes: in order of time, each with what is worth telling, its `identity` and its `marks`.
        problems: what could not be used and why.
    """

    episodes: list[tuple[StoredEpisode, EpisodeInfo, str, list[str]]]
    problems: list[Problem]


def identity(episode: Episode) -> str:
    """Hex digest that tells episodes apart by what was recorded, whatever their bags are called."""
    content = hashlib.sha1()
    for array in (episode.stamp, episode.action, episode.reward, episode.image[0], episode.image[-1]):
        content.update(np.ascontiguousarray(array))
    return content.hexdigest()


def marks(episode: Episode) -> list[str]:
    """Hex digests by which parts of an episode are known again, as a damaged copy of its bag holds: of its first and
    its last step, and of those that their stamps choose.
    """
    digests = []
    for k, stamp in enumerate(episode.stamp):
        chosen = hashlib.blake2b(stamp.tobytes(), digest_size=8).digest()[0] % MARKED == 0
        if chosen or k in (0, len(episode) - 1):
            content = hashlib.blake2b(stamp.tobytes(), digest_size=8)
            # Rewards may come from labels, and whether the last step has an action is chance.
            acted = [] if episode.is_last[k] else [episode.action[k]]
            for array in (*acted, episode.vector[k], episode.image[k]):
                content.update(np.ascontiguousarray(array))
            digests.append(content.hexdigest())
    return digests


class EpisodeCache:
    """The cache of one folder of bags.

    All methods may be called from several threads and processes.

    Args:
        folder: of the bags.
        spec: of the robot.
        key: names the way bags are read: another one gives files of its own.
        read: reads a bag; never raises.
        problems: gets what happens to the cache.
    """

    def __init__(self, folder: Path, spec: RobotSpec, key: str, read: Read, problems: list[Problem]):
        self._bags, self._folder = folder, folder / FOLDER / key
        self._read, self._problems = read, problems
        self._prefix = f'{self._folder}/'
        self._open: dict[str, _Steps] = {}  # by bag
        self._unwritable = False  # told already
        self._row_type = row_type(len(spec.vector), len(spec.action))
        self.image_bytes = math.prod(spec.image_shape)
        self.step_bytes = self.image_bytes + self._row_type.itemsize

    def known(self, bag: Path) -> CachedBag | None:
        """What was read from a bag earlier; None if it never was, or if its files have changed since.

        Files of the same names, sizes and times are not opened; those with other times are compared by hash.
        """
        header = self._read_header(bag)
        if header is None:
            return None
        files = _list_files(bag)
        if files != header['files']:
            if _hash_files(bag, files) != header['sha256']:
                return None
            with contextlib.suppress(OSError):
                self._write_header(bag, {**header, 'files': files})
        return self._from_header(bag, header)

    def load(self, bag: Path) -> CachedBag:
        """Read a bag into the cache; where that can't be written, its episodes stay in memory.

        A bag without usable episodes leaves nothing here, so that it is looked at again at the next start.
        """
        files = _list_files(bag)  # before its content: what changes meanwhile is noticed at the next start
        episodes, problems = self._read(bag)
        if not episodes:
            return CachedBag([], problems)
        for number, episode in enumerate(episodes):
            episode.number = number
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _replacing(self.steps_file(bag)) as stream:
                entries = [self._write_steps(stream, episode) for episode in episodes]
            header = {
                'version': VERSION,
                'files': files,
                'sha256': _hash_files(bag, files),
                'episodes': entries,
                'problems': [[problem.reason, problem.steps] for problem in problems],
            }
            self._write_header(bag, header)
        except OSError as error:
            if not self._unwritable:
                self._unwritable = True
                self._problems.append(
                    Problem(
                        self._bags,
                        f'expected a folder {FOLDER} in it that can be written ({error.strerror}); its '
                        'episodes stay in memory and are read again at the next start',
                    )
                )
            made = [(episode, EpisodeInfo.of(episode), identity(episode), marks(episode)) for episode in episodes]
            return CachedBag(made, problems)
        return self._from_header(bag, header)

    def mend(self, bag: Path, wanted: str) -> dict | None:
        """Read a bag again for one of its episodes, by its identity; gives its entry, None if it is gone."""
        self._problems.append(Problem(bag, 'its steps in the cache were damaged or missing; it is read again'))
        self.load(bag)
        header = self._read_header(bag) or {'episodes': []}
        for entry in header['episodes']:
            if entry['identity'] == wanted:
                return entry
        self._problems.append(Problem(bag, 'an episode is neither in the cache nor in the bag any more'))
        return None

    def free(self, bag: Path) -> None:
        """Free the disk space of a bag's steps; what is known of it stays, and the steps come back if needed."""
        self._open.pop(bag.name, None)
        with contextlib.suppress(OSError):
            self.steps_file(bag).unlink()

    def tidy(self) -> None:
        """Delete what belongs to no bag any more, and what dead writers left."""
        with contextlib.suppress(OSError):
            bags = set(os.listdir(self._bags))
            for entry in list(os.scandir(self._folder)):
                if entry.name.startswith('.'):
                    orphan = time.time() - entry.stat().st_mtime > LEFTOVER_SECONDS
                else:
                    orphan = entry.name.rpartition('.')[0] not in bags
                if orphan:
                    os.unlink(entry.path)

    def open_steps(self, bag: Path) -> _Steps:
        """The steps of a bag: those opened before, as long as they are the same file on disk.

        Raises:
            OSError: there is no such file.
            _Damaged: it is empty.
        """
        steps, path = self._open.get(bag.name), f'{self._prefix}{bag.name}.steps'
        found = os.stat(path)
        if steps is None or steps.which != _which(found):
            file = os.open(path, os.O_RDONLY)
            try:
                found = os.fstat(file)
                if not found.st_size:
                    raise _Damaged
                try:
                    steps = _Steps(_which(found), FileMap(file))
                except OSError:  # too many maps: begin anew
                    self._open.clear()
                    steps = _Steps(_which(found), FileMap(file))
            finally:
                os.close(file)
            self._open[bag.name] = steps
        return steps

    def steps_file(self, bag: Path) -> Path:
        """Where the steps of a bag are."""
        return self._folder / f'{bag.name}.steps'

    def _header_file(self, bag: Path) -> Path:
        return self._folder / f'{bag.name}.json'

    def _from_header(self, bag: Path, header: dict) -> CachedBag:
        episodes = []
        for number, entry in enumerate(header['episodes']):
            info = EpisodeInfo(bag, entry['steps'], *entry['info'])
            episodes.append((CachedEpisode(self, bag, number, entry), info, entry['identity'], entry['marks']))
        return CachedBag(episodes, [Problem(bag, reason, steps) for reason, steps in header['problems']])

    def _write_steps(self, stream: BinaryIO, episode: Episode) -> dict:
        rows = np.empty(len(episode), self._row_type)
        images = np.ascontiguousarray(episode.image)
        for name in self._row_type.names:
            rows[name] = getattr(episode, name)
        offset, digest = stream.tell(), hashlib.sha256()
        for array in (images, rows):
            data = array.reshape(-1).view(np.uint8)
            digest.update(data)
            stream.write(data)
        info = EpisodeInfo.of(episode)
        return {
            'steps': len(episode),
            'identity': identity(episode),
            'marks': marks(episode),
            'offset': offset,
            'sha256': digest.hexdigest(),
            'info': [info.total_reward, info.complete, info.last_stamp, info.meta],
        }

    def _write_header(self, bag: Path, header: dict) -> None:
        text = json.dumps(header).encode()
        with _replacing(self._header_file(bag)) as stream:
            stream.write(hashlib.sha256(text).hexdigest().encode() + b'\n' + text)

    def _read_header(self, bag: Path) -> dict | None:
        """None unless it is whole and of this version."""
        try:
            digest, _, text = self._header_file(bag).read_bytes().partition(b'\n')
        except OSError:
            return None
        if hashlib.sha256(text).hexdigest().encode() != digest:
            return None
        header = json.loads(text)
        return header if header['version'] == VERSION else None


class CachedEpisode:
    """An episode in the cache; see `buffer.StoredEpisode`.

    Attributes:
        path: its bag.
        number: its place among the episodes of that bag.
    """

    __slots__ = ('path', 'number', '_cache', '_identity', '_steps', '_offset', '_sha256', '_checked')

    def __init__(self, cache: EpisodeCache, path: Path, number: int, entry: dict):
        self.path, self.number, self._cache = path, number, cache
        self._identity, self._steps = entry['identity'], entry['steps']
        self._offset, self._sha256 = entry['offset'], entry['sha256']
        self._checked: tuple | None = None  # which file was found whole

    def __len__(self) -> int:
        return self._steps

    def read(self, first: int, image: np.ndarray, rows: np.ndarray) -> None:
        """See `buffer.StoredEpisode`."""
        try:
            self._read(first, image, rows)
        except (OSError, _Damaged):
            entry = self._cache.mend(self.path, self._identity)
            if entry is None:
                raise EpisodeLost(self) from None
            self._offset, self._sha256 = entry['offset'], entry['sha256']
            try:
                self._read(first, image, rows)
            except (OSError, _Damaged) as error:
                raise EpisodeLost(self) from error

    def _read(self, first: int, image: np.ndarray, rows: np.ndarray) -> None:
        steps = self._cache.open_steps(self.path)
        if steps.which != self._checked:
            self._check(steps.map.data)
            self._checked = steps.which
        size = self._cache.image_bytes
        begin = self._offset + first * size
        image.reshape(-1)[:] = steps.map.data[begin : begin + image.nbytes]
        begin = self._offset + self._steps * size + first * rows.itemsize
        rows.view(np.uint8)[:] = steps.map.data[begin : begin + rows.nbytes]

    def _check(self, data: np.ndarray) -> None:
        part = data[self._offset : self._offset + self._steps * self._cache.step_bytes]
        if hashlib.sha256(part).hexdigest() != self._sha256:
            raise _Damaged


class _Damaged(Exception):
    """A cache file is not what was written."""


def _which(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, which gets its own when it is whole."""
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        with open(partial, 'xb') as stream:
            yield stream
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _list_files(bag: Path) -> list[list]:
    """[name, bytes, time of the last change in ns] of each file of a bag; empty if it is gone."""
    try:
        if not bag.is_dir():
            stat = bag.stat()
            return [[bag.name, stat.st_size, stat.st_mtime_ns]]
        with os.scandir(bag) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries if entry.name != keep.NAME and entry.is_file()]
        return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)
    except OSError:
        return []


def _hash_files(bag: Path, files: list[list]) -> str:
    """SHA-256 over names and contents of a bag's files; '' if they can't be read."""
    digest = hashlib.sha256()
    try:
        for name, *_ in files:
            digest.update(name.encode() + b'\0')
            with open(bag / name if bag.is_dir() else bag, 'rb') as file:
                for block in iter(lambda: file.read(BLOCK), b''):
                    digest.update(block)
    except OSError:
        return ''
    return digest.hexdigest()
