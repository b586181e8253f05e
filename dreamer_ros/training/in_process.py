"""Training with simulators in the same process: no ROS and no bags."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from dreamer_ros.config import Config
from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.errors import InputError
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.seeds import collector_seed, evaluation_seed
from dreamer_ros.training.loop import Trainer
from dreamer_ros.training.progress import Progress
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import RunDirectory
from dreamer_ros.training.run_replay import MemoryReplay
from dreamer_ros.training.schedule import Schedule

EVALUATION_PLAYERS = 5  # play at the same time; a fixed number, or scores would depend on the machine's cores


class InProcessRobots(Robots):
    """Simulators that act with the newest policy, each on a thread of its own, while the learner learns.

    They advance in rounds: `grant` begins one, `wait` ends it. Its steps count from the end of the round on, so
    that what the learner sees does not depend on how fast the machine is.

    Args:
        players: collect.
        evaluators: score the policy.
        replay: gets the episodes.
        schedule: of the run; a round is an update's worth of steps.
        marks: agent steps after which the policy is scored, increasing.
        episodes: of each evaluation.
    """

    def __init__(
        self,
        players: Sequence[Player],
        evaluators: Sequence[Player],
        replay: MemoryReplay,
        schedule: Schedule,
        marks: Sequence[int],
        episodes: int,
    ):
        self._players, self._evaluators, self._replay = players, evaluators, replay
        self._schedule, self._marks, self._episodes = schedule, list(marks), episodes
        self._policy: Path | None = None
        self._round: list[Future] = []
        self._steps = 0  # of each player in the round
        self._collected = self._stored = 0

    def live_steps(self) -> int:
        return self._collected - self._stored

    def stored(self, info: EpisodeInfo) -> None:
        self._stored += info.steps - 1

    def publish(self, manifest: Manifest) -> None:
        self._policy = Path(manifest.uri)

    def grant(self, steps: int) -> None:
        if self._round or not steps:
            return
        missing = self._schedule.prefill - self._collected
        most: float = min(steps, missing if missing > 0 else self._schedule.steps_per_update)
        if self._marks:
            most = min(most, self._marks[0] - self._collected)
        self._steps = math.ceil(most / len(self._players))
        policy = None if missing > 0 else self._policy
        self._round = [player.collect(self._steps, policy) for player in self._players]

    def wait(self, seconds: float) -> None:
        if not self._round:
            raise InputError(
                f'steps: expected enough of them for each simulator to end an episode of '
                f'{self._players[0].episode_steps} agent steps, got {self._collected} for {len(self._players)}'
            )
        episodes = [episode for future in self._round for episode in future.result()]
        self._collected += self._steps * len(self._players)
        self._round = []
        for episode in episodes:
            self._replay.add(episode)

    def evaluation_due(self) -> bool:
        return bool(self._marks) and self._collected >= self._marks[0] and not self._round

    def evaluate(self) -> list[float]:
        while self._marks and self._collected >= self._marks[0]:  # one evaluation stands for all that were passed
            self._marks.pop(0)
        return play_side_by_side(self._evaluators, self._episodes, self._policy)


def train_in_process(
    task: str,
    config: Config,
    logdir: Path,
    steps: int,
    seed: int,
    simulators: int,
    device: str,
    evaluations: int,
    episodes: int,
    stop: threading.Event,
    progress: Progress,
) -> None:
    """See `session.train_in_process`."""
    repeat = config.action_repeat_for(task)
    schedule = Schedule.make(config.schedule, steps, repeat)
    marks = [math.ceil(steps * k / evaluations / repeat) for k in range(1, evaluations + 1)]
    with contextlib.ExitStack() as open_now:

        def player(its_seed: int) -> Player:
            return open_now.enter_context(contextlib.closing(Player(task, config.env, repeat, its_seed)))

        players = [player(collector_seed(seed, n)) for n in range(simulators)]
        evaluators = [player(evaluation_seed(seed, n)) for n in range(min(EVALUATION_PLAYERS, episodes))]
        spec = players[0].spec
        run = open_now.enter_context(contextlib.closing(RunDirectory(logdir, config, spec)))
        replay = MemoryReplay(config.replay.capacity, config.schedule, spec, seed)
        robots = InProcessRobots(players, evaluators, replay, schedule, marks, episodes)
        Trainer(
            config, spec, run, robots, replay, schedule, device=device, seed=seed, stop=stop, progress=progress
        ).train()
