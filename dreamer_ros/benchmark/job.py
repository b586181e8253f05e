"""One run of a benchmark, as a program: takes a Job through a connection, sends what comes of it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from dreamer_ros.benchmark.baselines import BASELINES, UNTRAINED, baseline_config, train_baseline
from dreamer_ros.benchmark.results import Outcome, Protocol, Run, config_hash, machine
from dreamer_ros.config import Config, default_values, load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.launcher import end_with_parent
from dreamer_ros.training import process

REPORT_PERIOD = 0.5  # seconds between two reports of a run


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        system: name in tables.
        preset: name or file, or one of BASELINES.
        folder: for what the run leaves beside its scores.
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

    def config(self) -> Config:
        """The resolved preset; of a baseline only its `env` section counts."""
        return baseline_config() if self.preset in BASELINES else load_preset(self.preset)

    def config_hash(self) -> str:
        """Equal for runs that can be compared as one system's."""
        config, defaults = self.config().to_dict(), default_values()
        if self.preset in BASELINES:
            config = {'preset': self.preset, 'env': config['env']}
        return config_hash(config, defaults)


def make_run(job: Job, report: _Reporter) -> Run:
    """Train and score; the process is configured for it.

    Raises:
        InputError: what the training raises.
    """
    config = job.config()
    if job.preset in UNTRAINED:
        outcome = train_baseline(job.preset, job.task, job.seed, job.protocol, report)
    elif job.preset in BASELINES:
        process.configure_torch(process.pick_threads(robots=0))
        outcome = train_baseline(job.preset, job.task, job.seed, job.protocol, report)
    elif job.protocol.over_ros:
        from dreamer_ros.benchmark.over_ros import train_over_ros

        outcome = train_over_ros(
            job.preset, job.task, job.seed, job.protocol, job.folder.absolute(), report, job.simulators
        )
    else:
        process.configure_learner(process.pick_threads(job.simulators), config.schedule.overlap)
        from dreamer_ros.training.in_process import train_in_process

        shutil.rmtree(job.folder, ignore_errors=True)  # of an interrupted run
        outcome = train_in_process(config, job.task, job.seed, job.protocol, job.folder, report, job.simulators)
    actions = job.preset if job.preset in UNTRAINED else 'deterministic'
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
    return Run(
        job.system,
        job.task,
        job.seed,
        job.config_hash(),
        config.action_repeat_for(job.task),
        config.env.image_size,
        actions,
        now,
        machine(),
        outcome,
    )


class _Reporter:
    """Sends what a run came to so far, at most every half second."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._next = 0.0

    def __call__(self, outcome: Outcome) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_PERIOD
            self._connection.send(outcome)


def main() -> int:
    """`python -m dreamer_ros.benchmark.job <descriptor>`: sends Outcomes, at the end a Run or an InputError."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the benchmark ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with every `finally` run, a launch's among them
    end_with_parent(signal.SIGTERM)
    process.prepare()
    connection = Connection(int(sys.argv[1]))
    job = connection.recv()
    os.sched_setaffinity(0, job.cores)
    try:
        connection.send(make_run(job, _Reporter(connection)))
    except InputError as error:
        connection.send(error)
    except BrokenPipeError:  # the benchmark has ended
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
