"""Runs every system on every task with every seed, each in a process of its own.

A process gets its share of the cores, its crash stops no other run, and what it leaves in memory does not slow the
next one. Finished runs are kept in results.json. A benchmark that is started again makes the missing ones.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamer_ros.benchmark.plan import Plan
from dreamer_ros.benchmark.results import Outcome, Results, Run
from dreamer_ros.benchmark.systems import Job
from dreamer_ros.errors import InputError
from dreamer_ros.files import Locked, lock_file
from dreamer_ros.simulation import task_name
from dreamer_ros.training.progress import Bar, duration

LOCK = '.benchmark.lock'


@dataclasses.dataclass
class _Running:
    """A job in its process, and its latest report."""

    job: Job
    process: subprocess.Popen
    outcome: Outcome

    def done(self) -> float:
        """From 0 to 1."""
        protocol = self.job.protocol
        steps = self.outcome.env_steps / protocol.steps
        return steps if protocol.minutes is None else max(steps, self.outcome.seconds / 60 / protocol.minutes)


def run_benchmark(plan: Plan) -> Results:
    """Make all runs that `<output>/results.json` lacks. When one fails, the others go on.

    Raises:
        InputError: an unknown system or task, two systems of one name, an output of another benchmark, of one that
            still runs, or that cannot be written, or runs that failed.
    """
    presets: dict[str, str] = {}
    for preset in plan.systems:
        other = presets.setdefault(Path(preset).stem, preset)
        if other != preset:
            raise InputError(f'benchmark: systems: expected names that tell them apart, got {other} and {preset}')
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
        lock = lock_file(plan.output / LOCK)
    except Locked as error:
        raise InputError(f'{plan.output}: expected no other benchmark, but process {error} runs one there') from error
    except OSError as error:
        raise InputError(f'{plan.output}: expected a folder for the results ({error.strerror})') from error
    try:
        return _run(plan, presets)
    finally:
        os.close(lock)


def _run(plan: Plan, presets: dict[str, str]) -> Results:
    results = Results(plan.output, plan.protocol)
    cores = sorted(os.sched_getaffinity(0))
    waiting = []
    for system, preset in presets.items():
        for task in dict.fromkeys(task_name(task) for task in plan.tasks):
            for seed in dict.fromkeys(plan.seeds):
                folder = plan.output / 'runs' / f'{system}-{task}-{seed}'
                job = Job(system, preset, task, seed, plan.protocol, folder, plan.simulators, cores)
                if not _finished(results, job):
                    waiting.append(job)
    _Benchmark(results, waiting, plan.jobs, cores).run()
    return results


def _finished(results: Results, job: Job) -> bool:
    run, wanted = results.find(job.key), job.config_hash()  # also for an unknown preset to be told at once
    if run is None:
        return False
    if run.config_hash != wanted:
        raise InputError(
            f'{results.path}: expected {job.label} to be of the present preset (configuration {wanted}), got '
            f'{run.config_hash}; choose another output'
        )
    return True


class _Benchmark:
    def __init__(self, results: Results, waiting: list[Job], jobs: int, cores: list[int]):
        self._results, self._waiting = results, waiting
        self._free: list[Sequence[int]] = [cores[n::jobs] or cores for n in range(jobs)]  # cores of each process
        self._running: dict[Any, _Running] = {}  # by connection
        self._failed: list[str] = []
        self._total, self._ended = len(waiting), 0
        self._began = time.monotonic()
        self._bar = Bar()

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                while self._waiting and self._free:
                    self._start(self._waiting.pop(0), self._free.pop())
                connection: Any
                for connection in multiprocessing.connection.wait(list(self._running), 0.2):
                    self._hear(connection)
                if self._running and self._bar.due():
                    self._show()
        finally:
            for running in self._running.values():
                running.process.terminate()
            for running in self._running.values():
                running.process.wait()
            self._bar.close()
        if self._failed:
            raise InputError(
                f'{len(self._failed)} of {self._total} runs failed: {"; ".join(self._failed)}; '
                f'`dreamer benchmark table {self._results.path.parent}` compares the others'
            )

    def _start(self, job: Job, cores: Sequence[int]) -> None:
        ours, theirs = multiprocessing.Pipe()
        # A program of its own: a fork would inherit torch's and OpenGL's threads.
        child = subprocess.Popen(
            [sys.executable, '-m', 'dreamer_ros.benchmark.job', str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        job = dataclasses.replace(job, cores=cores)
        ours.send(job)
        self._running[ours] = _Running(job, child, Outcome())

    def _hear(self, connection: multiprocessing.connection.Connection) -> None:
        running = self._running[connection]
        try:
            message = connection.recv()
        except (EOFError, OSError):  # even in the middle of a message
            message = InputError(f'its process ended with exit code {running.process.wait()}')
        if isinstance(message, Outcome):
            running.outcome = message
            return
        if isinstance(message, Run):
            self._results.add(message)
            returns = message.outcome.returns
            mean = sum(returns) / len(returns)
            self._bar.note(
                f'{running.job.label}: {mean:.1f} over {len(returns)} episodes after '
                f'{message.outcome.env_steps} env steps in {duration(message.outcome.seconds)}'
            )
        else:
            self._failed.append(f'{running.job.label}: {message}')
            self._bar.note(f'failed: {running.job.label}: {message}')
        del self._running[connection]
        connection.close()
        running.process.wait()
        self._ended += 1
        self._free.append(running.job.cores)

    def _show(self) -> None:
        done = self._ended + sum(running.done() for running in self._running.values())
        parts = [f'{self._ended}/{self._total} runs']
        for running in self._running.values():
            job, outcome = running.job, running.outcome
            score = f' return {outcome.curve[-1][2]:.1f}' if outcome.curve else ''
            parts.append(f'{job.label}: {outcome.env_steps}/{job.protocol.steps} env steps{score}')
        if done > 0:
            elapsed = time.monotonic() - self._began
            parts.append(f'{duration(elapsed * (self._total - done) / done)} left')
        self._bar.show(done / self._total, ', '.join(parts))
