"""The event by which signals end a process."""

from __future__ import annotations

import queue
import threading


class StopEvent(threading.Event):
    """An event that signal handlers may set, by `ask`.

    `set` takes a lock that `wait` holds for a moment. If a signal interrupts the waiting thread just then, its handler
    would wait for that lock for ever, and so would every later one.

    Attributes:
        asked: whether `ask` was called, even if the event is not set yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        self._requests: queue.SimpleQueue[None] = queue.SimpleQueue()  # what signal handlers may put something into
        threading.Thread(target=self._obey, name='stop', daemon=True).start()

    def ask(self) -> None:
        """Set the event soon, from another thread."""
        self.asked = True
        self._requests.put(None)

    def _obey(self) -> None:
        self._requests.get()
        self.set()
