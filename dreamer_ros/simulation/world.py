"""What an Environment needs from the thing it simulates."""

from __future__ import annotations

import abc
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco


class Diverged(Exception):
    """The physics became unstable; the state is meaningless until the next reset."""


class World(abc.ABC):
    """A MuJoCo model with a task on it, advanced one control step at a time.

    Attributes:
        name: canonical task name.
        model, data: the compiled model and its state.
        control_step: seconds per control step.
        default_cameras: the cameras to look through unless told otherwise.
        default_length: control steps per episode unless told otherwise.
        choices: of a robot with discrete actions: name -> f64[A] actuator controls; empty for any other.
    """

    name: str
    model: mujoco.MjModel
    data: mujoco.MjData
    control_step: float
    default_cameras: tuple[int, ...]
    default_length: int
    choices: Mapping[str, np.ndarray] = types.MappingProxyType({})

    @abc.abstractmethod
    def reset(self, episode: int) -> None:
        """Start an episode from a random state, which follows from the world's seed and this number alone."""

    @abc.abstractmethod
    def step(self, control: np.ndarray) -> tuple[float, bool]:
        """Apply f64[A] actuator controls for one control step.

        Returns:
            The reward, and whether the task came to an end of its own (no future reward), time limit aside.

        Raises:
            Diverged: the physics became unstable.
        """

    def action_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """f64[A] lowest and highest control of each actuator; an unlimited actuator gets [-1, 1]."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        low, high = self.model.actuator_ctrlrange.T
        return np.where(limited, low, -1.0), np.where(limited, high, 1.0)

    def close(self) -> None:
        """Free what the world holds."""
