"""What is in one bag, told from its messages: episodes, and how regularly every topic came."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

from dreamer_ros.episodes.align import align
from dreamer_ros.episodes.bag import known_return
from dreamer_ros.episodes.opening import OpenBag
from dreamer_ros.episodes.reading import read_episodes
from dreamer_ros.episodes.regularity import Regularity
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.codecs import Step, header_stamp, parse_mode, read_step
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import ACTION, STEP


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
