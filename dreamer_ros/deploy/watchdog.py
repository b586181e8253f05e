"""What stands between a policy and a robot: the gate that commands pass, and the watchdog that shuts it.

Everything here is on a steady clock, needs no executor, and works on while inference, executor or control
thread hang. What a dying process leaves to do is `guard.py`'s.
"""

from __future__ import annotations

import collections
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from dreamer_ros.deploy.realtime import WATCHDOG, raise_thread
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.safety import Limited, Safety

LOCK_PATIENCE = 0.001  # seconds a stop waits for a command that is on its way out


class Gate:
    """The one way to a robot's command topic: commands pass while nothing holds them, stops always do.

    What holds them has a name and a reason. Whoever holds a command back releases it again, so that two
    troubles at a time need two releases. Callable from every thread.

    Args:
        contract: of the robot.
        send: publishes serialised bytes; used by commands.
        send_stop: the same through a publisher of its own, used by stops.
        time_ns: ROS time, for the stamps of commands that have one.

    Attributes:
        stops: how often the robot was stopped, by name of what held first.
        events: why the robot was stopped, for whoever logs it: a stop must not wait for a terminal.
        values: f64[A], what the robot was told last, in the units of the contract; NaN where nothing yet.
    """

    def __init__(
        self,
        contract: RobotContract,
        send: Callable[[bytes], None],
        send_stop: Callable[[bytes], None],
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
        self.stops: Counter[str] = collections.Counter()
        self.events: collections.deque[str] = collections.deque(maxlen=100)
        self.values = np.full(len(contract.command.axes), np.nan)

    @property
    def reasons(self) -> Mapping[str, str]:
        """What holds commands back now, by name."""
        return dict(self._reasons)

    @property
    def stopped(self) -> bool:
        """Whether the last command was the stop; a pose takes a while to reach."""
        return self._safety.stopped

    def open(self) -> None:
        """Let commands, and stops, reach the robot."""
        self._live = True

    def close(self) -> None:
        """Let nothing more reach the robot: somebody else may command it. Send stops before."""
        self._live = False
        with self._lock:  # a command on its way out is out
            pass

    def ticket(self) -> int:
        """What a command needs to pass; void as soon as anything holds commands back."""
        return self._holds

    def start(self, feedback: np.ndarray) -> None:
        """Begin where the robot stands, see `Safety.start`.

        Raises:
            InputError: it stands outside its limits.
        """
        with self._lock:
            self._safety.start(feedback)

    def command(self, action: np.ndarray, ticket: int) -> Limited | None:
        """Make an action f32[A] safe and publish it as a command.

        Returns:
            What was published; None when something holds commands back, or did since the ticket. An action that
            is not finite is not published (`refused`): the caller holds.
        """
        with self._lock:
            if self._reasons or not self._live or ticket != self._holds:
                return None
            limited = self._safety.limit(self._commands.values(action), time.monotonic())
            if not limited.refused:
                self._send(self._commands.encode(limited.values, self._time_ns()))
                self.values = limited.values
            return limited

    def action(self, values: np.ndarray) -> np.ndarray:
        """f32[A], the action that values f64[axes] of a command stand for."""
        return self._commands.action(values)

    def hold(self, name: str, reason: str) -> None:
        """Stop the robot and hold commands back until `release(name)`; at once, whatever else hangs."""
        if name in self._reasons:
            self._reasons[name] = reason  # it may say more by now
            return
        first = not self._reasons
        # Before all else: a command that has not been sent by now is not sent any more.
        self._reasons[name] = reason
        self._holds += 1
        if self._live:
            self.stop()
            if first:
                self.stops[name] += 1
                self.events.append(reason)

    def release(self, name: str) -> None:
        """The trouble of that name is over."""
        self._reasons.pop(name, None)

    def stop(self) -> None:
        """Publish the stop command."""
        # A command stuck in the middleware must not keep the stop back for long.
        locked = self._lock.acquire(timeout=LOCK_PATIENCE)
        try:
            values = self._safety.stop(time.monotonic())
            # Nothing to say to a robot that is to hold its pose and was never told another.
            if values is not None:
                self._send_stop(self._commands.encode(values, self._time_ns()))
                self.values = values
        finally:
            if locked:
                self._lock.release()
        self._next_stop = time.monotonic() + self._period

    def repeat(self, now: float) -> None:
        """Publish the stop again once per period while commands are held: the first one may be lost."""
        if self._live and self._reasons and now >= self._next_stop:
            self.stop()


Check = Callable[[float], str]


class Watchdog:
    """Runs checks several times per control period, on a thread of its own, and holds the gate while one fails.

    The first round is over on construction.

    Args:
        gate: that is held, under the check's name.
        interval: seconds between two rounds of checks.
        checks: by name; each gets the monotonic time in seconds and returns a reason, or '' when all is well. They
            must not block.
        beat: called once per round: somebody watches the watchdog.
    """

    def __init__(self, gate: Gate, interval: float, checks: Mapping[str, Check], beat: Callable[[], None]):
        self._gate, self._interval, self._checks, self._beat = gate, interval, dict(checks), beat
        self._stop = threading.Event()
        # How long a thread that computes in Python keeps the interpreter from the others; 5 ms make rounds late.
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
            except Exception as error:  # a check that fails has not said that all is well
                reason = f'the check of {name} failed ({type(error).__name__}: {error})'
            if reason:
                self._gate.hold(name, reason)
            else:
                self._gate.release(name)
        self._gate.repeat(now)
        self._beat()
