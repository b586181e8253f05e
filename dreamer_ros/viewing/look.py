"""A bag's episodes with everything that people want to see of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.assemble import Joined, Unusable, recorded_stamp
from dreamer_ros.episodes.bag_reader import Bag, open_bag
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.episode_reader import read_episodes
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
        senses: numbers per episode beside the images, by group (`position`, `velocity`, `input`) and name:
            float64[T], NaN where the bag has none. Joint states, or a robot contract's inputs.
        problems: why some of the bag is not there.
    """

    path: Path
    spec: RobotSpec
    episodes: tuple[Episode, ...]
    senses: tuple[dict[str, dict[str, np.ndarray]], ...]
    problems: tuple[str, ...]

    def seconds(self, number: int) -> np.ndarray:
        """Of an episode's steps since the first step of the bag."""
        return (self.episodes[number].stamp - self.episodes[0].stamp[0]) / 1e9

    def title(self) -> str:
        """For people."""
        returns = ', '.join(f'{episode.total_reward:.2f}' for episode in self.episodes[:3])
        more = ', …' if len(self.episodes) > 3 else ''
        meta = self.episodes[0].meta
        actor = meta.get('mode', '') + (f' {meta["policy_version"]}' if meta.get('policy_version') else '')
        return f'{self.path.name}: {self.spec.name}, {f"{actor}, " if actor else ""}return {returns}{more}'


def look(path: Path) -> Look:
    """Read a bag to look at it.

    Raises:
        InputError: it does not say whose it is, or holds no episode that can be used.
    """
    bag = open_bag(path)
    spec = bag.spec()
    episodes, problems = read_episodes(bag, spec)
    if not episodes:
        raise InputError(
            f'bag {path}: expected an episode of {spec.name}, but {problems[0].reason if problems else "found none"}'
        )
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
            continue  # what cannot be read was told when the episodes were
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
