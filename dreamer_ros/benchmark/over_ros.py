"""One run of a benchmark over ROS: `dreamer launch sim_train`, its outcome read from the run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dreamer_ros.benchmark.results import Outcome, Protocol
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.training.metrics import read_metrics

LOOK_PERIOD = 1.0  # seconds between two looks at the run's metrics
EVALUATE_EVERY = 10  # episodes, the default of sim_train


def train_over_ros(
    preset: str,
    task: str,
    seed: int,
    protocol: Protocol,
    folder: Path,
    report: Callable[[Outcome], None],
    simulators: int,
) -> Outcome:
    """Train and score by the processes that a user starts; an interrupted run is resumed. Arguments as of
    `train_in_process`.

    Raises:
        InputError: the launch failed; its last line is repeated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'launch.log'
    command = [
        sys.executable,
        '-m',
        'dreamer_ros.cli',
        'launch',
        'sim_train',
        f'task:={task}',
        f'preset:={preset}',
        f'logdir:={folder}',
        f'seed:={seed}',
        f'steps:={protocol.steps}',
        f'simulators:={simulators}',
        f'evaluate_every:={EVALUATE_EVERY}',
        f'episodes:={protocol.episodes}',
    ]
    with open(log, 'a') as file:
        launch = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while launch.poll() is None:
            report(_read_outcome(folder, protocol))
            time.sleep(LOOK_PERIOD)
    finally:  # also when this process is asked to end
        launch.terminate()
        launch.wait()
    if launch.returncode:
        lines = read_text(log).split('\n')
        raise InputError(
            f'launch: {next((line for line in reversed(lines) if line.strip()), "no output")} (all of it: {log})'
        )
    outcome = _read_outcome(folder, protocol)
    outcome.returns = _final_returns(folder)
    return outcome


def _read_outcome(folder: Path, protocol: Protocol) -> Outcome:
    lines = read_metrics(folder)
    if not lines:
        return Outcome()
    episodes = [(line['step'], line['time'], line['return_evaluate']) for line in lines if 'return_evaluate' in line]
    last = lines[-1]
    return Outcome(last['step'], last['updates'], last['time'], _curve(episodes, protocol))


def _curve(episodes: list[tuple[int, float, float]], protocol: Protocol) -> list[tuple[int, float, float, int]]:
    """Points at the protocol's marks, each the mean of the episodes since the mark before."""
    curve, low = [], 0
    for mark in protocol.marks():
        within = [(seconds, value) for steps, seconds, value in episodes if low < steps <= mark]
        if within:
            seconds, values = zip(*within)
            curve.append((mark, seconds[-1], float(np.mean(values)), len(values)))
        low = mark
    return curve


def _final_returns(folder: Path) -> list[float]:
    paths = sorted(folder.glob('evaluation/*/result.json'), key=os.path.getmtime)
    if not paths:
        raise InputError(f'run {folder}: expected evaluation/<time>/result.json, found none')
    return [float(episode['return']) for episode in json.loads(read_text(paths[-1]))['episodes']]
