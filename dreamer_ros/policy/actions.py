"""Actions without a policy."""

from __future__ import annotations

import numpy as np

from dreamer_ros.spec import RobotSpec


def random_action(spec: RobotSpec, rng: np.random.Generator) -> np.ndarray:
    """Uniformly random action, float32 [A]; one-hot if actions are discrete."""
    if spec.discrete:
        return np.eye(len(spec.action), dtype=np.float32)[rng.integers(len(spec.action))]
    return rng.uniform(-1.0, 1.0, len(spec.action)).astype(np.float32)


def still_action(spec: RobotSpec, rng: np.random.Generator) -> np.ndarray:
    """The middle of every range, float32 [A]; the first choice if actions are discrete."""
    if spec.discrete:
        return np.eye(len(spec.action), dtype=np.float32)[0]
    return np.zeros(len(spec.action), np.float32)
