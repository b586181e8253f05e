"""How each kind of system is trained and scored: presets in one process or over ROS, and baselines.

The baselines are what every learning system should be held against: chance, doing nothing, and a model-free agent
from pixels. They see the task as the `cpu` preset does, with its image size and action repeat.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dreamer_ros.benchmark.results import BASELINES, Outcome, Protocol
from dreamer_ros.config import Config, load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.policy.actions import random_action, still_action
from dreamer_ros.schema import load_json
from dreamer_ros.seeds import evaluation_seed
from dreamer_ros.training import process
from dreamer_ros.training.progress import Status
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import latest_policy

UNTRAINED = {'random': random_action, 'still': still_action}
LOOK_PERIOD = 1.0  # seconds between two looks at the metrics of a run over ROS
PLAYERS = 5  # score a policy side by side; a fixed number, or scores would depend on the machine's cores

Report = Callable[[Outcome], None]


def config_of(preset: str) -> Config:
    """The resolved preset; of a baseline only its `env` section counts."""
    return load_preset('cpu' if preset in BASELINES else preset)


def train(
    preset: str, task: str, seed: int, protocol: Protocol, folder: Path, report: Report, simulators: int = 1
) -> Outcome:
    """Train a preset or one of BASELINES on a task, and score it.

    Args:
        folder: run directory to make; over ROS an interrupted run in it is resumed.
        report: is called often, from this thread, with what training has come to.
        simulators: that collect for one learner.

    Raises:
        InputError: an unknown task, stable-baselines3 is not installed, or what the training raises.
    """
    if preset in UNTRAINED:
        return Outcome(returns=score(None, preset, task, seed, protocol.episodes))
    if preset in BASELINES:
        return _train_sac(task, seed, protocol, report)
    if protocol.over_ros:
        return _train_over_ros(preset, task, seed, protocol, folder, report, simulators)
    return _train_in_process(preset, task, seed, protocol, folder, report, simulators)


def score(policy: Path | None, preset: str, task: str, seed: int, episodes: int) -> list[float]:
    """Returns of deterministic episodes of a policy file, or of one of UNTRAINED."""
    config = config_of(preset)
    with contextlib.ExitStack() as open_now:
        players = []
        for number in range(1 if policy is None else min(PLAYERS, episodes)):
            player = Player(
                task,
                config.env,
                config.action_repeat_for(task),
                evaluation_seed(seed, number),
                UNTRAINED.get(preset, random_action),
            )
            players.append(open_now.enter_context(contextlib.closing(player)))
        return play_side_by_side(players, episodes, policy)


def _train_sac(task: str, seed: int, protocol: Protocol, report: Report) -> Outcome:
    try:
        from dreamer_ros.benchmark.sac_pixels import train_sac
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, which sac_pixels needs: pip install 'dreamer_ros[baselines]'"
        ) from error
    process.configure_torch(process.pick_threads(robots=0))
    config = config_of('sac_pixels')
    return train_sac(task, config.env.image_size, config.action_repeat_for(task), seed, protocol, report)


def _train_in_process(
    preset: str, task: str, seed: int, protocol: Protocol, folder: Path, report: Report, simulators: int
) -> Outcome:
    from dreamer_ros.training.session import train_in_process

    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    outcome, stop = Outcome(), threading.Event()

    def tell(status: Status) -> None:
        outcome.env_steps, outcome.updates, outcome.seconds = status.step, status.updates, status.seconds
        if status.evaluation_return is not None:
            outcome.curve = [(status.step, status.seconds, status.evaluation_return, 1)]
        if protocol.out_of_time(status.seconds):
            stop.set()
        report(outcome)

    train_in_process(
        task,
        load_preset(preset),
        folder,
        steps=protocol.steps,
        seed=seed,
        simulators=simulators,
        evaluations=protocol.evaluations,
        evaluation_episodes=protocol.curve_episodes,
        stop=stop,
        report=tell,
    )
    outcome.curve = _curve(folder, [step for step, _, _ in _evaluations(folder)])
    outcome.returns = score(latest_policy(folder), preset, task, seed, protocol.episodes)
    return outcome


def _train_over_ros(
    preset: str, task: str, seed: int, protocol: Protocol, folder: Path, report: Report, simulators: int
) -> Outcome:
    """By the processes that a user starts: `dreamer launch sim_train`, its outcome read from the run directory."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'launch.log'
    arguments = {
        'task': task,
        'preset': preset,
        'logdir': folder,
        'seed': seed,
        'steps': protocol.steps,
        'simulators': simulators,
        'episodes': protocol.episodes,
    }
    command = [sys.executable, '-m', 'dreamer_ros.cli', 'launch', 'sim_train']
    command += [f'{name}:={value}' for name, value in arguments.items()]
    with open(log, 'a') as file:
        launch = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while launch.poll() is None:
            report(_outcome_over_ros(folder, protocol))
            time.sleep(LOOK_PERIOD)
    finally:  # also when this process is asked to end
        launch.terminate()
        launch.wait()
    if launch.returncode:
        lines = read_text(log).split('\n')
        raise InputError(
            f'launch: {next((line for line in reversed(lines) if line.strip()), "no output")} (all of it: {log})'
        )
    outcome = _outcome_over_ros(folder, protocol)
    paths = sorted(folder.glob('evaluation/*/result.json'), key=os.path.getmtime)
    if not paths:
        raise InputError(f'run {folder}: expected evaluation/<time>/result.json, found none')
    outcome.returns = [float(episode['return']) for episode in load_json(paths[-1], str(paths[-1]))['episodes']]
    return outcome


def _outcome_over_ros(folder: Path, protocol: Protocol) -> Outcome:
    lines = _metrics(folder)
    if not lines:
        return Outcome()
    last = lines[-1]
    return Outcome(last['step'], last['updates'], last['time'], _curve(folder, protocol.marks()))


def _curve(folder: Path, marks: list[int]) -> list[tuple[int, float, float, int]]:
    """A point of the learning curve at each mark: the mean of the evaluation episodes since the mark before."""
    curve, low = [], 0
    for mark in sorted(set(marks)):
        within = [(seconds, value) for step, seconds, value in _evaluations(folder) if low < step <= mark]
        if within:
            seconds, values = zip(*within)
            curve.append((mark, seconds[-1], float(np.mean(values)), len(values)))
        low = mark
    return curve


def _evaluations(folder: Path) -> list[tuple[int, float, float]]:
    """(env steps, seconds, return) of each deterministic episode during training."""
    lines = _metrics(folder)
    return [(line['step'], line['time'], line['return_evaluate']) for line in lines if 'return_evaluate' in line]


def _metrics(folder: Path) -> list[dict]:
    from dreamer_ros.training.metrics import read_metrics

    return read_metrics(folder)
