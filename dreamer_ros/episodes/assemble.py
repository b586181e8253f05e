"""Turns messages, live or recorded, into episodes: joins them to steps by stamp, counts them, stacks them to arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.episodes.episode import Episode, actor_data
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.episodes.report import Report, when
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.codecs import Mode, Step, header_stamp, parse_mode, read_action
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import ACTION, ACTIONS_KEPT

# Seconds that a step waits for a missing message once a later step is there. DDS may take 3 s to find the publisher
# of the actions, and then delivers the earlier ones.
PATIENCE = 5.0
ORPHAN_AGE = 10.0  # seconds that messages wait for their step
PENDING_LIMIT = ACTIONS_KEPT  # steps; bounds the memory
SEEN_LIMIT = 2 * PENDING_LIMIT  # stamps that are remembered to recognise repeats
GAP_PERIODS = 1.5  # control periods between two steps; after more, a step is missing between them
ROUNDING = 1e-5  # an action may exceed 1 by this much
LARGEST_REWARD = 1e9  # a larger one is a mistake, and no learner can represent it


# Joining by stamp


class Joined:
    """Messages of several topics, joined to steps by stamp.

    Attributes:
        steps: messages by topic, by stamp, in the order in which the steps began to arrive.
    """

    def __init__(self):
        self.steps: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def add(self, topic: str, stamp: int, message: Any) -> Any:
        """Take a message in. Returns the first one of its topic and stamp, which counts."""
        return self.steps.setdefault(stamp, {}).setdefault(topic, message)

    def pop_through(self, stamp: int) -> Iterator[dict[str, Any]]:
        """Take out the steps up to and including the one of a stamp."""
        popped = None
        while popped != stamp:
            popped, messages = self.steps.popitem(last=False)
            yield messages

    def stamps(self, topic: str) -> set[int]:
        """Stamps of a topic's messages."""
        return {stamp for stamp, messages in self.steps.items() if topic in messages}


class StepAligner:
    """Joins messages to whole steps as they arrive.

    Steps leave in the order of their messages on the leading topic, each stamp once. A step leaves incomplete only
    when a later one has come and its own messages are overdue, because one was lost. In lock-step that does not happen.

    Args:
        topics: names, in the order that a step's messages get.
        leader: the topic that gives the order of the steps.

    Attributes:
        repeats: how many messages came again.
    """

    def __init__(self, topics: Sequence[str], leader: str):
        self._topics, self._leader = topics, leader
        self._joined = Joined()
        self._arrived: dict[int, float] = {}
        self._order: deque[int] = deque()
        self._seen: OrderedDict[int, None] = OrderedDict()
        self.repeats = 0

    @property
    def waiting(self) -> int:
        """How many steps have begun to arrive and have not left."""
        return len(self._order)

    def add(self, topic: str, stamp: int, message: bytes, now: float) -> None:
        """Note a message; `now` is any steady clock in seconds."""
        if stamp in self._seen or topic in self._joined.steps.get(stamp, ()):
            self.repeats += 1
            return
        self._joined.add(topic, stamp, message)
        self._arrived.setdefault(stamp, now)
        if topic == self._leader:
            self._order.append(stamp)

    def take(self, now: float) -> list[tuple[int, dict[str, bytes]]]:
        """Stamp and messages by topic of the steps that are due, in order."""
        due = []
        while self._order:
            stamp = self._order[0]
            overdue = len(self._order) > 1 and now - self._arrived[stamp] > PATIENCE
            incomplete = len(self._joined.steps[stamp]) < len(self._topics)
            if incomplete and not overdue and len(self._order) <= PENDING_LIMIT:
                break
            due.append(self._pop(self._order.popleft()))
            self._seen[stamp] = None
            if len(self._seen) > SEEN_LIMIT:
                self._seen.popitem(last=False)
        self._drop_orphans(now)
        return due

    def take_rest(self) -> list[tuple[int, dict[str, bytes]]]:
        """At the end, all steps that are left, in order, except an incomplete newest one."""
        rest = [self._pop(stamp) for stamp in self._order]
        self._order.clear()
        return rest[:-1] if rest and len(rest[-1][1]) < len(self._topics) else rest

    def _pop(self, stamp: int) -> tuple[int, dict[str, bytes]]:
        messages = self._joined.steps.pop(stamp)
        del self._arrived[stamp]
        return stamp, {topic: messages[topic] for topic in self._topics if topic in messages}

    def _drop_orphans(self, now: float) -> None:
        """Forget messages whose step never came, because they were sent before the recorder started."""
        steps = self._joined.steps
        while steps:
            stamp, messages = next(iter(steps.items()))
            aged = now - self._arrived[stamp] > ORPHAN_AGE or len(steps) > PENDING_LIMIT
            if self._leader in messages or not aged:
                return
            self._pop(stamp)


# Counting


class Tally:
    """Counts the steps and rewards of one episode, and who acted. A repeated stamp changes nothing.

    Args:
        period: s between two steps. Without it no step is counted as missing.
        contract: of the robot, if it has one.
        robot: its namespace, '' for none.

    Attributes:
        first, last: the earliest and the latest step, once there is one.
    """

    first: Step
    last: Step

    def __init__(self, period: float | None = None, contract: RobotContract | None = None, robot: str = ''):
        self._period, self._contract, self.robot = period, contract, robot
        self._steps: dict[int, Step] = {}
        self._modes: dict[int, Mode | None] = {}

    def add(self, step: Step, frame_id: str | None = None) -> None:
        """Count a step, and its action by `frame_id` if it is known already."""
        if not self._steps or step.stamp < self.first.stamp:
            self.first = step
        if not self._steps or step.stamp > self.last.stamp:
            self.last = step
        self._steps.setdefault(step.stamp, step)
        if frame_id is not None:
            self.add_action(step.stamp, frame_id)

    def add_action(self, stamp: int, frame_id: str) -> None:
        """Count an action by its `header.frame_id`, which says who chose it."""
        mode = None
        with contextlib.suppress(InputError):
            mode = parse_mode(frame_id)
        self._modes.setdefault(stamp, mode)

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, stamp: int) -> bool:
        return stamp in self._steps

    @property
    def missing(self) -> int:
        """How many steps are missing between the first and the last one."""
        if self._period is None or not self._steps:
            return 0
        return max(0, round((self.last.stamp - self.first.stamp) / 1e9 / self._period) + 1 - len(self))

    @property
    def is_whole(self) -> bool:
        """Whether every step of the episode is there."""
        return len(self) > 0 and self.first.is_first and self.last.is_last and not self.missing

    @property
    def state(self) -> str:
        """Which ends of the episode are there, in a word or two."""
        if self.first.is_first and self.last.is_last:
            return 'terminal' if self.last.is_terminal else 'whole'
        if self.first.is_first:
            return 'cut at the end'
        return 'cut at the start' if self.last.is_last else 'cut'

    @property
    def total_reward(self) -> float | None:
        """The return, see `known_return`."""
        return known_return(math.fsum(step.reward for step in self._steps.values()), self._contract)

    @property
    def modes(self) -> list[Mode | None]:
        """Who chose the action of each step, in order, None if unknown. The last step of an episode has no action."""
        return [
            self._modes[stamp]
            for stamp in sorted(self._modes.keys() & self._steps.keys())
            if not self._steps[stamp].is_last
        ]

    @property
    def mode(self) -> str:
        """random, explore, evaluate or human, '' if unknown.

        An episode counts as random or evaluate only if all of it was. Otherwise the most frequent other mode counts.
        """
        kinds = Counter(mode.kind for mode in self.modes if mode is not None)
        if len(kinds) <= 1:
            return next(iter(kinds), '')
        others = [kind for kind, _ in kinds.most_common() if kind not in ('evaluate', 'random')]
        return others[0] if others else 'explore'

    @property
    def policy_version(self) -> int | None:
        """Version of the policy that acted last, if any did."""
        return next((mode.version for mode in reversed(self.modes) if mode and mode.version is not None), None)

    def data(self) -> dict[str, str]:
        """For custom_data, without what is unknown."""
        total, version = self.total_reward, self.policy_version
        return {
            'length': str(len(self)),
            **({} if total is None else {'return': repr(total)}),
            **({'mode': self.mode, 'policy_version': '' if version is None else str(version)} if self.mode else {}),
        }

    def __str__(self) -> str:
        """For the log: `26 steps, return 2.0, explore, policy 12`."""
        total, version = self.total_reward, self.policy_version
        text = f'{len(self)} steps'
        text += '' if total is None else f', return {total:.1f}'
        text += f', {self.mode}' if self.mode else ''
        return text + ('' if version is None else f', policy {version}')


def tally_of(episode: Episode, contract: RobotContract | None = None, actor: str | None = None) -> Tally:
    """Counts the steps of an episode in memory. `actor` chose all its actions, None if unknown."""
    tally = Tally(contract=contract)
    columns = (episode.stamp, episode.reward, episode.is_first, episode.is_last, episode.is_terminal)
    for row in zip(*(column.tolist() for column in columns)):
        tally.add(Step(*row), actor)
    return tally


def known_return(total: float, contract: RobotContract | None) -> float | None:
    """The return of an episode, from the sum of its rewards. None if it is unknown.

    A contract without a reward gives zeros to every step, unless labels give others.
    """
    return None if contract is not None and contract.reward is None and total == 0.0 else total


# To arrays


class Unusable(Exception):
    """A step can't be used. The message is the reason, worded alike for all steps with the same problem."""


class Row(NamedTuple):
    """One usable step.

    Attributes:
        image: uint8 [H, W, C].
        vector: float32 [N].
        action: float32 [A].
        frame_id: who chose the action.
        ages: of the messages that were used, ns by topic. Only robots with a contract have them.
    """

    image: np.ndarray
    vector: np.ndarray
    action: np.ndarray
    step: Step
    frame_id: str
    ages: Mapping[str, int] = {}


def recorded_stamp(message: RawMessage) -> int:
    """Header stamp of a recorded message, ns.

    Raises:
        Unusable: it has none. The reason is worded for several messages.
    """
    try:
        return header_stamp(message.data)
    except InputError as error:
        is_short = len(message.data) < 12
        raise Unusable(
            'are too short to hold a stamp' if is_short else 'have a stamp before 1970 or after 2037'
        ) from error


def stamped(
    messages: Iterable[RawMessage], stamp_of: Callable[[RawMessage], int], report: Report
) -> Iterator[tuple[int, RawMessage]]:
    """Stamps and messages. `report` gets how many were left out because `stamp_of` raised Unusable."""
    stampless: Counter = Counter()
    for message in messages:
        try:
            stamp = stamp_of(message)
        except Unusable as reason:
            stampless[message.topic, str(reason)] += 1
        else:
            yield stamp, message
    for (name, why), count in stampless.items():
        report.add(f'{count} messages on {name} {why}')


def recorded_action(message: RawMessage | None, size: int) -> tuple[np.ndarray, str]:
    """float32 [A] of a message on `action`, and who chose it. Zeros and '' for None.

    Raises:
        Unusable: it is damaged, or no action of this robot.
    """
    if message is None:
        return np.zeros(size, np.float32), ''
    try:
        decoded = decode(message.data, ACTION.type)
        action = read_action(decoded.axes, len(decoded.axes))
    except InputError as error:
        raise Unusable('with a bad action') from error
    if len(action) and np.abs(decoded.axes).max() > 1 + ROUNDING:
        raise Unusable('with a bad action')
    if len(action) != size:
        raise Unusable(f'action: expected {size} axes, got {len(action)}')
    return action, decoded.header.frame_id


@dataclasses.dataclass
class _Span:
    """How many steps were dropped for one reason. Stamps of the first and the last one, ns."""

    first: int
    last: int
    count: int = 0


class Assembler:
    """Collects the steps of one robot in order of time and splits them into runs.

    A run ends with its episode, or before a missing step: neighbours in a run were neighbours in the world.

    Args:
        period: s, the control period.
    """

    def __init__(self, period: float):
        self._gap_ns = GAP_PERIODS * period * 1e9
        self._runs: list[list[Row]] = [[]]
        self._dropped: dict[str, _Span] = {}
        self._gaps: list[int] = []  # stamps of the steps before them

    def add(self, row: Row) -> None:
        """Append a usable step."""
        step = row.step
        if step.is_terminal and not step.is_last:
            self.drop(step.stamp, Unusable('that are terminal but not the last'))
            return
        if abs(step.reward) > LARGEST_REWARD:
            self.drop(step.stamp, Unusable(f'with a reward beyond ±{LARGEST_REWARD:g}'))
            return
        last = self._runs[-1][-1].step if self._runs[-1] else None
        if last is not None:
            if step.is_first or last.is_last:
                self._runs.append([])
            elif step.stamp - last.stamp > self._gap_ns:
                self._gaps.append(last.stamp)
                self._runs.append([])
        self._runs[-1].append(row)

    def drop(self, stamp: int, reason: Unusable, last: int | None = None, count: int = 1) -> None:
        """Leave a step out, or `count` steps until `last`."""
        span = self._dropped.setdefault(str(reason), _Span(stamp, stamp))
        span.last = stamp if last is None else last
        span.count += count
        if self._runs[-1]:
            self._runs.append([])

    def runs(self, report: Report) -> list[list[Row]]:
        """Runs of one step at least. `report` gets what was left out, and why."""
        dropped = sum(span.count for span in self._dropped.values())
        if dropped:
            ordered = sorted(self._dropped.items(), key=lambda item: -item[1].count)
            reasons = ', '.join(f'{span.count} {reason} {when(span.first, span.last)}' for reason, span in ordered)
            report.add(f'{dropped} of {dropped + sum(map(len, self._runs))} steps dropped: {reasons}', dropped)
        if self._gaps:
            times = when(self._gaps[0], self._gaps[-1])
            report.add(f'split at {len(self._gaps)} gaps longer than {GAP_PERIODS} control periods, {times}')
        return [run for run in self._runs if run]

    def episodes(self, meta: Mapping[str, str], report: Report) -> list[Episode]:
        """The runs as episodes; see `runs`."""
        return [_stack(run, meta, report) for run in self.runs(report)]


def _stack(rows: list[Row], meta: Mapping[str, str], report: Report) -> Episode:
    """Rows to arrays. Without policy and mode in the bag, the first action tells them."""
    acted = {key: value for key, value in actor_data(rows[0].frame_id).items() if value}
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
        meta={**acted, **meta},
        path=report.path,
        by_hand=np.array([row.frame_id == 'human' for row in rows]),
    )
