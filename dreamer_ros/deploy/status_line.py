"""The status line that a running node shows on a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import TextIO

REDRAW_PERIOD = 1.0  # seconds on a terminal; rates are averages over this time
LINE_PERIOD = 10.0  # seconds between two lines elsewhere


class StatusLine:
    """One line at the bottom of a terminal, redrawn in place. Elsewhere (a log file) a new line every ten seconds."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream
        self.on_terminal = self._stream.isatty()
        self._period = REDRAW_PERIOD if self.on_terminal else LINE_PERIOD
        self._next = time.monotonic() + self._period
        self._drawn = False

    def due(self) -> bool:
        """Whether the last text has been shown for long enough."""
        return time.monotonic() >= self._next

    def show(self, text: str) -> None:
        """Replace the line by another text."""
        self._next = time.monotonic() + self._period
        if self.on_terminal:
            # A line that wraps could not be erased.
            width = os.get_terminal_size(self._stream.fileno()).columns or sys.maxsize
            self._write(f'\r\033[K{text[: width - 1]}')
            self._drawn = True
        else:
            self._write(f'{text}\n')

    def clear(self) -> None:
        """Erase the line, so that something else can be printed."""
        if self._drawn:
            self._write('\r\033[K')
            self._drawn = False

    def _write(self, text: str) -> None:
        # A stopped or closed terminal must not block the node, which may have to stop a robot.
        with contextlib.suppress(OSError):
            if select.select([], [self._stream], [], 0)[1]:
                self._stream.write(text)
                self._stream.flush()
