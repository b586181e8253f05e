"""What a person at the terminal sees while a run goes on."""

from __future__ import annotations

import collections
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

LINE_PERIOD = 10.0  # seconds between lines where there is no terminal
BAR_PERIOD = 0.2
# Rates are averaged over so many seconds, and over so many growths of what is counted:
RATE_WINDOW = 30.0
GROWTHS = 5
RESOLUTION = 0.5  # seconds; growths that follow each other faster count as one


@dataclasses.dataclass
class Status:
    """The state of a run. `step` and `budget` are env steps; offline, `budget` is updates."""

    step: int
    budget: int
    frames: int  # agent steps
    updates: int
    seconds: float = 0.0  # of training, over all sessions
    episodes: int = 0
    replay_steps: int = 0
    last_return: float | None = None
    evaluation_return: float | None = None
    validation_error: float | None = None  # of predicted images, held out
    waiting: str = ''  # what the run waits for; '' if it does not
    offline: bool = False  # no steps are collected

    @property
    def done(self) -> float:
        """Share of the budget that is used up, from 0 to 1."""
        return (self.updates if self.offline else self.step) / self.budget


class Bar:
    """A bar on a terminal; a line every ten seconds in a log file or a launch file's output."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._bar: tqdm | None = None
        self._next = 0.0

    def due(self) -> bool:
        """Whether the last text has been shown for long enough."""
        return time.monotonic() >= self._next

    def show(self, done: float, text: str) -> None:
        """Show the share that is done, from 0 to 1, and a text."""
        terminal = self._stream.isatty()
        self._next = time.monotonic() + (BAR_PERIOD if terminal else LINE_PERIOD)
        if terminal:
            if self._bar is None:
                self._bar = tqdm(
                    total=1.0, file=self._stream, dynamic_ncols=True, bar_format='{percentage:3.0f}%|{bar}| {postfix}'
                )
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


class Rate:
    """How fast a count grows, be it steadily or by whole episodes.

    The mean is taken from one growth to another, over half a minute or a few growths, whichever is longer. A mean over
    a fixed time would jump with every episode.

    Attributes:
        per_second: as of the last note.
    """

    def __init__(self) -> None:
        self._growths: collections.deque[tuple[float, float]] = collections.deque()  # when the count became what
        self.per_second = 0.0

    def note(self, now: float, count: float) -> None:
        """Take the count at a time in seconds, also while it does not grow."""
        growths = self._growths
        if not growths or count > growths[-1][1]:
            if len(growths) > 1 and now - growths[-2][0] < RESOLUTION:
                growths.pop()
            growths.append((now, count))
        while len(growths) > GROWTHS + 1 and growths[1][0] < now - RATE_WINDOW:
            growths.popleft()
        (began, before), (ended, after) = growths[0], growths[-1]
        usual = (ended - began) / max(1, len(growths) - 1)
        # What has not grown for longer than usual has become slower.
        seconds = ended - began + max(0.0, now - ended - usual)
        self.per_second = (after - before) / seconds if seconds > 0 else 0.0


class Progress(Bar):
    """The bar of one run, with its rates.

    Args:
        report: gets every status instead of a person.
    """

    def __init__(self, stream: TextIO | None = None, report: Callable[[Status], None] | None = None):
        super().__init__(stream)
        self._report = report
        self._steps, self._frames, self._updates = Rate(), Rate(), Rate()

    def update(self, status: Status) -> None:
        """Show a status, if the last one has been shown for long enough."""
        now = time.monotonic()
        self._steps.note(now, status.step)
        self._frames.note(now, status.frames)
        self._updates.note(now, status.updates)
        if self._report is not None:
            self._report(status)
        elif self.due():
            self.show(status.done, self._describe(status))

    def note(self, text: str) -> None:
        if self._report is None:
            super().note(text)

    def rates(self) -> tuple[float, float, float]:
        """Env steps, frames and updates per second of late; see Rate."""
        return self._steps.per_second, self._frames.per_second, self._updates.per_second

    def _describe(self, status: Status) -> str:
        steps, frames, updates = self.rates()
        done, unit, rate = (status.updates, 'updates', updates) if status.offline else (status.step, 'env steps', steps)
        parts = [f'{done}/{status.budget} {unit}', f'{status.episodes} episodes']
        if status.last_return is not None:
            parts.append(f'return {status.last_return:.1f}')
        if status.evaluation_return is not None:
            parts.append(f'evaluation {status.evaluation_return:.1f}')
        if status.validation_error is not None:
            parts.append(f'held-out error {status.validation_error:.2g}')
        parts += [f'{updates:.2f} updates/s', *([] if status.offline else [f'{frames:.1f} frames/s'])]
        if rate:
            parts.append(f'{duration(max(0, status.budget - done) / rate)} left')
        if status.waiting:
            parts.append(f'waiting for {status.waiting}')
        return ', '.join(parts)


def count_bar(total: int, unit: str) -> tqdm:
    """A bar that counts to a total."""
    form = '{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit}{postfix}, {rate_noinv_fmt}, {remaining} left'
    return tqdm(total=total, unit=f' {unit}', bar_format=form, dynamic_ncols=True)


def duration(seconds: float) -> str:
    """1:02:03 or 02:03."""
    return tqdm.format_interval(seconds)
