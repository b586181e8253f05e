"""Actions of robots for which there is no policy yet."""

from __future__ import annotations

import numpy as np

from dreamer_ros.spec import RobotSpec


def random_action(spec: RobotSpec, rng: np.random.Generator) -> np.ndarray:
    """Float32 [A], every action of the robot equally likely; one-hot for a discrete one."""
    if spec.discrete:
        return np.eye(len(spec.action), dtype=np.float32)[rng.integers(len(spec.action))]
    return rng.uniform(-1.0, 1.0, len(spec.action)).astype(np.float32)


def still_action(spec: RobotSpec, rng: np.random.Generator) -> np.ndarray:
    """Float32 [A], the middle of every range; the first one of a discrete robot's actions."""
    if spec.discrete:
        return np.eye(len(spec.action), dtype=np.float32)[0]
    return np.zeros(len(spec.action), np.float32)
