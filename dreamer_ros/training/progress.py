"""What a person at the terminal sees while a run goes on."""
from __future__ import annotations

import collections
import dataclasses
import sys
import time
from typing import Deque, Optional, TextIO, Tuple

from tqdm import tqdm

LINE_PERIOD = 10.0  # seconds between lines where there is no terminal
BAR_PERIOD = 0.2
RATE_WINDOW = 30.0  # seconds that rates are averaged over


@dataclasses.dataclass
class Status:
    """One look at a run; `step` and `budget` are env steps, but budget is updates where learning is offline."""

    step: int
    budget: int
    frames: int  # agent steps
    updates: int
    episodes: int = 0
    last_return: Optional[float] = None
    evaluation_return: Optional[float] = None
    validation_error: Optional[float] = None  # of predicted images, held out
    waiting: str = ''  # what for; '' when it does not wait
    offline: bool = False  # no steps are collected

    @property
    def done(self) -> float:
        """Part of the budget that is used up."""
        return (self.updates if self.offline else self.step) / self.budget


class Bar:
    """A bar on a terminal; elsewhere (a log file, a launch file's output) a line every ten seconds."""

    def __init__(self, stream: Optional[TextIO] = None):
        self._stream = sys.stderr if stream is None else stream
        self._bar = None
        self._next = 0.0

    def due(self) -> bool:
        """Whether the last text has been shown for long enough."""
        return time.monotonic() >= self._next

    def show(self, done: float, text: str) -> None:
        """Show the part that is done, from 0 to 1, and what there is to say."""
        terminal = self._stream.isatty()
        self._next = time.monotonic() + (BAR_PERIOD if terminal else LINE_PERIOD)
        if terminal:
            if self._bar is None:
                self._bar = tqdm(total=1.0, file=self._stream, dynamic_ncols=True,
                                 bar_format='{percentage:3.0f}%|{bar}| {postfix}')
            self._bar.n = min(done, 1.0)
            self._bar.set_postfix_str(text, refresh=True)
        else:
            print(f'{100 * done:3.0f}% {text}', file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Print one line without tearing the bar."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Progress(Bar):
    """The bar of one run, with its rates."""

    def __init__(self, stream: Optional[TextIO] = None):
        super().__init__(stream)
        self._history: Deque[Tuple[float, Status]] = collections.deque()

    def update(self, status: Status) -> None:
        """Show a status, if the last one has been shown for long enough."""
        now = time.monotonic()
        if not self._history or now - self._history[-1][0] > 0.5:
            self._history.append((now, dataclasses.replace(status)))
        # keep one entry at or beyond the window's far end
        while len(self._history) > 2 and self._history[1][0] < now - RATE_WINDOW:
            self._history.popleft()
        if self.due():
            self.show(status.done, self._describe(status))

    def rates(self, status: Status) -> Tuple[float, float, float]:
        """Env steps, frames and updates per second over the last half minute."""
        then, before = self._history[0] if self._history else (time.monotonic(), status)
        seconds = max(time.monotonic() - then, 1e-6)
        if seconds < 0.1:
            return 0.0, 0.0, 0.0
        return ((status.step - before.step) / seconds, (status.frames - before.frames) / seconds,
                (status.updates - before.updates) / seconds)

    def _describe(self, status: Status) -> str:
        steps, frames, updates = self.rates(status)
        done, unit = (status.updates, 'updates') if status.offline else (status.step, 'env steps')
        parts = [f'{done}/{status.budget} {unit}', f'{status.episodes} episodes']
        if status.last_return is not None:
            parts.append(f'return {status.last_return:.1f}')
        if status.evaluation_return is not None:
            parts.append(f'evaluation {status.evaluation_return:.1f}')
        if status.validation_error is not None:
            parts.append(f'held-out error {status.validation_error:.2g}')
        parts += [f'{updates:.2f} updates/s', *([] if status.offline else [f'{frames:.1f} frames/s'])]
        rate = updates if status.offline else steps
        if rate > 0:
            parts.append(f'{duration((status.budget - done) / rate)} left')
        if status.waiting:
            parts.append(f'waiting for {status.waiting}')
        return ', '.join(parts)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
