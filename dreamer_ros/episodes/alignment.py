"""Brings the messages of one step together, whatever order the topics arrive in."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from dreamer_ros.wire.topics import ACTIONS_KEPT

# Seconds that a step waits for a missing message once a later step is there: DDS may take 3 to find the publisher
# of the actions, and then delivers those of before.
PATIENCE = 5.0
ORPHAN_AGE = 10.0  # seconds that messages wait for their step
PENDING_LIMIT = ACTIONS_KEPT  # steps; bounds the memory
SEEN_LIMIT = 2 * PENDING_LIMIT  # stamps remembered to know repeats by


class AlignedStep(NamedTuple):
    """Messages of one stamp in the order of the aligner's topics; None where one never came."""

    stamp: int
    messages: tuple[bytes | None, ...]


class _Pending:
    __slots__ = ('arrived', 'messages', 'missing')

    def __init__(self, arrived: float, topics: int):
        self.arrived = arrived
        self.messages: list[bytes | None] = [None] * topics
        self.missing = topics


class StepAligner:
    """Collects messages by stamp and gives them out as whole steps.

    Steps leave in the order in which their message on the leading topic came, each stamp once. A step leaves
    incomplete only when a later one has come and its own messages are overdue, as after a message lost for
    good; in lock-step that does not happen.

    Args:
        topics: how many topics there are; they are numbered from 0.
        leader: number of the topic that gives the order.
    """

    def __init__(self, topics: int, leader: int):
        self._topics, self._leader = topics, leader
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._order: deque[int] = deque()
        self._seen: OrderedDict[int, None] = OrderedDict()
        self.repeats = 0

    @property
    def waiting(self) -> int:
        """Steps that have begun to arrive and have not been given out."""
        return len(self._order)

    def add(self, topic: int, stamp: int, message: bytes, now: float) -> None:
        """Note a message; `now` is any steady clock in seconds. Repeats are counted and dropped."""
        if stamp in self._seen:
            self.repeats += 1
            return
        pending = self._pending.get(stamp)
        if pending is None:
            pending = self._pending[stamp] = _Pending(now, self._topics)
        elif pending.messages[topic] is not None:
            self.repeats += 1
            return
        pending.messages[topic] = message
        pending.missing -= 1
        if topic == self._leader:
            self._order.append(stamp)

    def take(self, now: float) -> list[AlignedStep]:
        """Steps that are due, in order."""
        due = []
        while self._order:
            head = self._pending[self._order[0]]
            overdue = len(self._order) > 1 and now - head.arrived > PATIENCE
            if head.missing and not overdue and len(self._order) <= PENDING_LIMIT:
                break
            stamp = self._order.popleft()
            due.append(AlignedStep(stamp, tuple(self._pending.pop(stamp).messages)))
            self._seen[stamp] = None
            if len(self._seen) > SEEN_LIMIT:
                self._seen.popitem(last=False)
        self._drop_orphans(now)
        return due

    def take_rest(self) -> list[AlignedStep]:
        """At the end: all that came, in order, but for a newest step that nobody answered any more."""
        rest = [AlignedStep(stamp, tuple(self._pending.pop(stamp).messages)) for stamp in self._order]
        self._order.clear()
        return rest[:-1] if rest and None in rest[-1].messages else rest

    def _drop_orphans(self, now: float) -> None:
        """Forget messages whose step never came: sent before the recorder was there."""
        while self._pending:
            stamp, oldest = next(iter(self._pending.items()))
            aged = now - oldest.arrived > ORPHAN_AGE or len(self._pending) > PENDING_LIMIT
            if oldest.messages[self._leader] is not None or not aged:
                return
            del self._pending[stamp]
