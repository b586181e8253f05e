"""Decoded bags in files beside them, so that a bag is read once and not at every start.

A bag NAME has two files in `.cache/<key>/` of its folder. The key is a hash of the robot and its contract:

    NAME.json   first line: SHA-256 of the second, which is one JSON object: names, sizes and times of the
                bag's files and their SHA-256, what could not be used, and for every episode its length, return,
                last stamp, identity, place in the other file and SHA-256 of its bytes there.
    NAME.steps  for every episode its images uint8 [T, H, W, C], then its rows (`buffer.row_type`) [T].

A step of 64x64 RGB with two actions takes 12,288 + 16 bytes, so 1,000,000 of them take 12.3 GB of disk. The
kernel keeps as much of them in its page cache as nobody else needs. The process itself holds about 1 KB per episode.

Files get their names when they are whole, and are never changed: a kill -9 at any moment leaves no torn file
under its final name, and any number of processes may use one folder. Files are not synced to disk. Their hashes show
damage by a power cut or anything else. An episode is checked before its first use, and again when its file was
replaced. If it is damaged, its bag is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dreamer_ros.episodes.episode import Episode, EpisodeInfo
from dreamer_ros.episodes.report import Problem
from dreamer_ros.files import replacing
from dreamer_ros.replay.buffer import EpisodeLost, StoredEpisode, row_type
from dreamer_ros.spec import RobotSpec

FOLDER = '.cache'
VERSION = 3  # of the files and of the episodes that bags are read into
LEFTOVER_SECONDS = 3600.0  # a file under a temporary name that is older is deleted
BLOCK = 1 << 20
KEEP = 'keep'  # the mark of `dreamer bag keep`, which does not change a bag

Read = Callable[[Path], tuple[list[Episode], list[Problem]]]


class CachedBag(NamedTuple):
    """What a bag holds.

    Attributes:
        episodes: in order of time, each with its summary and its `identity`.
        problems: what could not be used and why.
    """

    episodes: Sequence[tuple[StoredEpisode, EpisodeInfo, str]]
    problems: list[Problem]


def identity(episode: Episode) -> str:
    """Hex digest of an episode's content, whatever its bag is called."""
    content = hashlib.sha1()
    for array in (episode.stamp, episode.action, episode.reward, episode.image[0], episode.image[-1]):
        content.update(np.ascontiguousarray(array))
    return content.hexdigest()


class EpisodeCache:
    """The cache of one folder of bags.

    All methods may be called from several threads and processes.

    Args:
        folder: of the bags.
        spec: of the robot.
        key: of what bags are read as. Each key has its own files.
        read: reads a bag; never raises.
        problems: gets the problems of the cache itself.
    """

    def __init__(self, folder: Path, spec: RobotSpec, key: str, read: Read, problems: list[Problem]):
        self._bags, self._folder = folder, folder / FOLDER / key
        self._read, self._problems = read, problems
        self._unwritable = False  # told already
        self._row_type = row_type(len(spec.vector), len(spec.action))
        self.image_bytes = math.prod(spec.image_shape)
        self.step_bytes = self.image_bytes + self._row_type.itemsize

    def known(self, bag: Path) -> CachedBag | None:
        """The bag as it was read earlier; None if it never was, or if its files have changed since.

        Files of equal names, sizes and times are not opened. Others are compared by hash.
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
        """Read a bag into the cache. If the cache can't be written, its episodes stay in memory.

        A bag without usable episodes leaves nothing here, so the next start reads it again.
        """
        files = _list_files(bag)  # before its content: the next start notices changes made meanwhile
        episodes, problems = self._read(bag)
        if not episodes:
            return CachedBag([], problems)
        for number, episode in enumerate(episodes):
            episode.number = number
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(Path(self.steps_file(bag.name)), durable=False) as partial, open(partial, 'xb') as stream:
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
                reason = (
                    f'expected a folder {FOLDER} in it that can be written ({error.strerror}); its episodes stay in '
                    'memory and are read again at the next start'
                )
                self._problems.append(Problem(self._bags, reason))
            return CachedBag([(episode, EpisodeInfo.of(episode), identity(episode)) for episode in episodes], problems)
        return self._from_header(bag, header)

    def mend(self, bag: Path, wanted: str) -> dict | None:
        """Read a bag again for the episode of an identity. Returns its entry, None if it is gone."""
        self._problems.append(Problem(bag, 'its steps in the cache were damaged or missing; it is read again'))
        self.load(bag)
        header = self._read_header(bag) or {'episodes': []}
        for entry in header['episodes']:
            if entry['identity'] == wanted:
                return entry
        self._problems.append(Problem(bag, 'an episode is neither in the cache nor in the bag any more'))
        return None

    def free(self, bag: Path) -> None:
        """Free the disk space of a bag's steps. Its other file stays, and the steps come back if needed."""
        with contextlib.suppress(OSError):
            os.unlink(self.steps_file(bag.name))

    def tidy(self) -> None:
        """Delete the files of bags that are gone, and leftovers of dead writers."""
        with contextlib.suppress(OSError):
            bags = set(os.listdir(self._bags))
            for entry in list(os.scandir(self._folder)):
                if entry.name.startswith('.'):
                    orphan = time.time() - entry.stat().st_mtime > LEFTOVER_SECONDS
                else:
                    orphan = entry.name.rpartition('.')[0] not in bags
                if orphan:
                    os.unlink(entry.path)

    def steps_file(self, bag: str) -> str:
        """Path of the steps of a bag, given by its name."""
        return f'{self._folder}/{bag}.steps'

    def _header_file(self, bag: Path) -> Path:
        return self._folder / f'{bag.name}.json'

    def _from_header(self, bag: Path, header: dict) -> CachedBag:
        episodes = []
        for number, entry in enumerate(header['episodes']):
            info = EpisodeInfo(bag, entry['steps'], *entry['info'])
            episodes.append((CachedEpisode(self, bag, number, entry), info, entry['identity']))
        return CachedBag(episodes, [Problem(bag, reason, steps) for reason, steps in header['problems']])

    def _write_steps(self, stream: BinaryIO, episode: Episode) -> dict:
        rows = np.empty(len(episode), self._row_type)
        images = np.ascontiguousarray(episode.image)
        for name in self._row_type.names or ():
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
            'offset': offset,
            'sha256': digest.hexdigest(),
            'human': episode.human,
            'info': [info.total_reward, info.complete, info.last_stamp, info.meta],
        }

    def _write_header(self, bag: Path, header: dict) -> None:
        text = json.dumps(header).encode()
        with replacing(self._header_file(bag), durable=False) as partial:
            partial.write_bytes(hashlib.sha256(text).hexdigest().encode() + b'\n' + text)

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
        human: see `buffer.StoredEpisode`.
    """

    __slots__ = ('path', 'number', 'human', '_cache', '_identity', '_steps', '_offset', '_sha256', '_checked')

    def __init__(self, cache: EpisodeCache, path: Path, number: int, entry: dict):
        self.path, self.number, self._cache = path, number, cache
        self._identity, self._steps, self.human = entry['identity'], entry['steps'], entry['human']
        self._offset, self._sha256 = entry['offset'], entry['sha256']
        self._checked: tuple[int, int, int] | None = None  # the file that was found whole

    def __len__(self) -> int:
        return self._steps

    def read(self, first: int, image: np.ndarray, rows: np.ndarray) -> None:
        """See `buffer.StoredEpisode`."""
        try:
            self._read(first, image, rows)
        except OSError:
            entry = self._cache.mend(self.path, self._identity)
            if entry is None:
                raise EpisodeLost(self) from None
            self._offset, self._sha256 = entry['offset'], entry['sha256']
            try:
                self._read(first, image, rows)
            except OSError as error:
                raise EpisodeLost(self) from error

    def _read(self, first: int, image: np.ndarray, rows: np.ndarray) -> None:
        cache = self._cache
        file = os.open(cache.steps_file(self.path.name), os.O_RDONLY)
        try:
            stat = os.fstat(file)
            which = stat.st_ino, stat.st_size, stat.st_mtime_ns
            if which != self._checked:
                content = os.pread(file, self._steps * cache.step_bytes, self._offset)
                if hashlib.sha256(content).hexdigest() != self._sha256:
                    raise _Damaged
                self._checked = which
            rows_begin = self._steps * cache.image_bytes
            for array, begin in ((image, first * cache.image_bytes), (rows, rows_begin + first * rows.itemsize)):
                if os.preadv(file, [array], self._offset + begin) != array.nbytes:
                    raise _Damaged
        finally:
            os.close(file)


class _Damaged(OSError):
    """A cache file is not as it was written."""


def _list_files(bag: Path) -> list[list]:
    """[name, bytes, time of the last change in ns] of each file of a bag; empty if it is gone."""
    try:
        if not bag.is_dir():
            stat = bag.stat()
            return [[bag.name, stat.st_size, stat.st_mtime_ns]]
        with os.scandir(bag) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries if entry.name != KEEP and entry.is_file()]
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
