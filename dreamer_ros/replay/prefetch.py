"""Batches sampled ahead of the learner, in a thread."""

from __future__ import annotations

import collections
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dreamer_ros.replay.dataset import ReplayDataset


class Prefetcher:
    """Keeps up to `depth` batches ready. Use as a context manager or call `close`."""

    def __init__(self, dataset: ReplayDataset, batch: int, length: int, depth: int = 2) -> None:
        """Start sampling as `dataset.sample(batch, length)` does. The dataset must hold enough steps."""
        self._dataset, self._batch, self._length = dataset, batch, length
        self._thread = ThreadPoolExecutor(1, 'replay prefetch')
        self._ahead: collections.deque[Future] = collections.deque()
        for _ in range(depth):
            self._ahead.append(self._thread.submit(self._sample))

    def next(self) -> dict[str, np.ndarray]:
        """The next batch; waits for it.

        Raises:
            RuntimeError: the prefetcher is closed.
            Exception: what sampling raised.
        """
        if not self._ahead:
            raise RuntimeError('the prefetcher is closed')
        _, batch = self._ahead[0].result()
        self._ahead.popleft()
        self._ahead.append(self._thread.submit(self._sample))
        return batch

    def state_dict(self) -> dict:
        """The dataset's state before the batch that `next` gives next. Batches made ahead do not count."""
        failed = not self._ahead or self._ahead[0].exception()
        return self._dataset.state_dict(None if failed else self._ahead[0].result()[0])

    def close(self) -> None:
        """Stop the thread and wait for its end; may be called twice."""
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _sample(self) -> tuple[dict, dict[str, np.ndarray]]:
        return self._dataset.cursor(), self._dataset.sample(self._batch, self._length)
