"""Work that must not hold up who asks for it: done in order by one thread, within a bound of memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


class Background:
    """A thread that runs jobs one after another.

    After a job that raised, the others are dropped and the error is raised to whoever comes next.

    Args:
        limit: bytes that waiting jobs may hold on to; `submit` waits for room beyond that.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._jobs: deque[tuple[Callable[[], None], int]] = deque()
        self._held = 0
        self._error: BaseException | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name='background')
        self._thread.start()

    @property
    def held(self) -> int:
        """Bytes of the jobs that wait."""
        return self._held

    def submit(self, job: Callable[[], None], size: int = 0) -> None:
        """Have a job done that holds `size` bytes."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._jobs or self._held + size <= self._limit)
            self._raise()
            self._jobs.append((job, size))
            self._held += size
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what a job raised."""
        with self._changed:
            self._raise()

    def close(self) -> None:
        """Do what is left, end the thread, raise what a job raised."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.check()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                job, size = self._jobs[0]
            error = None
            try:
                job()
            except BaseException as raised:  # noqa: BLE001 - belongs to the owner
                error = raised
            with self._changed:
                self._jobs.popleft()
                self._held -= size
                if error is not None:
                    self._error = error
                    self._jobs.clear()
                    self._held = 0
                self._changed.notify_all()
