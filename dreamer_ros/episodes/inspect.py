"""What is in bags: a folder of them told from their metadata alone, one bag from its messages. `dreamer bag info`"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dreamer_ros.episodes.assemble import known_return
from dreamer_ros.episodes.bag_reader import SUFFIXES, OpenBag, is_bag, is_partial, read_metadata
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import Step, header_stamp, parse_mode, read_step
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import ACTION, STEP


@dataclasses.dataclass(frozen=True)
class BagInfo:
    """One bag.

    Attributes:
        name: directory name.
        folder: that the bag lies in, within the one described: of a run `episodes`, what was trained on, or
            `evaluation/<time>`; `.` for that one itself.
        steps: messages on the step topic; None if there is no such topic.
        missing: how many more steps its duration has room for; None if the bag does not tell.
        total_reward: return of the episode, if its recorder noted it.
        mode, policy_version: who acted, as noted by the recorder; '' if not.
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
    path = Path(path)
    bags = bags_in(path)
    if bags == [path]:
        return [_describe(path)]
    return [dataclasses.replace(_describe(bag), folder=bag.parent.relative_to(path).as_posix()) for bag in bags]


def totals(rows: list[BagInfo]) -> dict[str, dict[str, Any]]:
    """JSON-ready sums by folder, so that evaluations do not mix with the episodes a run was trained on.

    Returns:
        By the first part of `BagInfo.folder`: `bags`, `steps`, `bytes`, and the `least`, `mean` and `most` of the
        returns, None where no bag tells its return.
    """
    groups: dict[str, list[BagInfo]] = {}
    for row in rows:
        groups.setdefault(row.folder.partition('/')[0], []).append(row)
    return {folder: _total(group) for folder, group in groups.items()}


def _total(rows: list[BagInfo]) -> dict[str, Any]:
    returns = [row.total_reward for row in rows if row.total_reward is not None]
    least, mean, most = (min(returns), sum(returns) / len(returns), max(returns)) if returns else (None,) * 3
    return {
        'bags': len(rows),
        'steps': sum(row.steps or 0 for row in rows),
        'bytes': sum(row.size for row in rows),
        'least': least,
        'mean': mean,
        'most': most,
    }


def bags_in(path: Path) -> list[Path]:
    """A bag itself, every bag of a folder (of folders), or those in `episodes/` and `evaluation/` of a run.

    Raises:
        InputError: there is no such directory, or no bag in it.
    """
    if path.is_file() and path.name.endswith(SUFFIXES) or path.is_dir() and is_bag(path):
        return [path]
    if not path.is_dir():
        raise InputError(
            f'{path}: expected a bag, a folder of bags or a run, but '
            + ('it is another file' if path.exists() else 'it does not exist')
        )
    folders = [path / name for name in ('episodes', 'evaluation') if (path / name).is_dir()] or [path]
    bags = [bag for folder in folders for bag in _bags(folder)]
    if not bags:
        raise InputError(f'{path}: expected bags in it, found none')
    return bags


def _bags(folder: Path) -> Iterator[Path]:
    """Bags of a folder and of the folders in it, where those are no bags themselves."""
    for path in sorted(folder.iterdir()):
        if is_partial(path) or path.is_file() and path.name.endswith(SUFFIXES):
            yield path
        elif path.is_dir() and not path.name.startswith('.'):
            nested = not is_bag(path) and any(
                entry.is_dir() or entry.name.endswith(SUFFIXES) for entry in path.iterdir()
            )
            yield from _bags(path) if nested else (path,)


def _describe(bag: Path) -> BagInfo:
    try:
        size = sum(file.stat().st_size for file in (bag.iterdir() if bag.is_dir() else [bag]))
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
    """Of a bag with the steps of one robot that says how often it acts, and nothing beside them."""
    if 'contract' in custom_data:
        return None
    try:
        period = RobotSpec.from_json(custom_data['spec'], 'custom_data').control_period
        return max(0, round(duration / period) + 1 - steps[0]) if len(steps) == 1 else None
    except (InputError, KeyError, TypeError):
        return None


def format_table(rows: list[BagInfo]) -> str:
    """Rows as aligned text: a line per bag, then the messages by topic and the totals of each folder."""
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
    lines = align(table, left=(0, 1, 5))  # names and modes; numbers right
    for k, row in enumerate(rows, start=1):
        if row.problem:
            lines[k] += f'  ({row.problem})'
    messages: dict[str, int] = {}
    for row in rows:
        for topic, count in row.messages.items():
            messages[topic] = messages.get(topic, 0) + count
    lines += ['', *(f'{count:>9}  {topic}' for topic, count in sorted(messages.items()))]
    lines.append('')
    for folder, total in totals(rows).items():
        text = f'{total["bags"]} bags, {total["steps"]} steps, {total["bytes"] / 2**20:.1f} MiB'
        if total['mean'] is not None:
            text += f', returns {total["least"]:.2f} to {total["most"]:.2f}, mean {total["mean"]:.2f}'
        lines.append(f'{folder}: {text}')
    return '\n'.join(lines)


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)


@dataclasses.dataclass
class EpisodeContents:
    """One episode, or what the bag holds of it.

    Attributes:
        robot: namespace, '' for none.
        start: header stamp of its first step, s.
        steps: in the bag; missing: how many more its first and last stamp have room for.
        total_reward: sum over the steps in the bag; None where a robot has no reward.
        actors: steps by who chose their action, as in the header of `action`: `random`, `policy/12/explore`, ….
        begins, ends: whether its first and its last step are in the bag.
        terminal: whether it ended for good rather than by time.
    """

    robot: str
    start: float
    steps: int
    missing: int
    total_reward: float | None
    actors: dict[str, int]
    begins: bool
    ends: bool
    terminal: bool

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.begins and self.ends:
            return 'terminal' if self.terminal else 'whole'
        return 'cut' if not (self.begins or self.ends) else 'cut at the end' if self.begins else 'cut at the start'


@dataclasses.dataclass(frozen=True)
class TopicContents:
    """One topic; `regularity` is by header stamps where messages have them, else by time of recording."""

    name: str
    type: str
    regularity: Regularity


@dataclasses.dataclass(frozen=True)
class Contents:
    """One bag.

    Attributes:
        seconds: from the first to the last message.
        problems: what is damaged, missing, or cannot be used.
    """

    path: Path
    seconds: float
    episodes: tuple[EpisodeContents, ...]
    topics: tuple[TopicContents, ...]
    custom_data: dict[str, str]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            'bag': str(self.path),
            'seconds': self.seconds,
            'episodes': [{**dataclasses.asdict(episode), 'state': episode.state} for episode in self.episodes],
            'topics': {topic.name: {'type': topic.type, **topic.regularity.to_dict()} for topic in self.topics},
            'custom_data': self.custom_data,
            'problems': list(self.problems),
        }

    def table(self) -> str:
        """For people: episodes, topics, problems."""
        rows = [('episode', 'steps', 'missing', 'return', 'state', 'actions of')]
        for number, episode in enumerate(self.episodes):
            actors = (
                ', '.join(
                    f'{name} ({count})' if len(episode.actors) > 1 else name for name, count in episode.actors.items()
                )
                or '-'
            )
            where = f'{number} {episode.robot}'.rstrip()
            total = '-' if episode.total_reward is None else f'{episode.total_reward:.2f}'
            rows.append((where, f'{episode.steps}', f'{episode.missing}', total, episode.state, actors))
        lines = [f'{self.path.name}: {len(self.episodes)} episodes, {self.seconds:.1f} s', '']
        if self.episodes:
            lines += [*align(rows, left=(0, 4, 5)), '']
        width = max(len(topic.name) for topic in self.topics)
        kind = max(len(topic.type) for topic in self.topics)
        lines += [f'{topic.name:{width}}  {topic.type:{kind}}  {topic.regularity}' for topic in self.topics]
        lines += [f'problem: {problem}' for problem in self.problems]
        return '\n'.join(lines)


def read_contents(path: Path) -> Contents:
    """Read every message of a bag once; images are not decoded.

    Raises:
        InputError: nothing in it can be read.
    """
    bag = OpenBag(path)
    regularity = {name: Regularity() for name in bag.topics}
    stamped = {name: _has_header(topic.type) for name, topic in bag.topics.items()}
    robots = bag.robots()
    steps: dict[str, dict[int, Step]] = {robot: {} for robot in robots}
    actors: dict[str, dict[int, str]] = {robot: {} for robot in robots}
    by_topic = {
        f'{robot}{topic.name}': (robot, topic)
        for robot in robots
        for topic in (STEP, ACTION)
        if f'{robot}{topic.name}' in bag.topics
    }
    problems = [problem.reason for problem in bag.problems]
    unreadable: Counter = Counter()
    for message in bag.messages():
        try:
            stamp = header_stamp(message.data) if stamped[message.topic] else message.time
            regularity[message.topic].add(stamp, message.time)
            robot, topic = by_topic.get(message.topic, ('', None))
            if topic is STEP:
                steps[robot].setdefault(stamp, read_step(decode(message.data, STEP.type)))
            elif topic is ACTION and bag.topics[message.topic].type == ACTION.type:
                frame = decode(message.data, ACTION.type).header.frame_id
                actors[robot].setdefault(stamp, frame if _is_mode(frame) else 'unknown')
        except InputError:
            unreadable[message.topic] += 1
    problems += [f'{count} messages on {name} cannot be read' for name, count in unreadable.items()]
    period = _period(bag)
    episodes = [
        episode for robot in robots for episode in _episodes(robot, steps[robot], actors[robot], period, bag.contract)
    ]
    if not episodes and bag.contract is not None:  # of a robot that was teleoperated, or recorded by somebody else
        found, more = read_episodes(bag.path, bag.contract.spec)
        problems += [problem.reason for problem in more if problem.reason not in problems]
        episodes = [
            EpisodeContents(
                '',
                episode.stamp[0] / 1e9,
                len(episode),
                0,
                known_return(episode.total_reward, bag.contract),
                {},
                bool(episode.is_first[0]),
                bool(episode.is_last[-1]),
                bool(episode.is_terminal[-1]),
            )
            for episode in found
        ]
    return Contents(
        bag.path,
        (bag.end - bag.start) / 1e9,
        tuple(sorted(episodes, key=lambda episode: episode.start)),
        tuple(TopicContents(name, topic.type, regularity[name]) for name, topic in sorted(bag.topics.items())),
        bag.custom_data,
        tuple(problems),
    )


def _episodes(
    robot: str, steps: dict[int, Step], actors: dict[int, str], period: float | None, contract: RobotContract | None
) -> list[EpisodeContents]:
    """Episodes of one robot, split where one begins or after one has ended."""
    runs: list[list[Step]] = []
    for stamp in sorted(steps):
        step = steps[stamp]
        if not runs or step.is_first or runs[-1][-1].is_last:
            runs.append([])
        runs[-1].append(step)
    episodes = []
    for run in runs:
        span = (run[-1].stamp - run[0].stamp) / 1e9
        expected = len(run) if period is None else round(span / period) + 1
        chosen = Counter(actors[step.stamp] for step in run if step.stamp in actors and not step.is_last)
        episodes.append(
            EpisodeContents(
                robot.strip('/'),
                run[0].stamp / 1e9,
                len(run),
                max(0, expected - len(run)),
                known_return(math.fsum(step.reward for step in run), contract),
                dict(chosen.most_common()),
                run[0].is_first,
                run[-1].is_last,
                run[-1].is_terminal,
            )
        )
    return episodes


def _period(bag: OpenBag) -> float | None:
    """Seconds per step, if the bag says."""
    try:
        return bag.spec().control_period
    except InputError:
        return None


def _has_header(type_name: str) -> bool:
    try:
        return has_header(type_name)
    except InputError:  # a type of the robot's own
        return False


def _is_mode(text: str) -> bool:
    try:
        parse_mode(text)
    except InputError:
        return False
    return True


# A pause so many times as long as usual is a gap.
GAP = 2.5
# Intervals whose median is the usual one.
RECENT = 25


class Regularity:
    """What came on one topic, told by the stamps of its messages; takes the same memory however many come.

    Args:
        late_after: s; a message that is older when it arrives counts as late.
    """

    def __init__(self, late_after: float = math.inf):
        self._late_after = late_after
        self._first = self._last = 0
        self._recent: collections.deque[float] = collections.deque(maxlen=RECENT)
        self.messages = 0
        self.lost = 0  # that their publisher sent, but never arrived
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
            lost: how many of its publisher's messages between the one before and this one never came.
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
        else:  # what is usual is not known at the first of them
            self.gaps = sum(each > limit for each in self._recent)

    @property
    def rate(self) -> float | None:
        """Messages per second; None of fewer than two."""
        return (self.messages - 1) * 1e9 / (self._last - self._first) if self._last > self._first else None

    def to_dict(self) -> dict[str, int | float]:
        """Everything that is worth a word, JSON-ready."""
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


def align(rows: list[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Lines of cells, of which the columns in `left` begin at one place and the others end there."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        '  '.join(
            cell.ljust(width) if k in left else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
