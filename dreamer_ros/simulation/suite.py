"""The tasks of the dm_control suite as worlds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import numpy as np
from dm_control import suite
from dm_control.rl.control import PhysicsError

from dreamer_ros.simulation.world import Diverged, World

_SHORT = {'ball_in_cup': 'cup'}
# The camera that the Dreamer papers look through, where it is not the model's first.
_CAMERAS = {'quadruped': 2}
_EPISODE_LENGTH = 1000


def tasks() -> dict[str, tuple[str, str]]:
    """Canonical task name -> (domain, task) of the suite: `walker_walk`, `cup_catch`, `swimmer_swimmer6`."""
    return {f'{_SHORT.get(domain, domain)}_{task}': (domain, task) for domain, task in suite.ALL_TASKS}


def aliases() -> dict[str, str]:
    """Other accepted name -> canonical name, such as dm_control's own `ball_in_cup_catch`."""
    names = {f'{domain}_{task}': name for name, (domain, task) in tasks().items()}
    return {alias: name for alias, name in names.items() if alias != name}


class SuiteWorld(World):
    """One task of the suite, without its time limit: the Environment counts the steps.

    Args:
        name: a key of `tasks()`.
        seed: of the task's random initial states, and of the model itself where that is random (lqr).
    """

    def __init__(self, name: str, seed: int):
        domain, task = tasks()[name]
        with _quiet():
            environment = suite.load(domain, task, task_kwargs={'random': seed, 'time_limit': float('inf')})
        self.name = name
        self.control_step = environment.control_timestep()
        self.default_cameras = (_CAMERAS.get(domain, 0),)
        self.default_length = _EPISODE_LENGTH
        self._seed = seed
        self._physics = environment.physics
        self._task = environment.task
        self._substeps = round(self.control_step / self._physics.timestep())
        self.model = self._physics.model.ptr
        self.data = self._physics.data.ptr

    def reset(self, episode: int) -> None:
        self._task.random.seed([self._seed, episode])
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)

    def step(self, control: np.ndarray) -> tuple[float, bool]:
        # What dm_control's Environment.step does, without the vector observation, a fifth of its time.
        physics, task = self._physics, self._task
        task.before_step(control, physics)
        try:
            physics.step(self._substeps)
        except PhysicsError as error:
            raise Diverged(str(error)) from error
        task.after_step(physics)
        return float(task.get_reward(physics)), task.get_termination(physics) is not None

    def close(self) -> None:
        self._physics.free()


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
