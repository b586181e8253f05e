"""An episode in memory: consecutive steps of one robot, nothing missing in between."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, Optional

import numpy as np


@dataclasses.dataclass
class Episode:
    """Steps k = 0 … T-1, each an observation, what arriving at it gave, and the action that answered it.

    Attributes:
        image: uint8 [T, H, W, 3 per camera], RGB; [T, 0, 0, 0] without cameras.
        vector: float32 [T, N], the scalar inputs named by the spec; N may be 0.
        action: float32 [T, A] in [-1, 1], taken at the observation of the same row.
        reward: float32 [T], received on arriving at the observation.
        is_first, is_last, is_terminal: bool [T].
        stamp: int64 [T], nanoseconds, strictly increasing.
        meta: what the recorder knew (custom_data of the bag).
        path: the bag it came from, if any.
    """

    image: np.ndarray
    vector: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray
    stamp: np.ndarray
    meta: Dict[str, str] = dataclasses.field(default_factory=dict)
    path: Optional[Path] = None

    def __len__(self) -> int:
        return len(self.stamp)

    @property
    def total_reward(self) -> float:
        """Sum of rewards, in float64."""
        return float(self.reward.sum(dtype=np.float64))

    @property
    def complete(self) -> bool:
        """Whether it runs from a reset to an end, rather than being cut at either side."""
        return len(self) > 0 and bool(self.is_first[0]) and bool(self.is_last[-1])


@dataclasses.dataclass(frozen=True)
class EpisodeInfo:
    """What is worth telling about an episode that entered the store.

    `last_stamp` is the header stamp of its last step, ns.
    """

    name: str
    steps: int
    total_reward: float
    complete: bool
    last_stamp: int
    meta: Dict[str, str]

    @classmethod
    def of(cls, episode: Episode) -> EpisodeInfo:
        """Summarise an episode."""
        name = episode.path.name if episode.path else ''
        end = int(episode.stamp[-1])
        return cls(name, len(episode), episode.total_reward, episode.complete, end, episode.meta)


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
