"""What the training loop asks of the robots it learns from."""

from __future__ import annotations

import time

import numpy as np

from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.policy.manifest import Manifest


class Robots:
    """No robots at all, as when learning from bags alone. Subclasses add robots on ROS topics or in this process."""

    def moving(self) -> bool:
        """Whether steps have come, so that the time of the run counts."""
        return True

    def wait(self, seconds: float) -> None:
        """Wait for new steps, for this long at most if the robots move by themselves."""
        time.sleep(seconds)

    def live_steps(self) -> int:
        """Agent steps that were seen and are not in the replay yet."""
        return 0

    def ended_steps(self) -> int:
        """Live steps whose episode has just ended, so that its bag is about to come."""
        return 0

    def stored(self, info: EpisodeInfo) -> None:
        """Told when an episode has entered the replay: its steps are no longer live."""

    def grant(self, steps: int) -> None:
        """Let all robots together advance until this many agent steps are live."""

    def publish(self, manifest: Manifest) -> None:
        """Tell agents about a new policy."""

    def evaluation_due(self) -> bool:
        """Whether the trainer should publish the present policy and call `evaluate`."""
        return False

    def evaluate(self) -> list[float]:
        """Returns of deterministic episodes of the newest policy."""
        return []

    def wants_dream(self) -> bool:
        """Whether somebody watches dreams."""
        return False

    def show_dream(self, frames: np.ndarray) -> None:
        """Show uint8 [T, H, W, 3]."""

    def quiet(self) -> list[str]:
        """Names of robots that have sent no step for some seconds."""
        return []
