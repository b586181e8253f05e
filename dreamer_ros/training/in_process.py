"""Training with simulators in the same process, without ROS and without bags."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from dreamer_ros import simulation
from dreamer_ros.config import Config
from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.errors import InputError
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.seeds import collector_seed, evaluation_seed
from dreamer_ros.training import process
from dreamer_ros.training.progress import Progress, Status
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import RunDirectory, new_logdir, save_task
from dreamer_ros.training.run_replay import MemoryReplay
from dreamer_ros.training.schedule import Schedule

EVALUATION_PLAYERS = 5  # play at the same time; a fixed number, or scores would depend on the machine's cores


class InProcessRobots(Robots):
    """Simulators that act with the newest policy, each on a thread of its own, while the learner learns.

    They advance in rounds: `grant` begins one, `wait` ends it. The steps of a round count from its end on, so that
    what the learner sees does not depend on the speed of the machine.

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
        steps -= self.live_steps()
        if self._round or steps <= 0:
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
    logdir: str | Path = '',
    *,
    steps: int | None = None,
    seed: int = 0,
    simulators: int = 1,
    device: str = 'auto',
    evaluations: int = 20,
    evaluation_episodes: int = 5,
    stop: threading.Event | None = None,
    report: Callable[[Status], None] | None = None,
) -> Path:
    """Train on a task with simulators in this process, into a run directory that other `dreamer` commands can read.

    The simulators collect the next steps while the learner makes the updates that are due. Both wait for each other,
    so that equal seeds give equal runs however fast the machine is.

    Args:
        task: a dm_control task or a world of sim/.
        config: resolved preset.
        logdir: run directory to make; '' for runs/<task>-<preset>-<time>.
        steps: budget in env steps; None for the preset's.
        seed: of parameters, sampling, initial states and exploration.
        simulators: how many collect side by side.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        evaluations: how often the policy is scored, at equal distances in env steps.
        evaluation_episodes: deterministic episodes of each evaluation.
        stop: ends the session early, with everything saved.
        report: gets the status often, from this thread, instead of a bar on stderr.

    Returns:
        The run directory.

    Raises:
        InputError: the task, the budget or the device do not fit, the folder holds a run already, or the losses are
            not finite.
    """
    if logdir and (Path(logdir) / 'config.yaml').exists():
        raise InputError(
            f'run {logdir}: expected a folder without a run, since training in one process keeps its episodes in '
            'memory and can not go on later; choose another log directory'
        )
    name = simulation.task_name(task)
    settings = config.simulator_options(name)
    steps, repeat = config.schedule.steps if steps is None else steps, settings['action_repeat']
    with contextlib.ExitStack() as open_now:
        open_now.enter_context(process.prepare_learners(config, robots=simulators))
        from dreamer_ros.training.loop import Trainer

        schedule = Schedule.make(config.schedule, steps, repeat)
        marks = [math.ceil(steps * k / evaluations / repeat) for k in range(1, evaluations + 1)]

        def player(its_seed: int) -> Player:
            return open_now.enter_context(contextlib.closing(Player(task, its_seed, **settings)))

        players = [player(collector_seed(seed, n)) for n in range(simulators)]
        evaluators = [player(evaluation_seed(seed, n)) for n in range(min(EVALUATION_PLAYERS, evaluation_episodes))]
        spec = players[0].spec
        folder = Path(logdir) if logdir else new_logdir(name, config.preset)
        save_task(folder, simulation.task_files(task))
        run = open_now.enter_context(contextlib.closing(RunDirectory(folder, config, spec)))
        replay = MemoryReplay(config.replay.capacity, config.schedule, spec, seed)
        Trainer(
            config,
            spec,
            run,
            InProcessRobots(players, evaluators, replay, schedule, marks, evaluation_episodes),
            replay,
            schedule,
            device=device,
            seed=seed,
            stop=stop or threading.Event(),
            progress=Progress(report=report),
        ).train()
    return folder
