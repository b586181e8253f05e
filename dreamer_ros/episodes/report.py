"""What of a bag could not be used, and why."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dreamer_ros.episodes.mcap_scan import RawMessage


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a bag, or some of its steps, could not be used.

    Attributes:
        path: the bag.
        reason: one sentence.
        steps: how many steps it cost, 0 if that can't be known.
    """

    path: Path
    reason: str
    steps: int = 0

    def __str__(self) -> str:
        return f'{self.path.name}: {self.reason}'


def when(first: int, last: int) -> str:
    """`at 12.500` or `between 12.500 and 80.000`: seconds of nanoseconds."""
    return f'at {first / 1e9:.3f}' if first == last else f'between {first / 1e9:.3f} and {last / 1e9:.3f}'


def left_out(messages: Iterable[RawMessage], what: str) -> str:
    """How many messages of which topics, and when they were recorded; '' of none.

    Args:
        what: they are, or are not.
    """
    messages = list(messages)
    if not messages:
        return ''
    counts = Counter(message.topic for message in messages)
    topics = ', '.join(f'{count} on {name}' for name, count in sorted(counts.items()))
    times = [message.time for message in messages]
    return f'left out, {what}: {topics}, {when(min(times), max(times))}'
