"""Publishes a node's status on /diagnostics once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from dreamer_ros.ros import qos
from dreamer_ros.wire import topics

PERIOD = 1.0  # seconds of wall time: a stalled simulation must not silence diagnostics

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
Report = tuple[bytes, str, Mapping[str, object]]


class Diagnostics:
    """Publishes one status at 1 Hz. The node's loop calls `tick` often.

    Args:
        node: the publisher.
        task: second part of the status name `<node>: <task>`.
        hardware_id: name of the robot.
        report: called once per period; returns (level, one sentence, key → value).
    """

    def __init__(self, node: Node, task: str, hardware_id: str, report: Callable[[], Report]):
        self._node = node
        self._report = report
        self._publisher = qos.publisher(node, topics.DIAGNOSTICS)
        self._name = f'{node.get_fully_qualified_name().lstrip("/")}: {task}'
        self._hardware_id = hardware_id
        self._next = time.monotonic() + PERIOD

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)

    def tick(self) -> None:
        """Publish if a second has passed."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = max(self._next + PERIOD, now)
        level, message, values = self._report()
        status = DiagnosticStatus(
            level=level,
            name=self._name,
            message=message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


class Timings:
    """Durations of the parts of a step since the last summary.

    Args:
        names: of the parts. The rate is that of the first one.
    """

    def __init__(self, *names: str):
        self._names = names
        self._readers: list[Timings] = []
        self._clear()

    def reader(self) -> Timings:
        """A second view of the same durations with summaries of its own, which must be read regularly."""
        self._readers.append(Timings(*self._names))
        return self._readers[-1]

    def add(self, name: str, seconds: float) -> None:
        """Note one duration."""
        self._durations[name].append(seconds)
        for reader in self._readers:
            reader.add(name, seconds)

    def summary(self) -> dict[str, str]:
        """Rate in Hz, and median, 99th percentile and maximum of each part in ms, since the last call."""
        durations, elapsed = self._durations, time.monotonic() - self._since
        self._clear()
        values = {'rate [Hz]': f'{len(durations[self._names[0]]) / elapsed:.1f}'}
        for name, seconds in durations.items():
            if seconds:
                median, high = np.percentile(seconds, [50, 99]) * 1e3
                for label, value in (('p50', median), ('p99', high), ('max', max(seconds) * 1e3)):
                    values[f'{name} {label} [ms]'] = f'{value:.3f}'
        return values

    def _clear(self) -> None:
        self._durations: dict[str, list[float]] = {name: [] for name in self._names}
        self._since = time.monotonic()
