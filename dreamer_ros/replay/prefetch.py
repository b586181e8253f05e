"""Samples batches ahead of the learner, in a thread."""

from __future__ import annotations

import collections
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dreamer_ros.replay.dataset import ReplayDataset


class Prefetcher:
    """Keeps two batches ready. Use as a context manager or call `close`."""

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

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _sample(self) -> tuple[dict, dict[str, np.ndarray]]:
        return self._dataset.cursor(), self._dataset.sample(self._batch, self._length)
