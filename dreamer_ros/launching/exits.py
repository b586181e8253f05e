"""What the exit of a process means for its scenario."""

from __future__ import annotations

import collections
import enum
import time
from collections.abc import Callable

from dreamer_ros.launching.scenario import Process

RESTARTS_PER_MINUTE = 3


class Verdict(enum.Enum):
    """What the exit of one process means for the scenario."""

    FINISHED = 'finished'
    RESTART = 'restart'
    FAILED = 'failed'


class ExitRules:
    """Decides over exits while a scenario runs (not while it is being stopped).

    A process killed by a signal crashed: every node resumes from what it saved, so it is restarted (unless that
    would move a robot), at most RESTARTS_PER_MINUTE times a minute. Any other ending but that of the leading
    process with 0 takes the
    scenario down: a node that ended by itself has said why, and starting it again would repeat it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._crashes: dict[int, collections.deque[float]] = {}

    def decide(self, process: Process, returncode: int) -> tuple[Verdict, str]:
        """Verdict and one sentence about it. `returncode` is -N after signal N, as in subprocess."""
        if returncode == 0:
            if process.leads:
                return Verdict.FINISHED, f'{process.label} has finished'
            return Verdict.FAILED, f'{process.label} ended before the run did'
        if returncode > 0:
            return Verdict.FAILED, f'{process.label} exited with code {returncode}'
        if not process.restarts:
            return Verdict.FAILED, f'{process.label} was killed by signal {-returncode}'
        now = self._clock()
        # By identity: a process holds dicts, which cannot be hashed.
        crashes = self._crashes.setdefault(id(process), collections.deque())
        while crashes and now - crashes[0] > 60.0:
            crashes.popleft()
        if len(crashes) >= RESTARTS_PER_MINUTE:
            return Verdict.FAILED, (
                f'{process.label} was killed by signal {-returncode}, for the {len(crashes) + 1}th time in a minute'
            )
        crashes.append(now)
        return Verdict.RESTART, f'{process.label} was killed by signal {-returncode}: starting it again'
