"""What a node tells /diagnostics once a second."""
from __future__ import annotations

import time
from typing import Callable, Dict, List, Tuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

PERIOD = 1.0  # seconds of wall time: a stalled simulation must not silence diagnostics

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
Report = Tuple[bytes, str, Dict[str, object]]


class Diagnostics:
    """Publishes one status at 1 Hz; the node's loop calls `tick` as often as it likes.

    Args:
        node: that publishes.
        task: of the status name `<node>: <task>`.
        hardware_id: the robot.
        report: returns (level, one sentence, key → value) and is called once per period.
    """

    def __init__(self, node: Node, task: str, hardware_id: str, report: Callable[[], Report]):
        self._node = node
        self._report = report
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._name = f'{node.get_fully_qualified_name().lstrip("/")}: {task}'
        self._hardware_id = hardware_id
        self._next = time.monotonic() + PERIOD

    def tick(self) -> None:
        """Publish if a second has passed."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = max(self._next + PERIOD, now)
        level, message, values = self._report()
        status = DiagnosticStatus(
            level=level, name=self._name, message=message, hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


class Latency:
    """Durations since the last summary: rate, median and 99th percentile."""

    def __init__(self):
        self._durations: List[float] = []
        self._since = time.monotonic()

    def add(self, seconds: float) -> None:
        """Note one duration."""
        self._durations.append(seconds)

    def summary(self) -> Dict[str, str]:
        """`rate` in Hz, `latency p50` and `p99` in ms over the time since the last call; then start anew."""
        now = time.monotonic()
        durations, elapsed = self._durations, now - self._since
        self._durations, self._since = [], now
        values = {'rate [Hz]': f'{len(durations) / elapsed:.1f}'}
        if durations:
            median, high = np.percentile(durations, [50, 99])
            values.update({'latency p50 [ms]': f'{median * 1e3:.2f}', 'latency p99 [ms]': f'{high * 1e3:.2f}'})
        return values
