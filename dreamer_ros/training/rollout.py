"""A policy that plays in a simulator of this process: the episodes it collects and the returns it earns."""

from __future__ import annotations

import types
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_ros import simulation
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.policy.actions import random_action
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.simulation import Observation
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import read_vector


class Player:
    """One simulator and the policy that acts in it, on a thread of their own.

    An OpenGL context stays with the thread that made it. Simulator and onnxruntime let other threads run.
    A player without a policy acts as `untrained` says. An episode under way goes on when the policy changes.

    Args:
        task: what `simulation.make` takes.
        seed: of initial states, random actions and exploration.
        untrained: gives the actions without a policy, from spec and generator.
        settings: of `simulation.make`.

    Attributes:
        spec: of the robot.
        episode_steps: actions of an episode that nothing but the time limit ends.
    """

    def __init__(self, task: str, seed: int, untrained=random_action, **settings: Any):
        self._untrained = untrained
        self._rng = np.random.default_rng(seed)
        self._runner: PolicyRunner | None = None
        self._policy: Path | None = None  # what the runner was loaded from
        self._observation: Observation | None = None
        self._steps: list[tuple] = []
        self._thread = ThreadPoolExecutor(1, 'player')
        self._environment = self._thread.submit(simulation.make, task, seed=seed, **settings).result()
        self.spec: RobotSpec = self._environment.spec
        self.episode_steps: int = self._environment.episode_steps

    def collect(self, steps: int, policy: Path | None) -> Future[list[Episode]]:
        """Make this many agent steps with sampled actions; gives the episodes that ended."""
        return self._thread.submit(self._collect, steps, policy)

    def play(self, episodes: int, policy: Path | None) -> Future[list[float]]:
        """Play whole episodes with the mode of the policy; gives their returns."""
        return self._thread.submit(self._play, episodes, policy)

    def close(self) -> None:
        """Free the simulator once it has done what was asked of it."""
        self._thread.submit(self._environment.close)
        self._thread.shutdown()

    def _load(self, policy: Path | None) -> None:
        if policy == self._policy:
            return
        runner = PolicyRunner(policy, self.spec, seed=int(self._rng.integers(2**31)))
        if self._runner is not None:
            runner.carry_over(self._runner)
        self._runner, self._policy = runner, policy

    def _collect(self, steps: int, policy: Path | None) -> list[Episode]:
        self._load(policy)
        episodes = []
        for _ in range(steps):
            if self._observation is None:
                self._observation = self._environment.reset()
            action = self._act(self._observation, explore=True)
            self._note(self._observation, action)
            self._observation = self._environment.step(action)
            if self._observation.is_last:
                self._note(self._observation, np.zeros_like(action))
                episodes.append(self._end_episode())
        return episodes

    def _play(self, episodes: int, policy: Path | None) -> list[float]:
        self._load(policy)
        returns = []
        for _ in range(episodes):
            observation, total = self._environment.reset(), 0.0
            while not observation.is_last:
                observation = self._environment.step(self._act(observation, explore=False))
                total += observation.reward
            returns.append(total)
        return returns

    def _act(self, observation: Observation, explore: bool) -> np.ndarray:
        if self._runner is None:
            return self._untrained(self.spec, self._rng)
        return self._runner.act(observation.image, vector_of(observation, self.spec), observation.is_first, explore)

    def _note(self, observation: Observation, action: np.ndarray) -> None:
        self._steps.append(
            (
                observation.image,
                vector_of(observation, self.spec),
                action.astype(np.float32),
                np.float32(observation.reward),
                observation.is_first,
                observation.is_last,
                observation.is_terminal,
            )
        )

    def _end_episode(self) -> Episode:
        image, vector, action, reward, is_first, is_last, is_terminal = (
            np.stack(column) for column in zip(*self._steps)
        )
        stamps = np.arange(1, len(self._steps) + 1) * round(self.spec.control_period * 1e9)
        mode = 'random' if self._runner is None else 'explore'
        self._steps, self._observation = [], None
        return Episode(image, vector, action, reward, is_first, is_last, is_terminal, stamps, {'mode': mode})


def play_side_by_side(players: Sequence[Player], episodes: int, policy: Path | None) -> list[float]:
    """Returns of whole episodes with the mode of the policy, shared out among players."""
    playing = [player.play(len(range(n, episodes, len(players))), policy) for n, player in enumerate(players)]
    return [value for future in playing for value in future.result()]


def vector_of(observation: Observation, spec: RobotSpec) -> np.ndarray:
    """The scalar inputs that a spec names, float32 [N], as from the joint states on the wire."""
    joints = types.SimpleNamespace(
        name=observation.joint_names, position=observation.position, velocity=observation.velocity
    )
    return read_vector(joints, spec.vector)
