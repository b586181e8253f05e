"""The replay buffer: whole episodes in the order they came, and the sequences sampled from them."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dreamer_ros.errors import InputError


class StoredEpisode(Protocol):
    """An episode in memory (`Episode`) or in a file (`CachedEpisode`).

    Attributes:
        path: its bag, if any.
        number: its place among the episodes of that bag.
    """

    path: Any
    number: int

    @property
    def human(self) -> Sequence[tuple[int, int]]:
        """First and last (excluded) step of each stretch of actions that a person chose, in order."""

    def __len__(self) -> int:
        """Steps."""

    def read(self, first: int, image: np.ndarray, rows: np.ndarray) -> None:
        """Fill arrays with the steps from `first` on.

        Args:
            image: uint8 [n, H, W, C], contiguous.
            rows: `row_type` [n], contiguous.

        Raises:
            EpisodeLost: the file is gone and can't be made again.
        """


class EpisodeLost(Exception):
    """An episode can't be read any more."""


def row_type(vector_size: int, action_size: int) -> np.dtype:
    """A step without its image, packed."""
    return np.dtype(
        [
            ('vector', '<f4', (vector_size,)),
            ('action', '<f4', (action_size,)),
            ('reward', '<f4'),
            ('is_first', '?'),
            ('is_last', '?'),
            ('is_terminal', '?'),
            ('is_human', '?'),
        ]
    )


class _Held(NamedTuple):
    """An episode in the buffer, without its `skip` oldest steps if it is too long for the buffer."""

    episode: StoredEpisode
    skip: int
    length: int


class ReplayBuffer:
    """Up to `capacity` steps in whole episodes. The oldest leave first.

    Steps have positions that count from the first step ever added. A sequence is any `length` consecutive
    positions between the oldest and the newest, so it may run from one episode into the next one, where is_first
    is set. The last step of an episode that was cut short is marked is_last without is_terminal, because the next step
    here did not follow it in the world. Kept episodes do not leave. They move up where a later one leaves.

    Sampling takes time that grows with the logarithm of the number of episodes. All methods may be called from
    several threads.

    Args:
        capacity: steps. Kept episodes may exceed it.
        image_shape: (height, width, channels).
        vector_size, action_size: per step.
        seed: of the sampling.
        keep: whether an episode must stay; asked when it would leave.
    """

    def __init__(
        self,
        capacity: int,
        image_shape: tuple[int, int, int],
        vector_size: int,
        action_size: int,
        seed: int = 0,
        keep: Callable[[StoredEpisode], bool] = lambda episode: False,
    ) -> None:
        if capacity < 1:
            raise InputError(f'replay capacity: expected at least 1 step, got {capacity}')
        self.capacity = capacity
        self._image_shape, self._row_type = image_shape, row_type(vector_size, action_size)
        self._keep = keep
        self._rng = np.random.default_rng(seed)
        self._lock = threading.RLock()
        self._held: list[_Held] = []  # oldest first
        self._offsets: list[int] = []  # steps before each of them; made when needed, as is the next
        self._human = np.zeros((0, 2), np.int64)  # stretches by people: steps before each, and its length
        self._start = 0  # position of the oldest step
        self._end = 0  # position after the newest step
        self._fresh = 0  # position of the first step never served

    @property
    def start(self) -> int:
        """Position of the oldest step."""
        return self._start

    @property
    def steps(self) -> int:
        """Steps held."""
        return self._end - self._start

    @property
    def episodes(self) -> int:
        """Episodes held."""
        return len(self._held)

    def held(self) -> list[StoredEpisode]:
        """Episodes held, oldest first."""
        with self._lock:
            return [held.episode for held in self._held]

    def add(self, episode: StoredEpisode, make_room: bool = True) -> list[StoredEpisode]:
        """Append an episode. Whole oldest episodes leave to make room.

        Of an episode longer than the capacity only the last `capacity` steps are used.

        Args:
            make_room: false for episodes that were held together before.

        Returns:
            The episodes that left.
        """
        skip = max(0, len(episode) - self.capacity)
        length = len(episode) - skip
        if length == 0:
            return []
        with self._lock:
            left = self._make_room(self.capacity - length) if make_room else []
            self._held.append(_Held(episode, skip, length))
            self._end += length
            self._offsets.clear()
        return left

    def sample(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Draw `batch` sequences of `length` steps.

        Up to half of them (at least one) serve steps that were never served, oldest first. The others start
        anywhere with equal probability.

        Returns:
            Fresh contiguous arrays: image uint8 [B, T, *image_shape], vector float32 [B, T, N], action float32
            [B, T, A], reward float32 [B, T], is_first, is_last, is_terminal, is_human bool [B, T], and index
            int64 [B], the position of each first step.

        Raises:
            InputError: fewer than `length` steps are held.
        """
        return self._read(lambda: self._draw(batch, length), length)

    @property
    def human_steps(self) -> int:
        """Steps held whose actions people chose."""
        with self._lock:
            self._index()
            return int(self._human[:, 1].sum())

    def sample_human(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Sequences in the form of `sample`, each around a step by a person; all such steps are equally likely.

        Raises:
            InputError: fewer than `length` steps are held.
        """
        return self._read(lambda: self._draw_human(batch, length), length)

    def peek(self, batch: int, length: int, seed: int | None = None) -> dict[str, np.ndarray]:
        """Sequences to look at, in the form of `sample`. They leave no trace in the stream of training samples.

        Args:
            seed: makes equal calls on equal steps give equal sequences.

        Raises:
            InputError: fewer than `length` steps are held.
        """
        rng = np.random.default_rng(seed)
        return self._read(lambda: rng.integers(self._start, self._end - length, size=batch, endpoint=True), length)

    def cursor(self) -> dict:
        """The places in the random stream and in the queue of unserved steps; JSON-ready."""
        with self._lock:
            return {'rng': self._rng.bit_generator.state, 'fresh': self._fresh}

    def restart(self, start: int) -> None:
        """Forget all episodes. The next one begins at position `start`."""
        with self._lock:
            self._start = self._end = self._fresh = start
            self._held.clear()
            self._offsets.clear()

    def seek(self, cursor: dict) -> None:
        """Continue from a cursor, after the episodes held at that time were added again."""
        with self._lock:
            self._rng.bit_generator.state = cursor['rng']
            self._fresh = min(max(int(cursor['fresh']), self._start), self._end)

    def _make_room(self, steps: int) -> list[StoredEpisode]:
        """Let episodes leave until at most this many steps are held, or only kept episodes are left."""
        left, kept = [], 0
        while self.steps > steps and kept < len(self._held):
            if self._keep(self._held[kept].episode):
                kept += 1
            else:
                left.append(self._drop(kept))
        return left

    def _drop(self, number: int) -> StoredEpisode:
        held = self._held.pop(number)
        self._start += held.length
        self._fresh = max(self._fresh, self._start)
        self._offsets.clear()
        return held.episode

    def _read(self, draw: Callable[[], np.ndarray], length: int) -> dict[str, np.ndarray]:
        """Draw and gather. If an episode is lost, it leaves, and the draw is repeated."""
        with self._lock:
            while True:
                if self.steps < length:
                    raise InputError(f'replay: a sequence needs {length} steps, the replay holds {self.steps}')
                starts = draw()
                try:
                    return self._gather(starts, length)
                except EpisodeLost as lost:
                    self._drop(next(k for k, held in enumerate(self._held) if held.episode is lost.args[0]))

    def _gather(self, starts: np.ndarray, length: int) -> dict[str, np.ndarray]:
        self._index()
        image = np.empty((len(starts), length, *self._image_shape), np.uint8)
        rows = np.empty((len(starts), length), self._row_type)
        for b, offset in enumerate((starts - self._start).tolist()):
            number = bisect.bisect_right(self._offsets, offset) - 1
            row, done = offset - self._offsets[number], 0
            while done < length:
                held = self._held[number]
                end = min(length, done + held.length - row)
                held.episode.read(held.skip + row, image[b, done:end], rows[b, done:end])
                if row == 0:
                    rows['is_first'][b, done] = True
                if row + end - done == held.length:
                    rows['is_last'][b, end - 1] = True
                number, row, done = number + 1, 0, end
        return {'image': image, **{key: rows[key].copy() for key in rows.dtype.names}, 'index': starts}

    def _index(self) -> None:
        """Note where the episodes, and the stretches by people, begin."""
        if not self._offsets:
            self._offsets = [0, *itertools.accumulate(held.length for held in self._held)]
            stretches = [
                (offset + max(first - held.skip, 0), min(last - first, last - held.skip))
                for offset, held in zip(self._offsets, self._held)
                for first, last in held.episode.human
                if last > held.skip
            ]
            self._human = np.array(stretches, np.int64).reshape(-1, 2)

    def _draw_human(self, batch: int, length: int) -> np.ndarray:
        """Positions of the first steps of sequences around steps by people, int64 [batch]."""
        self._index()
        begins, lengths = self._human.T
        if not len(begins):  # the last ones have just been lost
            return self._draw(batch, length)
        ends = lengths.cumsum()
        places = self._rng.integers(ends[-1], size=batch)
        stretch = ends.searchsorted(places, 'right')
        steps = begins[stretch] + places - (ends - lengths)[stretch]
        return self._start + np.clip(steps - self._rng.integers(length, size=batch), 0, self.steps - length)

    def _draw(self, batch: int, length: int) -> np.ndarray:
        """Positions of the first steps, int64 [batch]."""
        last = self._end - length
        starts = self._rng.integers(self._start, last, size=batch, endpoint=True)
        for k in range(max(1, batch // 2)):
            if self._fresh >= self._end:
                break
            # Near the end the sequence reaches back over served steps instead of waiting for new ones.
            starts[k] = min(self._fresh, last)
            self._fresh = int(starts[k]) + length
        return starts
