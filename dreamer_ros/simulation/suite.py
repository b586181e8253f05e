"""The tasks of the dm_control suite as worlds."""
from __future__ import annotations

import contextlib
import logging
from typing import Dict, Iterator, Tuple

import numpy as np
from dm_control import suite
from dm_control.rl.control import PhysicsError

from dreamer_ros.simulation.world import Diverged, World

_SHORT = {'ball_in_cup': 'cup'}
# The camera that the Dreamer papers look through, where it is not the model's first.
_CAMERAS = {'quadruped': 2}
_EPISODE_LENGTH = 1000


def tasks() -> Dict[str, Tuple[str, str]]:
    """Canonical task name -> (domain, task) of the suite: `walker_walk`, `cup_catch`, `swimmer_swimmer6`."""
    return {f'{_SHORT.get(domain, domain)}_{task}': (domain, task) for domain, task in suite.ALL_TASKS}


def aliases() -> Dict[str, str]:
    """Other accepted name -> canonical name, such as dm_control's own `ball_in_cup_catch`."""
    names = {f'{domain}_{task}': name for name, (domain, task) in tasks().items()}
    return {alias: name for alias, name in names.items() if alias != name}


class SuiteWorld(World):
    """One task of the suite, without its time limit: the Environment counts the steps.

    Args:
        name: a key of `tasks()`.
        seed: of the task's random initial states.
    """

    def __init__(self, name: str, seed: int):
        domain, task = tasks()[name]
        with _quiet():
            self._env = suite.load(domain, task, task_kwargs={'random': seed, 'time_limit': float('inf')})
        self.name = name
        self.model = self._env.physics.model.ptr
        self.data = self._env.physics.data.ptr
        self.control_step = self._env.control_timestep()
        self.default_camera = _CAMERAS.get(domain, 0)
        self.default_length = _EPISODE_LENGTH

    def reset(self) -> None:
        self._env.reset()

    def step(self, control: np.ndarray) -> Tuple[float, bool]:
        try:
            step = self._env.step(control)
        except PhysicsError as error:
            raise Diverged(str(error)) from error
        return float(step.reward), step.discount == 0.0

    def close(self) -> None:
        self._env.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the model compiler's deprecation notes about dm_control's own files off the terminal."""
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
