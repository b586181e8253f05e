"""Training with simulators in the same process: no ROS and no bags, for comparing systems."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dreamer_ros.benchmark.results import Marks, Outcome, Protocol
from dreamer_ros.config import Config
from dreamer_ros.policy.export import Exporter
from dreamer_ros.replay.buffer import ReplayBuffer
from dreamer_ros.seeds import collector_seed, evaluation_seed
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.metrics import Losses, Metrics, check_finite
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import RunDirectory
from dreamer_ros.training.schedule import Schedule

EVALUATION_PLAYERS = 5  # play at the same time; a fixed number, or scores would depend on the machine's cores


def train_in_process(
    config: Config,
    task: str,
    seed: int,
    protocol: Protocol,
    folder: Path,
    report: Callable[[Outcome], None],
    simulators: int = 1,
) -> Outcome:
    """Train one system on one task into a run directory, which other `dreamer` commands can read.

    While the learner makes the updates that are due, the simulators collect the steps of the next ones; both
    wait for each other, so that equal seeds give equal runs however fast the machine is.

    Args:
        folder: run directory to create.
        report: is called often, from this thread.
        simulators: that collect side by side.

    Raises:
        InputError: the task, the folder or the budget do not fit, or the losses are not finite.
    """
    with contextlib.ExitStack() as open_now:
        return _Training(config, task, seed, protocol, folder, report, simulators, open_now).run()


class _Training:
    def __init__(
        self,
        config: Config,
        task: str,
        seed: int,
        protocol: Protocol,
        folder: Path,
        report: Callable[[Outcome], None],
        simulators: int,
        open_now: contextlib.ExitStack,
    ):
        repeat = config.action_repeat_for(task)
        self._schedule = Schedule.make(config.schedule, protocol.steps, repeat)
        self._config, self._task, self._protocol, self._report = config, task, protocol, report

        def player(its_seed: int) -> Player:
            return open_now.enter_context(contextlib.closing(Player(task, config.env, repeat, its_seed)))

        self._collectors = [player(collector_seed(seed, n)) for n in range(simulators)]
        self._evaluators = [
            player(evaluation_seed(seed, n)) for n in range(min(EVALUATION_PLAYERS, protocol.curve_episodes))
        ]
        spec = self._collectors[0].spec
        self._repeat = spec.action_repeat
        self._learner = Learner(config, spec, 'auto', seed)
        self._exporter = Exporter(self._learner.policy, spec)
        capacity = min(config.replay.capacity, 2 * self._schedule.budget + 10_000)
        self._replay = ReplayBuffer(capacity, spec.image_shape, len(spec.vector), len(spec.action), seed)
        self._run = open_now.enter_context(contextlib.closing(RunDirectory(folder, config, spec)))
        self._metrics = open_now.enter_context(contextlib.closing(Metrics(self._run.path)))
        self._losses = Losses()
        self._outcome = Outcome()
        self._collected = 0  # agent steps
        self._version = 0
        self._policy: Path | None = None  # what the collectors act with

    def run(self) -> Outcome:
        self._train()
        self._outcome.returns = self._evaluate(self._protocol.episodes)
        self._run.save_checkpoint(self._learner.updates, self._learner.save, {})
        return self._outcome

    def _train(self) -> None:
        marks = Marks(self._protocol)
        began, apart = time.monotonic(), 0.0  # seconds spent on evaluations
        while self._collected < self._schedule.budget and not self._protocol.out_of_time(self._outcome.seconds):
            steps = self._round(marks.next)
            collecting = [player.collect(steps, self._policy) for player in self._collectors]
            try:
                self._learn()
            finally:
                episodes = [episode for future in collecting for episode in future.result()]
            self._collected += steps * len(self._collectors)
            self._add(episodes)
            outcome = self._outcome
            outcome.env_steps, outcome.updates = self._collected * self._repeat, self._learner.updates
            outcome.seconds = time.monotonic() - began - apart
            if marks.reach(outcome.env_steps):
                before = time.monotonic()
                self._note_evaluation(self._evaluate(self._protocol.curve_episodes))
                apart += time.monotonic() - before
            self._report(outcome)
        self._learn()
        self._outcome.updates = self._learner.updates

    def _round(self, mark: float) -> int:
        """Agent steps that each simulator makes until the next update or evaluation is due."""
        missing = self._schedule.prefill - self._collected
        steps = missing if missing > 0 else self._schedule.steps_per_update
        steps = min(steps, mark / self._repeat - self._collected)
        return max(1, math.ceil(steps / len(self._collectors)))

    def _learn(self) -> None:
        """All updates that are due by now."""
        schedule, learner = self._config.schedule, self._learner
        if self._replay.steps < schedule.length:
            return
        for _ in range(learner.updates, self._schedule.updates_due(self._collected)):
            self._losses.add(learner.update(self._replay.sample(schedule.batch, schedule.length)))
            if learner.updates % schedule.publish_every == 0:
                self._policy = self._publish()
            if learner.updates % schedule.log_every == 0:
                self._log_losses()

    def _publish(self) -> Path:
        self._version += 1
        metadata = self._learner.policy_metadata(self._version, step=self._collected * self._repeat)
        manifest = self._run.write_policy(self._version, lambda path: self._exporter.write(path, metadata))
        return Path(manifest.uri)

    def _evaluate(self, episodes: int) -> list[float]:
        """Returns of deterministic episodes with the policy as it is now."""
        return play_side_by_side(self._evaluators, episodes, self._publish())

    def _note_evaluation(self, returns: list[float]) -> None:
        outcome, mean = self._outcome, float(np.mean(returns))
        outcome.curve.append((outcome.env_steps, outcome.seconds, mean, len(returns)))
        self._write(return_evaluate=mean)

    def _add(self, episodes: list) -> None:
        for episode in episodes:
            self._replay.add(episode)
            self._write(**{f'return_{episode.meta["mode"]}': episode.total_reward})

    def _log_losses(self) -> None:
        means = self._losses.take_means()
        self._write(**means)
        check_finite(means, f'{self._config.preset} on {self._task}: update {self._learner.updates}')

    def _write(self, **values: float) -> None:
        self._metrics.write(
            step=self._collected * self._repeat,
            agent_steps=self._collected,
            updates=self._learner.updates,
            time=self._outcome.seconds,
            **values,
        )
