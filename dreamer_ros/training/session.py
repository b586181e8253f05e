"""A session of training from its arguments: with simulators in this process, or from bags alone. Needs no ROS."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ros.config import Config
from dreamer_ros.errors import InputError
from dreamer_ros.training import process
from dreamer_ros.training.offline import OfflineRun
from dreamer_ros.training.progress import Progress, Status
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory, new_logdir
from dreamer_ros.training.schedule import OfflineSchedule

if TYPE_CHECKING:
    from dreamer_ros.training.parallel import Team


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
    from dreamer_ros.simulation import task_name

    folder = Path(logdir) if logdir else new_logdir(task_name(task), config.preset)
    if (folder / 'config.yaml').exists():
        raise InputError(
            f'run {folder}: expected a folder without a run, since training in one process keeps its episodes in '
            'memory and can not go on later; choose another log directory'
        )
    with prepare_learners(config, robots=simulators):
        from dreamer_ros.training import in_process

        in_process.train_in_process(
            task,
            config,
            folder,
            config.schedule.steps if steps is None else steps,
            seed,
            simulators,
            device,
            evaluations,
            evaluation_episodes,
            stop or threading.Event(),
            Progress(report=report),
        )
    return folder


def train_from_bags(run: OfflineRun, stop: threading.Event) -> None:
    """Learn from bags alone until the updates are made or the event is set.

    Raises:
        InputError: the folder, the device or the bags do not fit.
    """
    options = run.options
    with prepare_learners(run.config, robots=0, learners=process.learners(options.learners)) as team:
        from dreamer_ros.training.loop import Trainer
        from dreamer_ros.training.run_replay import BagReplay

        with contextlib.closing(RunDirectory(run.folder, run.config, run.spec)) as directory:
            Trainer(
                run.config,
                run.spec,
                directory,
                Robots(),
                BagReplay(directory.episodes, run.config, run.spec, options.seed, run.contract),
                OfflineSchedule(run.updates),
                device=options.device,
                seed=options.seed,
                stop=stop,
                progress=Progress(),
                team=team,
                contract=run.contract,
            ).train()


def prepare_learners(
    config: Config, robots: int, learners: int = 1, threads: int = 0
) -> AbstractContextManager[Team | None]:
    """Tune this process for learning, before torch is imported, and form the team of learners if there are several.

    Args:
        robots: simulators and agents on this machine, which need cores too.
        learners: processes that share every update.
        threads: of each learner on a CPU; 0 picks.
    """
    process.prepare()
    from dreamer_ros.training.parallel import form

    threads = threads or process.pick_threads(robots, learners)
    process.configure_learner(threads, config.schedule.overlap)
    return form(learners, threads)
