"""The time of a robot: that of the system, or with use_sim_time that of a simulator."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from rclpy.node import Node

from dreamer_ros.errors import InputError
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.topics import LATEST

INTERVALS = 2.0  # of /clock itself that it may stand still, if they are longer than what the control loop allows
LONGEST = 4.0  # times as much as usual a pause, or a jump, counts for the means
SLOWNESS = 0.1  # weight of a new interval and step in the means


class SystemClock:
    """ROS time without use_sim_time.

    Attributes:
        simulated: whether control periods and ages are those of a simulator.
    """

    simulated = False

    def time_ns(self) -> int:
        """ROS time, for stamps."""
        return time.time_ns()

    def seconds(self) -> float:
        """Seconds that pass at the same pace and are never set, for periods and ages."""
        return time.monotonic()

    def received(self, info: Mapping[str, Any]) -> int:
        """When a message without a stamp counts as measured, from the middleware's info about it. ROS time."""
        return info['source_timestamp']


class SimulatedClock(SystemClock):
    """ROS time by /clock, and a check that it advances.

    It polls the topic, because the node's own clock waits for the executor. Between two messages the time goes on at
    the pace of the last ones, by the usual step at most. So a control loop may be faster than the messages.

    Args:
        node: the subscriber.
        patience: seconds of real time for which /clock may stand still.
    """

    simulated = True

    def __init__(self, node: Node, patience: float):
        self._subscription = PolledSubscription(node, topics.CLOCK, LATEST)
        self._patience = patience
        self._lock = threading.Lock()
        self._told, self._at = 0, time.monotonic()  # newest time in ns, and when it came
        self._interval = self._step = 0.0  # mean real seconds, and mean ns, from one time to the next
        self._time_ns = 0

    def time_ns(self) -> int:
        """0 before the first message."""
        with self._lock:
            self._take()
            passed = min((time.monotonic() - self._at) / self._interval, 1.0) if self._interval else 0.0
            self._time_ns = max(self._time_ns, self._told + int(passed * self._step))
            return self._time_ns

    def seconds(self) -> float:
        return self.time_ns() / 1e9

    def received(self, info: Mapping[str, Any]) -> int:
        return self.time_ns()

    def __call__(self, now: float) -> str:
        """The check; `now` is monotonic."""
        with self._lock:
            self._take()
            if not self._told:
                return 'nothing came on /clock yet'
            return '/clock does not advance' if now - self._at > self._allowed else ''

    @property
    def _allowed(self) -> float:
        return max(self._patience, INTERVALS * self._interval)

    def _take(self) -> None:
        while (taken := self._subscription.take_with_info()) is not None:
            message, info = taken
            with contextlib.suppress(InputError):  # no time: the clock does not advance
                told = codecs.stamp_to_ns(message.clock)
                if told != self._told:
                    at = time.monotonic() - max(0.0, (time.time_ns() - info['source_timestamp']) / 1e9)
                    self._advance(told, at)

    def _advance(self, told: int, at: float) -> None:
        if told < self._told:
            self._time_ns = told  # set back
        elif self._told:
            interval, step = max(at - self._at, 0.0), told - self._told
            if self._interval:
                self._interval += SLOWNESS * (min(interval, LONGEST * self._allowed) - self._interval)
                self._step += SLOWNESS * (min(step, LONGEST * self._step) - self._step)
            else:
                self._interval, self._step = interval, float(step)
        self._told, self._at = told, at

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()
