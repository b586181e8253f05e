"""The replay of a run: bags that arrive in its folder while it learns, or episodes kept in memory."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dreamer_ros.config import Config, ScheduleConfig
from dreamer_ros.episodes.episode import Episode, EpisodeInfo
from dreamer_ros.episodes.report import Problem
from dreamer_ros.replay.buffer import ReplayBuffer
from dreamer_ros.replay.dataset import ReplayDataset, open_replay
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec

Batch = dict[str, np.ndarray]

REFRESH_PERIOD = 0.5  # seconds between two looks for new bags


class Prefetcher:
    """Samples batches ahead of the learner, in a thread, and keeps two ready."""

    def __init__(self, dataset: ReplayDataset, batch: int, length: int) -> None:
        """Start sampling as `dataset.sample(batch, length)` does. The dataset must hold enough steps."""
        self._dataset, self._batch, self._length = dataset, batch, length
        self._thread = ThreadPoolExecutor(1, 'replay prefetch')
        self._ahead = collections.deque(self._thread.submit(self._sample) for _ in range(2))

    def next(self) -> dict[str, np.ndarray]:
        """Wait for the next batch.

        Raises:
            RuntimeError: the prefetcher is closed.
            Exception: sampling raised it.
        """
        if not self._ahead:
            raise RuntimeError('the prefetcher is closed')
        _, batch = self._ahead[0].result()
        self._ahead.popleft()
        self._ahead.append(self._thread.submit(self._sample))
        return batch

    def state_dict(self) -> dict:
        """The dataset's state before the batch that `next` returns next, without the batches made ahead."""
        failed = not self._ahead or self._ahead[0].exception()
        return self._dataset.state_dict(None if failed else self._ahead[0].result()[0])

    def close(self) -> None:
        """Stop the thread and wait for its end; may be called twice."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)

    def _sample(self) -> tuple[dict, dict[str, np.ndarray]]:
        return self._dataset.cursor(), self._dataset.sample(self._batch, self._length)


class BagReplay:
    """The bags of a run, and of the folders that its config names.

    One thread loads new bags and another one samples ahead, so that the learner waits for neither of them.

    Args:
        episodes: folder that the run records into.
        config: with the sizes of batches and the limits of the replay.
        spec: bags of other robots are refused.
        seed: of the sampling.
        contract: of the robot in the other folders, for bags that do not hold one.

    Attributes:
        delay: seconds that the bag of an episode that has ended may still need.
        loaded: set once the bags that were there at the start are loaded.
        still: a lock. While it is held, no episode enters, and `take` gives all that have entered.

    Raises:
        InputError: a folder is missing or named twice, or the limits leave less than one sequence.
    """

    delay = 3.0

    def __init__(
        self, episodes: Path, config: Config, spec: RobotSpec, seed: int, contract: RobotContract | None = None
    ):
        self._episodes, self._schedule = episodes, config.schedule
        self._store = open_replay(episodes, config.replay, spec, config.schedule.length, seed, contract)
        self._prefetcher: Prefetcher | None = None
        self._found: queue.SimpleQueue[EpisodeInfo] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._load, name='bag loader', daemon=True)
        self.loaded = threading.Event()
        self.still = threading.Lock()

    @property
    def steps(self) -> int:
        """Steps to sample from."""
        return self._store.steps

    @property
    def episodes(self) -> int:
        """Episodes to sample from."""
        return self._store.episodes

    @property
    def held_out_episodes(self) -> int:
        """Episodes for validation."""
        return self._store.held_out_episodes

    @property
    def problems(self) -> list[Problem]:
        """What could not be used, growing."""
        return self._store.problems

    def start(self) -> None:
        """Begin to load bags, after `load_state_dict` if there is a state."""
        self._thread.start()

    def take(self) -> list[EpisodeInfo]:
        """Episodes that this run recorded and that entered since the last call.

        Raises:
            Exception: what loading them raised.
        """
        if self._error:
            raise self._error
        infos = [self._found.get() for _ in range(self._found.qsize())]
        return [info for info in infos if info.path.parent == self._episodes]

    def can_sample(self) -> bool:
        """Whether there are steps for a sequence."""
        return self._store.can_sample(self._schedule.length)

    def next_batch(self) -> Batch:
        """A batch to train on; see `ReplayBuffer.sample`."""
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self._store, self._schedule.batch, self._schedule.length)
        return self._prefetcher.next()

    def peek(self, count: int) -> Batch:
        """Sequences to look at, without a trace in the stream of batches."""
        return self._store.peek(count, self._schedule.length)

    def validation(self, count: int) -> Batch | None:
        """Sequences of held-out episodes; None without any."""
        return self._store.validation(count, self._schedule.length)

    def state_dict(self) -> dict:
        """What a resumed run needs to go on with the same batches; JSON-ready."""
        # Before the first batch there is no prefetcher, and nothing was sampled either.
        return (self._prefetcher or self._store).state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state."""
        self._store.load_state_dict(state)

    def close(self) -> None:
        """Stop both threads. A bag that is being read is finished first."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._prefetcher:
            self._prefetcher.close()

    def _load(self) -> None:
        try:
            while True:
                with self.still:
                    for info in self._store.refresh():
                        self._found.put(info)
                self.loaded.set()
                if self._closed.wait(REFRESH_PERIOD):
                    return
        except Exception as error:  # noqa: BLE001 - handed to the caller of take()
            self._error = error
            self.loaded.set()


class MemoryReplay:
    """Episodes that are handed over in this process: a `BagReplay` without bags and threads.

    Args:
        capacity: steps to hold; the oldest episodes leave first.
        schedule: with the sizes of batches.
        spec: of the robot.
        seed: of the sampling.
    """

    delay = 0.0
    held_out_episodes = 0
    problems = ()
    still = contextlib.nullcontext()

    def __init__(self, capacity: int, schedule: ScheduleConfig, spec: RobotSpec, seed: int):
        self._schedule = schedule
        self._buffer = ReplayBuffer(capacity, spec.image_shape, len(spec.vector), len(spec.action), seed)
        self._new: list[EpisodeInfo] = []
        self._added = 0
        self.loaded = threading.Event()
        self.loaded.set()

    @property
    def steps(self) -> int:
        return self._buffer.steps

    @property
    def episodes(self) -> int:
        return self._buffer.episodes

    def add(self, episode: Episode) -> None:
        """Take an episode. It gets its number for a name."""
        self._added += 1
        episode.path = Path(f'{self._added:06d}')
        self._buffer.add(episode)
        self._new.append(EpisodeInfo.of(episode))

    def take(self) -> list[EpisodeInfo]:
        infos, self._new = self._new, []
        return infos

    def can_sample(self) -> bool:
        return self._buffer.steps >= self._schedule.length

    def next_batch(self) -> Batch:
        return self._buffer.sample(self._schedule.batch, self._schedule.length)

    def peek(self, count: int) -> Batch:
        return self._buffer.peek(count, self._schedule.length)

    def validation(self, count: int) -> None:
        return None

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass
