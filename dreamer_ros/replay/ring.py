"""The steps in memory: flat ring arrays of whole episodes, and the sequences sampled from them."""
from __future__ import annotations

import collections
import math
import mmap
import threading
from typing import Deque, Dict, Tuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.replay.episode import Episode


# Not in every Python's mmap module, but the same on every Linux that ROS runs on.
MAP_NORESERVE = getattr(mmap, 'MAP_NORESERVE', 0x4000)


def _reserve(shape: Tuple[int, ...], kind: type) -> np.ndarray:
    """A zeroed array that takes address space only; memory is used as rows are written."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    pages = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return np.ndarray(shape, kind, pages)


class ReplayBuffer:
    """A ring of `capacity` steps holding whole episodes in the order they came; the oldest leave first.

    Steps have positions that only ever grow; position p lies in row p % capacity. A sequence is any `length`
    consecutive positions between the oldest and the newest, so it may run from one episode into the next one
    stored, where is_first is set. The last step of an episode that was cut short is marked is_last, without
    is_terminal: what follows it in the ring is not what followed it in the world.

    All methods may be called from several threads.
    """

    def __init__(
        self, capacity: int, image_shape: Tuple[int, int, int], vector_size: int, action_size: int,
        seed: int = 0
    ) -> None:
        if capacity < 1:
            raise InputError(f'replay capacity: expected at least 1 step, got {capacity}')
        self.capacity = capacity
        shapes = {
            'image': (image_shape, np.uint8),
            'vector': ((vector_size,), np.float32),
            'action': ((action_size,), np.float32),
            'reward': ((), np.float32),
            'is_first': ((), np.bool_),
            'is_last': ((), np.bool_),
            'is_terminal': ((), np.bool_),
        }
        try:
            self._rows = {key: _reserve((capacity, *shape), kind) for key, (shape, kind) in shapes.items()}
        except (OSError, OverflowError, ValueError) as error:
            size = capacity * math.prod(image_shape) / 2**30
            raise InputError(
                f'replay capacity: {capacity} steps need {size:.1f} GiB of address space, too much here'
            ) from error
        self._rng = np.random.default_rng(seed)
        self._lock = threading.RLock()
        self._start = 0   # position of the oldest step
        self._end = 0     # position after the newest step
        self._fresh = 0   # position of the first step never served
        self._lengths: Deque[int] = collections.deque()

    @property
    def steps(self) -> int:
        """Steps held."""
        return self._end - self._start

    @property
    def episodes(self) -> int:
        """Episodes held."""
        return len(self._lengths)

    def add(self, episode: Episode) -> int:
        """Append an episode; whole oldest episodes leave to make room.

        Of an episode longer than the ring only the last `capacity` steps are kept.

        Returns:
            How many episodes left.
        """
        skip = max(0, len(episode) - self.capacity)
        length = len(episode) - skip
        if length == 0:
            return 0
        left = 0
        with self._lock:
            while self.steps + length > self.capacity:
                self._start += self._lengths.popleft()
                left += 1
            self._fresh = max(self._fresh, self._start)
            rows = np.arange(self._end, self._end + length) % self.capacity
            for key, array in self._rows.items():
                array[rows] = getattr(episode, key)[skip:]
            self._rows['is_first'][rows[0]] = True
            self._rows['is_last'][rows[-1]] = True
            self._lengths.append(length)
            self._end += length
        return left

    def sample(self, batch: int, length: int) -> Dict[str, np.ndarray]:
        """Draw `batch` sequences of `length` steps.

        Up to half of them (at least one) serve steps that were never served, oldest first; the others start
        anywhere with equal probability.

        Returns:
            Fresh contiguous arrays: image uint8 [B, T, *image_shape], vector float32 [B, T, N], action float32
            [B, T, A], reward float32 [B, T], is_first, is_last, is_terminal bool [B, T], and index int64 [B],
            the position of each first step.

        Raises:
            InputError: fewer than `length` steps are held.
        """
        with self._lock:
            self._check(length)
            return self._gather(self._draw(batch, length), length)

    def peek(self, batch: int, length: int) -> Dict[str, np.ndarray]:
        """Sequences to look at, as `sample` gives them, without a trace in the stream of training samples.

        Raises:
            InputError: fewer than `length` steps are held.
        """
        with self._lock:
            self._check(length)
            last = self._end - length
            starts = np.random.default_rng().integers(self._start, last, size=batch, endpoint=True)
            return self._gather(starts, length)

    def _check(self, length: int) -> None:
        if self.steps < length:
            raise InputError(f'replay: a sequence needs {length} steps, the store holds {self.steps}')

    def _gather(self, starts: np.ndarray, length: int) -> Dict[str, np.ndarray]:
        rows = (starts[:, None] + np.arange(length)) % self.capacity
        return {**{key: array[rows] for key, array in self._rows.items()}, 'index': starts}

    def _draw(self, batch: int, length: int) -> np.ndarray:
        """Positions of the first steps, int64 [batch]."""
        last = self._end - length
        starts = self._rng.integers(self._start, last, size=batch, endpoint=True)
        for k in range(max(1, batch // 2)):
            if self._fresh >= self._end:
                break
            # Near the end the window reaches back over served steps rather than wait for new ones.
            starts[k] = min(self._fresh, last)
            self._fresh = int(starts[k]) + length
        return starts

    @property
    def start(self) -> int:
        """Position of the oldest step."""
        return self._start

    def cursor(self) -> dict:
        """Where the random stream and the queue of unserved steps are; JSON-friendly."""
        with self._lock:
            return {'rng': self._rng.bit_generator.state, 'fresh': self._fresh}

    def restart(self, start: int) -> None:
        """Forget all episodes; the next one begins at position `start`."""
        with self._lock:
            self._start = self._end = self._fresh = start
            self._lengths.clear()

    def seek(self, cursor: dict) -> None:
        """Continue from a cursor, once the episodes held when it was taken are added again."""
        with self._lock:
            self._rng.bit_generator.state = cursor['rng']
            self._fresh = min(max(int(cursor['fresh']), self._start), self._end)
