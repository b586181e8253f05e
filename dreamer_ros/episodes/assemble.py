"""Messages to episodes, live or recorded: joins them by stamp, counts, and splits where steps are missing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.episodes.report import Problem, when
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.codecs import Mode, Step, parse_mode, read_action
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import ACTION, ACTIONS_KEPT

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


class Actors:
    """Who chose the actions of an episode.

    Attributes:
        modes: how often each kind of mode did.
        version: of the policy that acted last; None for none.
    """

    def __init__(self):
        self.modes: Counter = Counter()
        self.version: int | None = None

    @classmethod
    def named(cls, frame_ids: Iterable[str]) -> Actors:
        """Of actions with these frame_ids; those that say no mode don't count."""
        actors = cls()
        for text in frame_ids:
            with contextlib.suppress(InputError):
                actors.add(parse_mode(text))
        return actors

    def add(self, mode: Mode) -> None:
        """Count an action."""
        self.modes[mode.kind] += 1
        self.version = self.version if mode.version is None else mode.version

    @property
    def mode(self) -> str:
        """random, explore, evaluate or human. It counts as random or evaluate only if all of it was; otherwise the
        most frequent of the others names it.
        """
        if len(self.modes) <= 1:
            return next(iter(self.modes), 'random')
        others = [kind for kind, _ in self.modes.most_common() if kind not in ('evaluate', 'random')]
        return others[0] if others else 'explore'

    def data(self) -> dict[str, str]:
        """For custom_data."""
        return {'mode': self.mode, 'policy_version': '' if self.version is None else str(self.version)}


def known_return(total: float, contract: RobotContract | None) -> float | None:
    """The return of an episode; None where its zeros mean that nobody knows: its robot's contract has no reward.

    Args:
        total: sum of the rewards of its steps.
        contract: of its robot; None without one, where rewards are what the task gave.
    """
    return None if contract is not None and contract.reward is None and total == 0.0 else total


def return_data(total: float, contract: RobotContract | None) -> dict[str, str]:
    """A return as it stands in custom_data, where it is left out if nobody knows it; see `known_return`."""
    known = known_return(total, contract)
    return {} if known is None else {'return': repr(known)}


# Two steps further apart than so many control periods are not neighbours: something between them is missing.
GAP_PERIODS = 1.5
ROUNDING = 1e-5  # by which an action may be beyond 1


class Unusable(Exception):
    """A step can't be used; the message is the reason, the same for all steps with the same trouble."""


class Row(NamedTuple):
    """One usable step: image u8[H, W, C], vector f32[N], action f32[A], who chose it, and of a robot with a
    contract the ages of the messages that were used, ns by topic.
    """

    image: np.ndarray
    vector: np.ndarray
    action: np.ndarray
    step: Step
    frame_id: str
    ages: Mapping[str, int] = {}


@dataclasses.dataclass
class _Span:
    """How often something happened, and when first and last, ns."""

    first: int
    last: int
    count: int = 0

    def __str__(self) -> str:
        return when(self.first, self.last)


class Rows:
    """Collects the steps of one robot in order of time.

    Runs are split where an episode begins or ends, and wherever a step is missing, so that neighbours in a run
    were neighbours in the world.

    Args:
        path: the bag.
        period: s, the control period.
    """

    def __init__(self, path: Path, period: float):
        self._path = path
        self._gap_ns = GAP_PERIODS * period * 1e9
        self._runs: list[list[Row]] = [[]]
        self._steps = 0
        self._dropped: dict[str, _Span] = {}
        self._gaps: dict[str, _Span] = {}

    def add(self, row: Row) -> None:
        """Append a usable step."""
        if row.step.is_terminal and not row.step.is_last:
            self.drop(row.step.stamp, Unusable('that are terminal but not the last'))
            return
        self._steps += 1
        last = self._runs[-1][-1].step if self._runs[-1] else None
        if last is not None:
            if row.step.is_first or last.is_last:
                self._runs.append([])
            elif row.step.stamp - last.stamp > self._gap_ns:
                _note(self._gaps, 'gap', last.stamp)
                self._runs.append([])
        self._runs[-1].append(row)

    def drop(self, stamp: int, reason: Unusable, last: int | None = None, count: int = 1) -> None:
        """Leave a step out, or `count` steps until `last`."""
        self._steps += count
        _note(self._dropped, str(reason), stamp, last, count)
        if self._runs[-1]:
            self._runs.append([])

    def episodes(self, meta: dict[str, str], problems: list[Problem]) -> list[Episode]:
        """All runs as episodes; `problems` gets what was left out."""
        problems += self.problems()
        return [_stack(self._path, run, meta) for run in self.runs]

    def problems(self) -> list[Problem]:
        """What was left out, and why."""
        problems = []
        if self._dropped:
            count = sum(span.count for span in self._dropped.values())
            ordered = sorted(self._dropped.items(), key=lambda item: -item[1].count)
            reasons = ', '.join(f'{span.count} {reason} {span}' for reason, span in ordered)
            problems.append(Problem(self._path, f'{count} of {self._steps} steps dropped: {reasons}', count))
        for span in self._gaps.values():
            problems.append(
                Problem(self._path, f'split at {span.count} gaps longer than {GAP_PERIODS} control periods, {span}')
            )
        return problems

    @property
    def runs(self) -> list[list[Row]]:
        """Steps in a row, no run empty."""
        return [run for run in self._runs if run]


def recorded_action(message: RawMessage) -> tuple[np.ndarray, str]:
    """f32[A] of a message on `action`, and who chose it.

    Raises:
        InputError: it is damaged, or holds what no agent says.
    """
    decoded = decode(message.data, ACTION.type)
    action = read_action(decoded, len(decoded.axes))
    if len(action) and np.abs(decoded.axes).max() > 1 + ROUNDING:
        raise InputError(f'action: expected axes in [-1, 1], got {list(decoded.axes)}')
    return action, decoded.header.frame_id


def _note(spans: dict[str, _Span], what: str, stamp: int, last: int | None = None, count: int = 1) -> None:
    span = spans.setdefault(what, _Span(stamp, stamp))
    span.last = stamp if last is None else last
    span.count += count


def _stack(path: Path, rows: list[Row], meta: dict[str, str]) -> Episode:
    """Rows to arrays. What the bag does not say of policy and mode, the first action does."""
    meta = dict(meta)
    try:
        mode = parse_mode(rows[0].frame_id)
        meta.setdefault('mode', mode.kind)
        if mode.version is not None:
            meta.setdefault('policy_version', str(mode.version))
    except InputError:
        pass  # a bag of another origin, whose actions say nothing of who chose them
    steps = [row.step for row in rows]
    return Episode(
        image=np.stack([row.image for row in rows]),
        vector=np.stack([row.vector for row in rows]),
        action=np.stack([row.action for row in rows]),
        reward=np.array([step.reward for step in steps], np.float32),
        is_first=np.array([step.is_first for step in steps]),
        is_last=np.array([step.is_last for step in steps]),
        is_terminal=np.array([step.is_terminal for step in steps]),
        stamp=np.array([step.stamp for step in steps], np.int64),
        meta=meta,
        path=path,
    )
