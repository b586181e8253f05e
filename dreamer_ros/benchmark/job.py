"""One run of a benchmark, as a program: takes a Job through a connection and sends what comes of it."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from dreamer_ros.benchmark.results import Outcome, Run, machine
from dreamer_ros.benchmark.systems import UNTRAINED, Job, train
from dreamer_ros.errors import InputError
from dreamer_ros.launcher import end_with_parent
from dreamer_ros.training import process

REPORT_PERIOD = 0.5  # seconds between two reports of a run


def run(job: Job, connection: Connection) -> Run:
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

    outcome = train(job, report)
    return Run(
        *job.key,
        job.config_hash(),
        job.action_repeat,
        job.config.env.image_size,
        job.preset if job.preset in UNTRAINED else 'deterministic',
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
        connection.send(run(job, connection))
    except InputError as error:
        connection.send(error)
    except BrokenPipeError:  # the benchmark has ended
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
