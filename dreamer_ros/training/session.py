"""A whole session of training in this process: simulators, policy and learner side by side, without ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from dreamer_ros.config import Config
from dreamer_ros.training.progress import Status


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

    While the learner makes the updates that are due, the simulators collect the steps of the next ones. Both wait
    for each other, so that equal seeds give equal runs however fast the machine is.

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
    import numpy as np

    from dreamer_ros.benchmark.results import Outcome, Protocol
    from dreamer_ros.training import in_process
    from dreamer_ros.training.run_directory import new_logdir

    folder = Path(logdir) if logdir else new_logdir(task, config.preset)
    budget = config.schedule.steps if steps is None else steps
    protocol = Protocol(budget, None, evaluations, evaluation_episodes, evaluation_episodes)

    def tell(outcome: Outcome) -> None:
        if report is not None:
            last = float(np.mean([point[2] for point in outcome.curve[-1:]])) if outcome.curve else None
            report(Status(outcome.env_steps, budget, outcome.env_steps, outcome.updates, evaluation_return=last))
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt

    in_process.train_in_process(config, task, seed, protocol, folder, tell, simulators)
    return folder
