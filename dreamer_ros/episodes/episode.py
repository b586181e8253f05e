"""An episode in memory: consecutive steps of one robot without a gap."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import parse_mode


@dataclasses.dataclass
class Episode:
    """Steps k = 0 … T-1: an observation each, the reward for arriving at it, and the action that answered it.

    Attributes:
        image: uint8 [T, H, W, 3 per camera], RGB; [T, 0, 0, 0] without cameras.
        vector: float32 [T, N], the scalar inputs named by the spec; N may be 0.
        action: float32 [T, A] in [-1, 1], taken at the observation of the same row.
        reward: float32 [T], received on arriving at the observation.
        is_first, is_last, is_terminal: bool [T].
        stamp: int64 [T], nanoseconds, strictly increasing.
        meta: what the recorder knew (custom_data of the bag).
        path: of its bag, if it has one.
        number: its place among the episodes of that bag.
        by_hand: bool [T], see `is_human`; None if `meta` says it of all of them.
    """

    image: np.ndarray
    vector: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    stamp: np.ndarray
    meta: dict[str, str] = dataclasses.field(default_factory=dict)
    path: Path | None = None
    number: int = 0
    by_hand: np.ndarray | None = None

    @classmethod
    def of_transitions(
        cls,
        image: np.ndarray | None,
        vector: np.ndarray | None,
        action: np.ndarray,
        reward: np.ndarray,
        stamp: np.ndarray,
        ends: bool,
        terminal: bool,
    ) -> Episode:
        """A whole episode from T actions and the reward of each.

        Args:
            image: uint8 [T+1, H, W, C], None without cameras.
            vector: [T+1, N], None without any.
            action, reward: [T, A] and [T].
            stamp: [T+1].
            ends, terminal: is_last and is_terminal of the last observation.
        """
        length = len(stamp)
        last = np.arange(length) == length - 1
        return cls(
            image=np.zeros((length, 0, 0, 0), np.uint8) if image is None else image,
            vector=np.zeros((length, 0), np.float32) if vector is None else vector.astype(np.float32),
            action=np.concatenate([action, np.zeros_like(action[:1])]).astype(np.float32),
            reward=np.concatenate([[0.0], reward]).astype(np.float32),
            is_first=np.arange(length) == 0,
            is_last=last & ends,
            is_terminal=last & terminal,
            stamp=stamp,
        )

    def __len__(self) -> int:
        return len(self.stamp)

    def read(self, first: int, image: np.ndarray, rows: np.ndarray) -> None:
        """See `buffer.StoredEpisode`."""
        part = slice(first, first + len(rows))
        image[...] = self.image[part]
        for name in rows.dtype.names:
            rows[name] = getattr(self, name)[part]

    @property
    def is_human(self) -> np.ndarray:
        """Bool [T], whether a person chose the action."""
        return np.full(len(self), self.meta.get('mode') == 'human') if self.by_hand is None else self.by_hand

    @property
    def human(self) -> list[tuple[int, int]]:
        """See `buffer.StoredEpisode`."""
        edges = np.flatnonzero(np.diff(self.is_human, prepend=False, append=False)).tolist()
        return list(zip(edges[::2], edges[1::2]))

    @property
    def name(self) -> str:
        """Name of its bag; '' if it has none."""
        return self.path.name if self.path else ''

    @property
    def total_reward(self) -> float:
        """Sum of rewards, without rounding errors."""
        return math.fsum(self.reward.tolist())

    @property
    def actor(self) -> str:
        """Who chose the actions, as in header.frame_id of `action`. '' if unknown."""
        mode = self.meta.get('mode', '')
        text = mode if mode in ('random', 'human') else f'policy/{self.meta.get("policy_version")}/{mode}'
        try:
            return str(parse_mode(text))
        except InputError:
            return ''

    @property
    def complete(self) -> bool:
        """Whether it runs from a reset to an end, with neither side cut."""
        return len(self) > 0 and bool(self.is_first[0]) and bool(self.is_last[-1])


@dataclasses.dataclass(frozen=True)
class EpisodeInfo:
    """Summary of an episode in the store.

    Attributes:
        path: the bag.
        last_stamp: header stamp of its last step, ns.
        held_out: kept for validation, never sampled for training.
    """

    path: Path
    steps: int
    total_reward: float
    complete: bool
    last_stamp: int
    meta: dict[str, str]
    held_out: bool = False

    @property
    def name(self) -> str:
        """Name of the bag."""
        return self.path.name

    @classmethod
    def of(cls, episode: Episode) -> EpisodeInfo:
        """Summarise an episode of a bag."""
        end = int(episode.stamp[-1])
        return cls(episode.path, len(episode), episode.total_reward, episode.complete, end, episode.meta)


# custom_data of a bag: its robot and who acted


def actor_data(frame_id: str) -> dict[str, str]:
    """Who chose the actions, from header.frame_id of one. Empty if unknown."""
    try:
        mode = parse_mode(frame_id)
    except InputError:
        return {}
    return {'mode': mode.kind, 'policy_version': '' if mode.version is None else str(mode.version)}


def robot_data(robot: str, spec: RobotSpec, contract: RobotContract | None = None) -> dict[str, str]:
    """Name, spec and contract of a robot."""
    data = {'task': spec.name, 'robot': robot, 'spec': spec.to_json(), 'spec_hash': spec.hash}
    return data | (contract_data(contract) if contract is not None else {})


def contract_data(contract: RobotContract) -> dict[str, str]:
    """A contract with its hash, because nothing else would reveal a damaged number in it."""
    return {'contract': contract.text, 'contract_sha256': _digest(contract.text)}


def embedded_contract(custom_data: Mapping[str, str]) -> RobotContract | None:
    """The contract that a bag was recorded with, if it holds one.

    Raises:
        InputError: it is damaged.
    """
    text = custom_data.get('contract')
    if text is None:
        return None
    if _digest(text) != custom_data.get('contract_sha256'):
        raise InputError('the robot contract in it is damaged: its hash does not fit')
    return RobotContract.from_text(text, 'contract in custom_data')


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
