"""How each kind of system is trained and scored: presets in one process or over ROS, and baselines.

The baselines are random actions, no action, and a model-free agent that learns from pixels. They see the task as the
`cpu` preset does, with its image size and action repeat.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dreamer_ros.benchmark.results import BASELINES, Outcome, Protocol, config_hash
from dreamer_ros.config import Config, default_values, load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.policy.actions import random_action, still_action
from dreamer_ros.schema import load_json
from dreamer_ros.seeds import evaluation_seed
from dreamer_ros.training import process
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.progress import Status
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import latest_policy

UNTRAINED = {'random': random_action, 'still': still_action}
LOOK_PERIOD = 1.0  # seconds between two looks at the metrics of a run over ROS
PLAYERS = 5  # score a policy side by side; a fixed number, or scores would depend on the machine's cores

Report = Callable[[Outcome], None]
Evaluation = tuple[int, float, float]  # of one episode: env steps, seconds, return


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        system: name in tables.
        preset: name or file, or one of BASELINES.
        folder: run directory to make. Over ROS an interrupted run in it is resumed.
        simulators: that collect for one learner.
        cores: to run on.
    """

    system: str
    preset: str
    task: str
    seed: int
    protocol: Protocol
    folder: Path
    simulators: int
    cores: Sequence[int]

    @property
    def key(self) -> tuple[str, str, int]:
        """As of the `Run` it becomes."""
        return self.system, self.task, self.seed

    @property
    def label(self) -> str:
        """For people."""
        return f'{self.system} {self.task} seed {self.seed}'

    @property
    def config(self) -> Config:
        """The resolved preset. Only the `env` section of a baseline's counts."""
        return load_preset('cpu' if self.preset in BASELINES else self.preset)

    @property
    def action_repeat(self) -> int:
        """Control steps per action."""
        return self.config.action_repeat_for(self.task)

    def config_hash(self) -> str:
        """Equal for runs that can be compared as one system's."""
        config = self.config.to_dict()
        if self.preset in BASELINES:
            config = {'preset': self.preset, 'env': config['env']}
        return config_hash(config, default_values())


def train(job: Job, report: Report) -> Outcome:
    """Train a preset or one of BASELINES on a task, and score it.

    Args:
        report: is called often, from this thread, with what training has come to.

    Raises:
        InputError: an unknown task, stable-baselines3 is not installed, or what the training raises.
    """
    if job.preset in UNTRAINED:
        return Outcome(returns=_score(job, None))
    if job.preset in BASELINES:
        return _train_sac(job, report)
    return _train_over_ros(job, report) if job.protocol.over_ros else _train_in_process(job, report)


def _score(job: Job, policy: Path | None) -> list[float]:
    """Returns of deterministic episodes of a policy file, or of one of UNTRAINED."""
    episodes = job.protocol.episodes
    untrained = UNTRAINED.get(job.preset, random_action)
    with contextlib.ExitStack() as open_now:
        players = []
        for number in range(1 if policy is None else min(PLAYERS, episodes)):
            seed = evaluation_seed(job.seed, number)
            player = Player(job.task, seed, untrained, **job.config.simulator_options(job.task))
            players.append(open_now.enter_context(contextlib.closing(player)))
        return play_side_by_side(players, episodes, policy)


def _train_sac(job: Job, report: Report) -> Outcome:
    try:
        from dreamer_ros.benchmark.sac_pixels import train_sac
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, which sac_pixels needs: pip install 'dreamer_ros[baselines]'"
        ) from error
    process.configure_torch(process.pick_threads(robots=0))
    return train_sac(job.task, job.config.env.image_size, job.action_repeat, job.seed, job.protocol, report)


def _train_in_process(job: Job, report: Report) -> Outcome:
    from dreamer_ros.training.in_process import train_in_process

    protocol = job.protocol
    shutil.rmtree(job.folder, ignore_errors=True)  # of an interrupted run
    outcome, stop = Outcome(), threading.Event()

    def tell(status: Status) -> None:
        outcome.env_steps, outcome.updates, outcome.seconds = status.step, status.updates, status.seconds
        if status.evaluation_return is not None:
            outcome.curve = [(status.step, status.seconds, status.evaluation_return, 1)]
        if protocol.out_of_time(status.seconds):
            stop.set()
        report(outcome)

    train_in_process(
        job.task,
        job.config,
        job.folder,
        steps=protocol.steps,
        seed=job.seed,
        simulators=job.simulators,
        evaluations=protocol.evaluations,
        evaluation_episodes=protocol.curve_episodes,
        stop=stop,
        report=tell,
    )
    evaluations = _evaluations(read_metrics(job.folder))
    outcome.curve = _curve(evaluations, [step for step, _, _ in evaluations])
    outcome.returns = _score(job, latest_policy(job.folder))
    return outcome


def _train_over_ros(job: Job, report: Report) -> Outcome:
    """By the processes that a user starts: `dreamer launch sim_train`, its outcome read from the run directory."""
    folder = job.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'launch.log'
    arguments = {
        'task': job.task,
        'preset': job.preset,
        'logdir': folder,
        'seed': job.seed,
        'steps': job.protocol.steps,
        'simulators': job.simulators,
        'episodes': job.protocol.episodes,
    }
    command = [sys.executable, '-m', 'dreamer_ros.cli', 'launch', 'sim_train']
    command += [f'{name}:={value}' for name, value in arguments.items()]
    with open(log, 'a') as file:
        launch = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while launch.poll() is None:
            report(_outcome_over_ros(folder, job.protocol))
            time.sleep(LOOK_PERIOD)
    finally:  # also when this process is asked to end
        launch.terminate()
        launch.wait()
    if launch.returncode:
        lines = read_text(log).split('\n')
        raise InputError(
            f'launch: {next((line for line in reversed(lines) if line.strip()), "no output")} (all of it: {log})'
        )
    outcome = _outcome_over_ros(folder, job.protocol)
    paths = sorted(folder.glob('evaluation/*/result.json'), key=os.path.getmtime)
    if not paths:
        raise InputError(f'run {folder}: expected evaluation/<time>/result.json, found none')
    outcome.returns = [float(episode['return']) for episode in load_json(paths[-1], str(paths[-1]))['episodes']]
    return outcome


def _outcome_over_ros(folder: Path, protocol: Protocol) -> Outcome:
    lines = read_metrics(folder)
    if not lines:
        return Outcome()
    last = lines[-1]
    return Outcome(last['step'], last['updates'], last['time'], _curve(_evaluations(lines), protocol.marks()))


def _curve(evaluations: Sequence[Evaluation], marks: Sequence[int]) -> list[tuple[int, float, float, int]]:
    """A point of the learning curve at each mark: the mean of the evaluation episodes since the mark before."""
    curve, low = [], 0
    for mark in sorted(set(marks)):
        within = [(seconds, value) for step, seconds, value in evaluations if low < step <= mark]
        if within:
            seconds, values = zip(*within)
            curve.append((mark, seconds[-1], float(np.mean(values)), len(values)))
        low = mark
    return curve


def _evaluations(lines: Sequence[dict]) -> list[Evaluation]:
    """The deterministic episodes in the metrics of a run."""
    return [(line['step'], line['time'], line['return_evaluate']) for line in lines if 'return_evaluate' in line]
