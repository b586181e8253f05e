"""One run of a benchmark, as a program: takes a Job through a connection, sends what comes of it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from dreamer_ros.benchmark.results import BASELINES, Outcome, Protocol, Run, config_hash, machine
from dreamer_ros.benchmark.systems import UNTRAINED, config_of, train
from dreamer_ros.config import default_values
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

    def config_hash(self) -> str:
        """Equal for runs that can be compared as one system's."""
        config = config_of(self.preset).to_dict()
        if self.preset in BASELINES:
            config = {'preset': self.preset, 'env': config['env']}
        return config_hash(config, default_values())

    def run(self, connection: Connection) -> Run:
        """Train and score, and send how far it is every half second.

        Raises:
            InputError: what the training raises.
        """
        due = 0.0

        def report(outcome: Outcome) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + REPORT_PERIOD
                connection.send(outcome)

        outcome = train(self.preset, self.task, self.seed, self.protocol, self.folder, report, self.simulators)
        config = config_of(self.preset)
        return Run(
            self.system,
            self.task,
            self.seed,
            self.config_hash(),
            config.action_repeat_for(self.task),
            config.env.image_size,
            self.preset if self.preset in UNTRAINED else 'deterministic',
            datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            machine(),
            outcome,
        )


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
        connection.send(job.run(connection))
    except InputError as error:
        connection.send(error)
    except BrokenPipeError:  # the benchmark has ended
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
