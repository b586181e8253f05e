"""What `dreamer bag info` prints: a folder of bags from their metadata alone, one bag from its messages."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamer_ros.episodes.assemble import Tally, Unusable, recorded_stamp, tally_of
from dreamer_ros.episodes.bag_reader import bags_in, entries, is_partial, open_bag, read_metadata, unsafe
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.report import Regularity, Report, printable
from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import Step, read_step
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import ACTION, STEP


@dataclasses.dataclass(frozen=True)
class BagInfo:
    """One bag, from its metadata.

    Attributes:
        name: directory name.
        folder: the bag's folder, relative to the one described: in a run `episodes` or `evaluation/<time>`.
        steps: messages on the step topic; None if there is no such topic.
        missing: how many more steps fit into its duration; None if unknown.
        total_reward: return of the episode, if its recorder noted it.
        mode, policy_version: who acted, if its recorder noted it.
        duration: seconds from the first to the last message.
        messages: number of messages by topic.
        size: bytes on disk.
        problem: why nothing else is known; '' for a whole bag.
    """

    name: str
    folder: str = '.'
    steps: int | None = None
    total_reward: float | None = None
    mode: str = ''
    policy_version: str = ''
    duration: float = 0.0
    messages: dict[str, int] = dataclasses.field(default_factory=dict)
    size: int = 0
    missing: int | None = None
    problem: str = ''

    @property
    def rate(self) -> float | None:
        """Steps per second of recorded time."""
        if not self.steps or self.steps < 2 or self.duration <= 0:
            return None
        return (self.steps - 1) / self.duration

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**dataclasses.asdict(self), 'rate': self.rate}


def describe(path: Path) -> list[BagInfo]:
    """Describe every bag that `bags_in` finds.

    Raises:
        InputError: there is none.
    """
    return [
        dataclasses.replace(_describe(bag), folder='.' if bag == path else bag.parent.relative_to(path).as_posix())
        for bag in bags_in(path)
    ]


def totals(rows: list[BagInfo]) -> dict[str, dict[str, Any]]:
    """JSON-ready sums by folder, so that evaluations do not mix with the episodes a run was trained on.

    Returns:
        By the first part of `BagInfo.folder`: `bags`, `steps`, `bytes`, and the `least`, `mean` and `most` of the
        returns, None if no bag has one.
    """
    groups: dict[str, list[BagInfo]] = {}
    for row in rows:
        groups.setdefault(row.folder.partition('/')[0], []).append(row)
    found = {}
    for folder, group in groups.items():
        returns = [row.total_reward for row in group if row.total_reward is not None]
        found[folder] = {
            'bags': len(group),
            'steps': sum(row.steps or 0 for row in group),
            'bytes': sum(row.size for row in group),
            'least': min(returns, default=None),
            'mean': statistics.fmean(returns) if returns else None,
            'most': max(returns, default=None),
        }
    return found


def _describe(bag: Path) -> BagInfo:
    reason = unsafe(bag)
    if reason:
        return BagInfo(printable(bag.name), problem=f'can not be opened: {reason}')
    try:
        size = sum(file.stat().st_size for file in (entries(bag) if bag.is_dir() else [bag]))
    except FileNotFoundError:
        return BagInfo(bag.name, problem='renamed or deleted this moment')
    if not bag.is_dir():
        return BagInfo(bag.name, size=size, problem='a single file, which only --full looks into')
    if is_partial(bag):
        return BagInfo(bag.name, size=size, problem='being written, or left by a crash')
    try:
        information = read_metadata(bag)
        messages = {
            entry['topic_metadata']['name']: int(entry['message_count'])
            for entry in information['topics_with_message_count']
        }
        duration = information['duration']['nanoseconds'] / 1e9
        custom_data = information.get('custom_data') or {}
        total_reward = float(custom_data['return']) if 'return' in custom_data else None
    except InputError as error:
        return BagInfo(bag.name, size=size, problem=str(error).split(': ', 1)[1])
    except (KeyError, TypeError, ValueError) as error:
        problem = f'metadata.yaml is damaged ({type(error).__name__}: {error})'
        return BagInfo(bag.name, size=size, problem=problem)
    steps = [count for name, count in messages.items() if name.rsplit('/', 1)[-1] == STEP.name]
    return BagInfo(
        name=bag.name,
        steps=sum(steps) if steps else None,
        total_reward=total_reward,
        mode=str(custom_data.get('mode', '')),
        policy_version=str(custom_data.get('policy_version', '')),
        duration=duration,
        messages=messages,
        size=size,
        missing=_missing(custom_data, steps, duration),
    )


def _missing(custom_data: dict[str, str], steps: list[int], duration: float) -> int | None:
    """How many steps are missing, if the bag holds those of one robot and nothing else, and names its period."""
    if 'contract' in custom_data:
        return None
    try:
        period = RobotSpec.from_json(custom_data['spec'], 'custom_data').control_period
        return max(0, round(duration / period) + 1 - steps[0]) if len(steps) == 1 else None
    except (InputError, KeyError, TypeError):
        return None


def format_table(rows: list[BagInfo]) -> str:
    """Aligned text: a line per bag, then the messages by topic and the totals of each folder."""
    header = ('folder', 'bag', 'steps', 'missing', 'return', 'mode', 'policy', 'seconds', 'steps/s', 'KiB')
    table = [header] + [
        (
            row.folder,
            row.name,
            _number(row.steps, '.0f'),
            _number(row.missing, '.0f'),
            _number(row.total_reward, '.2f'),
            row.mode or '-',
            row.policy_version or '-',
            f'{row.duration:.1f}',
            _number(row.rate, '.1f'),
            f'{row.size / 1024:.0f}',
        )
        for row in rows
    ]
    lines = align(table, left=(0, 1, 5))  # names and modes
    for k, row in enumerate(rows, start=1):
        if row.problem:
            lines[k] += f'  ({row.problem})'
    messages: Counter[str] = Counter()
    for row in rows:
        messages.update(row.messages)
    lines += ['', *(f'{count:>9}  {topic}' for topic, count in sorted(messages.items())), '']
    for folder, total in totals(rows).items():
        text = f'{total["bags"]} bags, {total["steps"]} steps, {total["bytes"] / 2**20:.1f} MiB'
        if total['mean'] is not None:
            text += f', returns {total["least"]:.2f} to {total["most"]:.2f}, mean {total["mean"]:.2f}'
        lines.append(f'{folder}: {text}')
    return '\n'.join(lines)


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)


@dataclasses.dataclass(frozen=True)
class Contents:
    """One bag, from its messages.

    Attributes:
        seconds: from the first to the last message.
        episodes: in order of time.
        topics: type and regularity by name, from header stamps, or times of recording for types without them.
        problems: what is damaged, missing, or cannot be used.
    """

    path: Path
    seconds: float
    episodes: tuple[Tally, ...]
    topics: dict[str, tuple[str, Regularity]]
    custom_data: dict[str, str]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            'bag': str(self.path),
            'seconds': self.seconds,
            'episodes': [
                {
                    'robot': episode.robot,
                    'start': episode.first.stamp / 1e9,
                    'steps': len(episode),
                    'missing': episode.missing,
                    'total_reward': episode.total_reward,
                    'actors': actors(episode),
                    'begins': episode.first.is_first,
                    'ends': episode.last.is_last,
                    'terminal': episode.last.is_terminal,
                    'state': episode.state,
                }
                for episode in self.episodes
            ],
            'topics': {name: {'type': kind, **entry.to_dict()} for name, (kind, entry) in self.topics.items()},
            'custom_data': self.custom_data,
            'problems': list(self.problems),
        }

    def table(self) -> str:
        """For people: episodes, topics, problems."""
        rows = [('episode', 'steps', 'missing', 'return', 'state', 'actions of')]
        for number, episode in enumerate(self.episodes):
            acted = actors(episode)
            rows.append(
                (
                    f'{number} {episode.robot}'.rstrip(),
                    f'{len(episode)}',
                    f'{episode.missing}',
                    _number(episode.total_reward, '.2f'),
                    episode.state,
                    ', '.join(f'{name} ({count})' if len(acted) > 1 else name for name, count in acted.items()) or '-',
                )
            )
        lines = [f'{self.path.name}: {len(self.episodes)} episodes, {self.seconds:.1f} s', '']
        if self.episodes:
            lines += [*align(rows, left=(0, 4, 5)), '']
        lines += align([(name, kind, str(entry)) for name, (kind, entry) in self.topics.items()], left=(0, 1, 2))
        lines += [f'problem: {problem}' for problem in self.problems]
        return '\n'.join(lines)


def actors(episode: Tally) -> dict[str, int]:
    """Steps by who chose their action, as in the header of `action`: `random`, `policy/12/explore`, …"""
    return dict(Counter('unknown' if mode is None else str(mode) for mode in episode.modes).most_common())


def read_contents(path: Path) -> Contents:
    """Read every message of a bag once. Images are not decoded.

    Raises:
        InputError: nothing in it can be read.
    """
    bag = open_bag(path)
    report = Report(bag.path, bag.report)
    topics = {name: (kind, Regularity()) for name, kind in sorted(bag.types.items())}
    stamped = {name: _has_header(kind) for name, kind in bag.types.items()}
    robots = bag.robots()
    # By topic and stamp: steps, and who chose the actions.
    steps: dict[str, dict[int, Step]] = {robot + STEP.name: {} for robot in robots}
    chosen_by: dict[str, dict[int, str]] = {robot + ACTION.name: {} for robot in robots}
    unreadable: Counter = Counter()
    for message in bag.by_time():
        name = message.topic
        try:
            stamp = recorded_stamp(message) if stamped[name] else message.time
            topics[name][1].add(stamp, message.time)
            if name in steps:
                steps[name].setdefault(stamp, read_step(decode(message.data, STEP.type)))
            elif name in chosen_by and bag.types[name] == ACTION.type:
                chosen_by[name].setdefault(stamp, decode(message.data, ACTION.type).header.frame_id)
        except (InputError, Unusable):
            unreadable[name] += 1
    for name, count in unreadable.items():
        report.add(f'{count} messages on {name} cannot be read')
    spec = bag.find_spec()
    period = spec.control_period if spec else None
    episodes: list[Tally] = []
    for robot in robots:
        ended = True
        for stamp, step in sorted(steps[robot + STEP.name].items()):
            if step.is_first or ended:
                episodes.append(Tally(period, bag.contract, robot.strip('/')))
            episodes[-1].add(step, chosen_by[robot + ACTION.name].get(stamp))
            ended = step.is_last
    if not episodes and bag.contract is not None:  # teleoperated, or recorded by somebody else
        read, problems = read_episodes(bag, bag.contract.spec)
        report = Report(bag.path, problems)
        episodes = [tally_of(episode, bag.contract) for episode in read]
    return Contents(
        bag.path,
        (bag.end - bag.start) / 1e9,
        tuple(sorted(episodes, key=lambda episode: episode.first.stamp)),
        topics,
        bag.custom_data,
        tuple(problem.reason for problem in report),
    )


def _has_header(type_name: str) -> bool:
    try:
        return has_header(type_name)
    except InputError:  # a type of the robot's own
        return False


def align(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Rows of cells as aligned lines, the columns in `left` to the left and the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        '  '.join(
            cell.ljust(width) if k in left else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
