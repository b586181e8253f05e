"""Reads a bag for people to look at: its episodes and everything that was sensed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.assemble import Joined, Unusable, recorded_stamp
from dreamer_ros.episodes.bag_reader import Bag, open_bag
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.episode_reader import require_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import JOINT_STATES


@dataclasses.dataclass(frozen=True)
class Look:
    """One bag.

    Attributes:
        spec: of the robot.
        episodes: in order of time, at least one.
        senses: per episode, by group (`position`, `velocity`, `input`) and name: joint states or a contract's
            inputs, float64[T], NaN where the bag has none.
        problems: why parts of the bag are left out.
    """

    path: Path
    spec: RobotSpec
    episodes: tuple[Episode, ...]
    senses: tuple[dict[str, dict[str, np.ndarray]], ...]
    problems: tuple[str, ...]

    def seconds(self, number: int) -> np.ndarray:
        """Times of an episode's steps since the first step of the bag."""
        return (self.episodes[number].stamp - self.episodes[0].stamp[0]) / 1e9

    def title(self) -> str:
        """Heading of a plot."""
        returns = ', '.join(f'{episode.total_reward:.2f}' for episode in self.episodes[:3])
        more = ', …' if len(self.episodes) > 3 else ''
        meta = self.episodes[0].meta
        actor = meta.get('mode', '') + (f' {meta["policy_version"]}' if meta.get('policy_version') else '')
        return f'{self.path.name}: {self.spec.name}, {f"{actor}, " if actor else ""}return {returns}{more}'


def look(path: Path) -> Look:
    """Read a bag.

    Raises:
        InputError: it does not name its robot, or holds no usable episode.
    """
    bag = open_bag(path)
    spec = bag.spec()
    episodes, problems = require_episodes(bag, spec)
    if bag.contract is not None:
        senses = [_inputs(episode, spec) for episode in episodes]
    else:
        senses = _joint_states(bag, episodes)
    return Look(bag.path.resolve(), spec, tuple(episodes), tuple(senses), tuple(problem.reason for problem in problems))


def _inputs(episode: Episode, spec: RobotSpec) -> dict[str, dict[str, np.ndarray]]:
    columns = dict(zip(spec.vector, episode.vector.astype(np.float64).T))
    return {'input': columns} if columns else {}


def _joint_states(bag: Bag, episodes: list[Episode]) -> list[dict[str, dict[str, np.ndarray]]]:
    """Positions and velocities of every joint, whether the agent saw them or not."""
    joined = Joined()
    for message in bag.by_time([f'{robot}{JOINT_STATES.name}' for robot in bag.robots()]):
        try:
            joined.add(JOINT_STATES.name, recorded_stamp(message), decode(message.data, JOINT_STATES.type))
        except (InputError, Unusable):
            continue  # reading the episodes has reported it
    senses = []
    for episode in episodes:
        found: dict[str, dict[str, np.ndarray]] = {'position': {}, 'velocity': {}}
        for k, stamp in enumerate(episode.stamp.tolist()):
            for joints in joined.steps.get(stamp, {}).values():
                for group, columns in found.items():
                    for name, value in zip(joints.name, getattr(joints, group)):
                        columns.setdefault(name, np.full(len(episode), np.nan))[k] = value
        senses.append({group: columns for group, columns in found.items() if columns})
    return senses
