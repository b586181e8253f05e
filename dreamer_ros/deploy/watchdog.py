"""The gate that commands pass on their way to the robot, and the watchdog that shuts it.

Both use the steady clock, need no executor, and keep working while inference, executor or control thread hang.
When the whole process dies or freezes, `guard.py` takes over.
"""

from __future__ import annotations

import collections
import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dreamer_ros.deploy.realtime import WATCHDOG, raise_thread
from dreamer_ros.errors import InputError
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.safety import Limited, Safety

Messages = Sequence[bytes | None]  # for each receiver of the command
LOCK_PATIENCE = 0.001  # seconds that a stop waits for a command that is being published


class Gate:
    """The only way to those who obey a robot's command: commands pass while nothing holds the gate, stops always do.

    Each hold has a name and a reason. Commands pass again once every name is released. Thread-safe.

    Args:
        contract: of the robot.
        send: publishes a command, see `Commands.encode`.
        send_stop: publishes a stop, through publishers of its own.
        time_ns: ROS time, for the stamps of commands that have one.

    Attributes:
        stops: how often the robot was stopped, by the name of the first hold.
        events: sentences about stops and limits, to be logged by another thread: a stop must not wait for a terminal.
        limited: which limits of the robot's state are exceeded, so that axes may only lead back; '' if none is.
        values: f64[A], the last command in the units of the contract; NaN before the first.
    """

    def __init__(
        self,
        contract: RobotContract,
        send: Callable[[Messages], None],
        send_stop: Callable[[Messages], None],
        time_ns: Callable[[], int],
    ):
        self._send, self._send_stop, self._time_ns = send, send_stop, time_ns
        self._period = 1.0 / contract.rate
        self._commands, self._safety = Commands(contract), Safety(contract)
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}
        self._live = False
        self._next_stop = 0.0
        self._holds = 0
        self._shared: str | None = None
        self.stops: Counter[str] = collections.Counter()
        self.events: collections.deque[str] = collections.deque(maxlen=100)
        self.limited = ''
        self.values = np.full(len(contract.command.axes), np.nan)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Reasons of the present holds, by name."""
        return dict(self._reasons)

    @property
    def stopped(self) -> bool:
        """Whether the last command was the stop. A stop that is a pose takes a while to reach."""
        return self._safety.stopped

    def open(self) -> None:
        """Let commands, and stops, reach the robot."""
        self._live = True

    def close(self) -> None:
        """Let nothing more reach the robot, since somebody else may command it now. Send stops before."""
        self._live = False
        with self._lock:  # wait for a command that is being published
            pass

    def ticket(self) -> int:
        """A ticket for one command; void as soon as anything holds the gate."""
        return self._holds

    def start(self, feedback: np.ndarray) -> None:
        """See `Safety.start`."""
        with self._lock:
            self._safety.start(feedback)

    def command(self, action: np.ndarray, ticket: int) -> Limited | None:
        """`drive` to the values of an action f32[A]."""
        return self.drive(self._commands.values(action), ticket)

    def drive(self, values: np.ndarray, ticket: int) -> Limited | None:
        """Make values f64[axes] safe and publish them as a command.

        Returns:
            What was published; None if something holds the gate, or did since the ticket. An action that
            is not finite is `refused` and not published: the caller must hold the gate.
        """
        with self._lock:
            if self._reasons or not self._live or ticket != self._holds:
                return None
            limited = self._safety.limit(values, time.monotonic())
            if not limited.refused:
                self._send(self._commands.encode(limited.values, self._time_ns()))
                self.values = limited.values
            return limited

    def share(self, name: str | None) -> None:
        """Let others command the robot: repeat no stops while it is held under this name alone; None ends that."""
        self._shared = name

    def follow(self, feedback: np.ndarray) -> None:
        """Somebody else moves the robot: a stop begins where it stands, as far as that is within its limits."""
        with self._lock, contextlib.suppress(InputError):
            self._safety.start(feedback)
            self.values = np.where(np.isnan(feedback), self.values, feedback)

    def action(self, values: np.ndarray) -> np.ndarray:
        """The action f32[A] for a command's values f64[axes]."""
        return self._commands.action(values)

    def hold(self, name: str, reason: str) -> None:
        """Stop the robot and hold commands back until `release(name)`; at once, whatever else hangs."""
        if name in self._reasons:
            self._reasons[name] = reason  # the sentence may have changed
            return
        first = not self._reasons
        # First of all: a command that has not been sent by now is not sent any more.
        self._reasons[name] = reason
        self._holds += 1
        if self._live:
            self.stop()
            if first:
                self.stops[name] += 1
                self.events.append(f'stopped: {reason}')

    def release(self, name: str) -> None:
        """End the hold of that name."""
        self._reasons.pop(name, None)

    def block(self, down: np.ndarray, up: np.ndarray, reason: str) -> None:
        """Keep axes from going further down or up, see `Safety.block`; at once, if the last command leads there.

        Args:
            down, up: bool[A].
            reason: which limits demand that; '' if none does.
        """
        if not (reason or self.limited):
            return
        if not self._lock.acquire(timeout=LOCK_PATIENCE):
            return  # a command is being published; the next round of the watchdog tries again
        try:
            values = self._safety.block(down, up)
            if values is not None and self._live and not self._reasons:
                self._send(self._commands.encode(values, self._time_ns()))
                self.values = values
        finally:
            self._lock.release()
        if reason and not self.limited:
            self.events.append(f'limited: {reason}')
        self.limited = reason

    def stop(self) -> None:
        """Publish the stop command."""
        # A command that is stuck in the middleware must not delay the stop for long.
        locked = self._lock.acquire(timeout=LOCK_PATIENCE)
        try:
            values = self._safety.stop(time.monotonic())
            self._send_stop(self._commands.encode(values, self._time_ns()))
            self.values = values
        finally:
            if locked:
                self._lock.release()
        self._next_stop = time.monotonic() + self._period

    def repeat(self, now: float) -> None:
        """Publish the stop again once per period while the gate is held: a message may be lost."""
        if self._live and now >= self._next_stop and any(name != self._shared for name in self.reasons):
            self.stop()


Check = Callable[[float], str]


class Watchdog:
    """Runs checks several times per control period, on a thread of its own, and holds the gate while one fails.

    The constructor runs the first round.

    Args:
        gate: held under the name of each check that fails.
        interval: seconds between two rounds.
        checks: by name. Each gets the monotonic time in seconds and returns a reason to stop, or ''. It must not
            block.
        beat: called once per round, for the guard that watches the watchdog.
    """

    def __init__(self, gate: Gate, interval: float, checks: Mapping[str, Check], beat: Callable[[], None]):
        self._gate, self._interval, self._checks, self._beat = gate, interval, dict(checks), beat
        self._stop = threading.Event()
        # A thread that computes in Python keeps the interpreter for so long; with 5 ms, rounds would be late.
        sys.setswitchinterval(min(sys.getswitchinterval(), max(1e-4, interval / 8)))
        self._round(time.monotonic())
        self._thread = threading.Thread(target=self._run, name='watchdog', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        for name in self._checks:
            self._gate.release(name)

    def _run(self) -> None:
        raise_thread(WATCHDOG)
        while not self._stop.wait(self._interval):
            self._round(time.monotonic())

    def _round(self, now: float) -> None:
        for name, check in self._checks.items():
            try:
                reason = check(now)
            except Exception as error:  # a broken check must not pass
                reason = f'the check of {name} failed ({type(error).__name__}: {error})'
            if reason:
                self._gate.hold(name, reason)
            else:
                self._gate.release(name)
        self._gate.repeat(now)
        self._beat()
