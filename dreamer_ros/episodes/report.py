"""Reports on a bag: what could not be used and why, and how regularly the messages of a topic came."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

from dreamer_ros.episodes.mcap_scan import RawMessage

GAP = 2.5  # times the usual interval; a longer one is a gap
RECENT = 25  # intervals; their median is the usual one


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a bag, or some of its steps, could not be used.

    Attributes:
        path: the bag.
        reason: one sentence.
        steps: how many steps it cost; 0 if unknown.
    """

    path: Path
    reason: str
    steps: int = 0

    def __str__(self) -> str:
        return f'{printable(self.path.name)}: {self.reason}'


class Report(list[Problem]):
    """The problems of one bag, in the order in which they were found."""

    def __init__(self, path: Path, problems: Iterable[Problem] = ()):
        super().__init__(problems)
        self.path = path

    def add(self, reason: str, steps: int = 0) -> None:
        """Note a problem."""
        self.append(Problem(self.path, reason, steps))

    def left_out(self, messages: Iterable[RawMessage], what: str) -> None:
        """Note messages that are not used, if there are any. `what` says why."""
        messages = list(messages)
        if messages:
            counts = collections.Counter(message.topic for message in messages)
            topics = ', '.join(f'{count} on {name}' for name, count in sorted(counts.items()))
            times = [message.time for message in messages]
            self.add(f'left out, {what}: {topics}, {when(min(times), max(times))}')


def when(first: int, last: int) -> str:
    """`at 12.500` or `between 12.500 and 80.000`: seconds, from nanoseconds."""
    return f'at {first / 1e9:.3f}' if first == last else f'between {first / 1e9:.3f} and {last / 1e9:.3f}'


def printable(name: str) -> str:
    """A file name as valid UTF-8, with its other bytes escaped."""
    return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')


class Regularity:
    """How regularly the messages of one topic came, by their stamps. Needs constant memory.

    Args:
        late_after: age in s from which an arriving message counts as late.
    """

    def __init__(self, late_after: float = math.inf):
        self._late_after = late_after
        self._first = self._last = 0
        self._recent: collections.deque[float] = collections.deque(maxlen=RECENT)
        self.messages = 0
        self.lost = 0  # sent, but never arrived
        self.gaps = 0
        self.longest_gap = 0.0  # s between two messages
        self.late = 0
        self.unstamped = 0  # without a stamp
        self.backwards = 0  # stamped no later than the one before

    def add(self, stamp: int, arrived: int, lost: int = 0) -> None:
        """Note a message.

        Args:
            stamp: ns, when it was measured; 0 for not known.
            arrived: ns, on the same clock.
            lost: how many of its publisher's messages just before this one never came.
        """
        self.messages += 1
        self.lost += lost
        if stamp == 0:
            self.unstamped += 1
            stamp = arrived
        elif arrived - stamp > self._late_after * 1e9:
            self.late += 1
        if self.messages == 1:
            self._first = self._last = stamp
            return
        interval = (stamp - self._last) / 1e9
        if interval <= 0:
            self.backwards += 1
            return
        self._last = stamp
        self.longest_gap = max(self.longest_gap, interval)
        filled = len(self._recent) == RECENT
        self._recent.append(interval)
        limit = GAP * statistics.median(self._recent)
        if filled:
            self.gaps += interval > limit
        else:  # the first intervals are judged again, as the usual one becomes known
            self.gaps = sum(each > limit for each in self._recent)

    @property
    def rate(self) -> float | None:
        """Messages per second; None for fewer than two."""
        return (self.messages - 1) * 1e9 / (self._last - self._first) if self._last > self._first else None

    def to_dict(self) -> dict[str, int | float]:
        """Whatever is not zero, JSON-ready."""
        values = {
            'messages': self.messages,
            'rate': self.rate and round(self.rate, 3),
            'lost': self.lost,
            'gaps': self.gaps,
            'longest_gap': self.gaps and round(self.longest_gap, 4),
            'late': self.late,
            'unstamped': self.unstamped,
            'backwards': self.backwards,
        }
        return {key: value for key, value in values.items() if value or key == 'messages'}

    def __str__(self) -> str:
        """For the log: `300 at 29.97/s, 2 lost, 1 gaps of at most 0.412 s`."""
        text = f'{self.messages}' + (f' at {self.rate:.4g}/s' if self.rate else '')
        if self.gaps:
            text += f', {self.gaps} gaps of at most {self.longest_gap:.3f} s'
        for name, count in (
            ('lost', self.lost),
            ('late', self.late),
            ('without a stamp', self.unstamped),
            ('out of order', self.backwards),
        ):
            text += f', {count} {name}' if count else ''
        return text
