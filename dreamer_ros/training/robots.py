"""What the training loop asks of the robots it learns from."""

from __future__ import annotations

import time

import numpy as np

from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.policy.manifest import Manifest


class Robots:
    """Nobody, as for learning from bags alone; a subclass brings the robots of its world."""

    def moving(self) -> bool:
        """Whether the clock of the run goes: its time counts from the first step."""
        return True

    def wait(self, seconds: float) -> None:
        """Wait for new steps, so long at most where robots move by themselves."""
        time.sleep(seconds)

    def live_steps(self) -> int:
        """Agent steps seen that are in no bag of the store yet."""
        return 0

    def ended_steps(self) -> int:
        """Those of them whose episode has just ended, so that its bag is about to come."""
        return 0

    def stored(self, info: EpisodeInfo) -> None:
        """An episode has entered the store: its steps are live no more."""

    def grant(self, steps: int) -> None:
        """Let all robots together advance by so many agent steps from where they stand, not further."""

    def publish(self, manifest: Manifest) -> None:
        """Tell agents about a new policy."""

    def evaluation_due(self) -> bool:
        """Whether the trainer should publish the policy as it is and have it scored."""
        return False

    def evaluate(self) -> list[float]:
        """Returns of deterministic episodes of the newest policy; asked for when an evaluation is due."""
        return []

    def wants_dream(self) -> bool:
        """Whether somebody watches dreams."""
        return False

    def show_dream(self, frames: np.ndarray) -> None:
        """Show uint8 [T, H, W, 3]."""

    def quiet(self) -> list[str]:
        """Names of robots that sent no step for some seconds."""
        return []
