"""Batches sampled ahead of the learner, in a thread."""

from __future__ import annotations

import collections
import threading

import numpy as np

from dreamer_ros.replay.mix import ReplayMix
from dreamer_ros.replay.store import ReplayStore


class Prefetcher:
    """Keeps up to `depth` batches ready.

    An error of the store is raised by `next`. Use as a context manager or call `close`.
    """

    def __init__(self, store: ReplayStore | ReplayMix, batch: int, length: int, depth: int = 2) -> None:
        """Start sampling as `store.sample(batch, length)` does; the store must hold enough steps."""
        self._store, self._batch, self._length, self._depth = store, batch, length, depth
        self._ready: collections.deque[tuple[dict, dict[str, np.ndarray]]] = collections.deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='replay prefetch', daemon=True)
        self._thread.start()

    def next(self) -> dict[str, np.ndarray]:
        """The next batch; waits for it.

        Raises:
            RuntimeError: the prefetcher is closed.
            Exception: what sampling raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error or self._closed)
            if self._closed:
                raise RuntimeError('the prefetcher is closed')
            if not self._ready:
                raise self._error
            _, batch = self._ready.popleft()
            self._changed.notify_all()
            return batch

    def state_dict(self) -> dict:
        """The store's state before the batch that `next` gives next: those made ahead don't count."""
        with self._changed:
            # Between a sample and its arrival here the cursor would be one batch ahead.
            self._changed.wait_for(lambda: self._ready or self._error or self._closed)
            cursor = self._ready[0][0] if self._ready else None
        return self._store.state_dict(cursor)

    def close(self) -> None:
        """Stop the thread and wait for its end; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                    if self._closed:
                        return
                cursor = self._store.cursor()
                batch = self._store.sample(self._batch, self._length)
                with self._changed:
                    self._ready.append((cursor, batch))
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - handed to the caller of next()
            with self._changed:
                self._error = error
                self._changed.notify_all()
