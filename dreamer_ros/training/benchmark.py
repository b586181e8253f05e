"""System x task x seed: what a benchmark runs, in processes of their own, and how it goes on after a break.

Each run is a process: it gets its share of the cores, a crash takes nothing else down, and what one leaves in
memory does not slow the next. Finished runs are in results.json; an interrupted one begins again.
"""
from __future__ import annotations

import dataclasses
import datetime
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from dreamer_ros.config import Config, load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.simulation import VISUAL_TASKS, task_name
from dreamer_ros.training import process
from dreamer_ros.training.progress import Bar, duration
from dreamer_ros.training.results import Outcome, Protocol, Results, Run, config_hash, machine

TASK_SETS = {'visual': VISUAL_TASKS}
REPORT_PERIOD = 0.5  # seconds between two reports of a run


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to make; travels to the process that makes it."""

    system: str
    preset: str
    task: str
    seed: int
    protocol: Protocol
    folder: Path
    simulators: int
    cores: Sequence[int]

    @property
    def key(self) -> tuple:
        """As of the `Run` it becomes."""
        return self.system, self.task, self.seed

    @property
    def label(self) -> str:
        """For people."""
        return f'{self.system} {self.task} seed {self.seed}'


@dataclasses.dataclass
class _Running:
    """A job in its process, and the latest that was heard of it."""

    job: Job
    process: multiprocessing.Process
    outcome: Outcome

    def done(self) -> float:
        """From 0 to 1."""
        protocol = self.job.protocol
        steps = self.outcome.env_steps / protocol.steps
        return steps if protocol.minutes is None else max(steps, self.outcome.seconds / 60 / protocol.minutes)


def run_benchmark(systems: Sequence[str], tasks: Sequence[str], seeds: Sequence[int], protocol: Protocol,
                  output: Path, jobs: int = 1, simulators: int = 1) -> Results:
    """Make all runs that are not in `<output>/results.json` yet; one that fails is told, and the others go on.

    Args:
        systems: presets by name or file, and baselines.
        jobs: processes side by side; they share the cores.
        simulators: that collect for one learner.

    Raises:
        InputError: an unknown system or task, an output of another benchmark, or runs that failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    results = Results(output, protocol)
    cores = sorted(os.sched_getaffinity(0))
    waiting = []
    for name, config in [(name, load_preset(name)) for name in dict.fromkeys(systems)]:
        for task in dict.fromkeys(task_name(task) for task in tasks):
            for seed in dict.fromkeys(seeds):
                system = Path(name).stem
                job = Job(system, name, task, seed, protocol, output / 'runs' / f'{system}-{task}-{seed}',
                          simulators, cores)
                if not _finished(results, job, config):
                    waiting.append(job)
    _Benchmark(results, waiting, jobs, cores).run()
    return results


def _finished(results: Results, job: Job, config: Config) -> bool:
    run = results.find(job.key)
    if run is None:
        return False
    wanted = config_hash(config.to_dict())
    if run.config_hash != wanted:
        raise InputError(
            f'{results.path}: expected {job.label} to be of the present preset (configuration {wanted}), got '
            f'{run.config_hash}; choose another output')
    return True


class _Benchmark:

    def __init__(self, results: Results, waiting: List[Job], jobs: int, cores: List[int]):
        self._results, self._waiting, self._jobs = results, waiting, jobs
        self._free = [cores[n::jobs] or cores for n in range(jobs)]  # cores of each process
        self._context = multiprocessing.get_context('spawn')  # a fork would inherit torch's and OpenGL's threads
        self._running: Dict[multiprocessing.connection.Connection, _Running] = {}
        self._failed: List[str] = []
        self._total, self._ended = len(waiting), 0
        self._began = time.monotonic()
        self._bar = Bar()

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                while self._waiting and self._free:
                    self._start(self._waiting.pop(0), self._free.pop())
                for connection in multiprocessing.connection.wait(list(self._running), 0.2):
                    self._hear(connection)
                if self._running and self._bar.due():
                    self._show()
        finally:
            for running in self._running.values():
                running.process.terminate()
            for running in self._running.values():
                running.process.join()
            self._bar.close()
        if self._failed:
            raise InputError(f'{len(self._failed)} of {self._total} runs failed: {"; ".join(self._failed)}')

    def _start(self, job: Job, cores: Sequence[int]) -> None:
        job = dataclasses.replace(job, cores=cores)
        ours, theirs = self._context.Pipe(duplex=False)
        child = self._context.Process(target=_work, args=(job, theirs), daemon=True)
        child.start()
        theirs.close()
        self._running[ours] = _Running(job, child, Outcome())

    def _hear(self, connection: multiprocessing.connection.Connection) -> None:
        running = self._running[connection]
        try:
            message = connection.recv()
        except EOFError:
            running.process.join()
            message = InputError(f'its process ended with exit code {running.process.exitcode}')
        if isinstance(message, Outcome):
            running.outcome = message
            return
        if isinstance(message, Run):
            self._results.add(message)
            returns = message.outcome.returns
            mean = sum(returns) / len(returns)
            self._bar.note(f'{running.job.label}: {mean:.1f} over {len(returns)} episodes after '
                           f'{message.outcome.env_steps} env steps in {duration(message.outcome.seconds)}')
        else:
            self._failed.append(f'{running.job.label}: {message}')
            self._bar.note(f'failed: {running.job.label}: {message}')
        del self._running[connection]
        connection.close()
        running.process.join()
        self._ended += 1
        self._free.append(running.job.cores)

    def _show(self) -> None:
        done = self._ended + sum(running.done() for running in self._running.values())
        parts = [f'{self._ended}/{self._total} runs']
        for running in self._running.values():
            outcome = running.outcome
            score = f' return {outcome.curve[-1][2]:.1f}' if outcome.curve else ''
            parts.append(f'{running.job.label}: {outcome.env_steps}/{running.job.protocol.steps}{score}')
        if done > 0:
            elapsed = time.monotonic() - self._began
            parts.append(f'{duration(elapsed * (self._total - done) / done)} left')
        self._bar.show(done / self._total, ', '.join(parts))


def _work(job: Job, connection: multiprocessing.connection.Connection) -> None:
    """The process of one run: sends an Outcome now and then, at the end a Run or an InputError."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    os.sched_setaffinity(0, job.cores)
    process.prepare()
    reporter = _Reporter(connection)
    try:
        connection.send(_make_run(job, reporter))
    except InputError as error:
        connection.send(error)


def _make_run(job: Job, report: '_Reporter') -> Run:
    from dreamer_ros.training.inprocess import train_in_process
    config = load_preset(job.preset)
    shutil.rmtree(job.folder, ignore_errors=True)  # of an interrupted run
    outcome = train_in_process(config, job.task, job.seed, job.protocol, job.folder, report, job.simulators)
    return Run(job.system, job.task, job.seed, config_hash(config.to_dict()), config.action_repeat_for(job.task),
               config.env.image_size, 'deterministic', _now(), machine(), outcome)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')


class _Reporter:
    """Sends what a run came to so far, at most every half second."""

    def __init__(self, connection: multiprocessing.connection.Connection):
        self._connection = connection
        self._next = 0.0

    def __call__(self, outcome: Outcome) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_PERIOD
            self._connection.send(outcome)
