"""A benchmark's subject in a process of its own that works when told to and idles otherwise.

Subjects that take turns share whatever else the machine is doing, so their figures compare.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

TOGETHER = 10  # updates on a GPU between two looks at the clock


class Subject:
    """Runs `python -m module request` and asks it for turns.

    Args:
        module: dotted name; its `main` calls `serve`.
        request: JSON-ready arguments of the subject.
    """

    def __init__(self, module: str, request: dict):
        # Its own thread settings: OpenMP reads them while torch is imported.
        environment = {**os.environ, 'OMP_NUM_THREADS': str(request['threads'])}
        self._process = subprocess.Popen(
            [sys.executable, '-m', module, json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, command: str, timeout: float) -> dict | None:
        """The answer to one command; None when it takes longer than `timeout` seconds.

        Raises:
            RuntimeError: the subject died; its error is on the terminal.
        """
        try:
            self._process.stdin.write(command + '\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer below says it
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f'{" ".join(self._process.args[1:3])} ended')
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what a subject that died has not read
            self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def serve(commands: dict) -> None:
    """Answer commands from standard input, one JSON line each: `name` calls commands[name]().

    Whatever else the subject prints goes to standard error.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        answers.write(json.dumps(commands[line.strip()]()) + '\n')
        answers.flush()


def timed(update: Callable[[], object], seconds: float = 4.0, most: int = 20, device: str = 'cpu') -> dict:
    """Wall and CPU seconds of each of several calls, at least one, for about `seconds`.

    On a GPU, where calls return before their work is done, each stands for the mean of ten calls.
    """
    if device != 'cpu':
        return _timed_together(update, seconds, most)
    wall: list[float] = []
    cpu: list[float] = []
    while not wall or (sum(wall) + wall[-1] < seconds and len(wall) < most):
        began, cpu_began = time.perf_counter(), time.process_time()
        update()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    return {'wall': wall, 'cpu': cpu}


def _timed_together(update: Callable[[], object], seconds: float, most: int) -> dict:
    import torch

    def several() -> None:
        for _ in range(TOGETHER):
            update()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return {clock: [x / TOGETHER for x in values] for clock, values in timed(several, seconds, most).items()}


def synthetic(batch: int, length: int, image_size, actions: int) -> dict:
    """One batch as the replay store samples it, the same in every process."""
    random = np.random.default_rng(0)
    flags = {name: np.zeros((batch, length), bool) for name in ('is_first', 'is_last', 'is_terminal', 'is_human')}
    flags['is_first'][:, 0] = True
    return {
        'image': random.integers(0, 256, (batch, length, *image_size, 3), np.uint8),
        'vector': np.zeros((batch, length, 0), np.float32),
        'action': random.uniform(-1.0, 1.0, (batch, length, actions)).astype(np.float32),
        'reward': random.uniform(0.0, 1.0, (batch, length)).astype(np.float32),
        **flags,
    }
