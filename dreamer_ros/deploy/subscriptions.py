"""Subscribes a robot's topics and keeps the newest message of each for the control loop."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import NamedTuple

from rclpy.node import Node

from dreamer_ros.deploy.clocks import SystemClock
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.sensing import Problem, Sensed, Sensing
from dreamer_ros.ros.inbox import PolledSubscription, parse
from dreamer_ros.wire import codecs
from dreamer_ros.wire.fields import has_header


class Taken(NamedTuple):
    """A message as it came.

    Attributes:
        cdr: its bytes.
        source: when it counts as measured if it has no stamp, nanoseconds of ROS time.
        received: time of arrival, nanoseconds of system time.
        expires: when it will be too old, in seconds of the robot's clock.
        number: the publisher's sequence number, if the middleware tells it.
    """

    cdr: bytes
    source: int
    received: int
    expires: float
    number: int | None


class Inputs:
    """Subscribes the topics of a contract.

    Control loop and watchdog poll the messages on their own threads, so neither a stalled executor nor a stalled
    control loop hides them. Only messages that an observation uses are deserialised.

    Args:
        node: the subscriber.
        contract: of the robot.
        clock: of the robot.

    Attributes:
        sent: messages of the leading topic (the first camera) until now.
        dropped: those of them that never came.
        repeated: observations without a new message of the leading topic.
    """

    def __init__(self, node: Node, contract: RobotContract, clock: SystemClock):
        self._contract, self._clock = contract, clock
        self._sensing = Sensing(contract)
        self._by_header = {
            topic.name: contract.stamps == 'header' and has_header(topic.type) for topic in contract.topics
        }
        # Maximum age of each topic that the policy needs.
        needed = (entry for entry in contract.vector if not entry.optional)
        self._limits = contract.age_limits([*contract.cameras.values(), *needed])
        self._subscriptions = {
            topic.name: PolledSubscription(node, topic, contract.subscription(topic.name), raw=True)
            for topic in contract.topics
        }
        self._names = {topic: subscription.topic_name for topic, subscription in self._subscriptions.items()}
        self._lock = threading.Lock()
        self._newest: dict[str, Taken] = {}
        self._unread: dict[str, Taken] = {}
        self._leading = contract.topics[0].name
        self.sent = self.dropped = 0
        self.repeated = 0

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions.values():
            subscription.close()

    def observe(self, tick_ns: int) -> Sensed:
        """The observation at a tick (ROS time in nanoseconds). For the control loop."""
        with self._lock:
            self._take()
            unread, self._unread = self._unread, {}
        self.repeated += self._leading not in unread
        for topic, taken in unread.items():
            try:
                message = parse(taken.cdr, self._subscriptions[topic].message_type)
            except InputError as error:
                raise InputError(f'{topic}: {error}') from error
            self._sensing.receive(topic, message, taken.source)
        return self._sensing.observe(tick_ns)

    def forget(self) -> None:
        """Drop all messages that came until now. For the control loop."""
        with self._lock:
            self._take()
            self._newest, self._unread = {}, {}
        self._sensing = Sensing(self._contract)

    def waited(self, system_ns: int) -> float | None:
        """Seconds since the newest message of the leading topic arrived; None before the first."""
        taken = self._newest.get(self._leading)
        return None if taken is None else (system_ns - taken.received) / 1e9

    def overdue(self, now: float) -> str:
        """A sentence about the first topic whose newest message is too old; '' if there is none.

        For the watchdog: it neither waits for the control loop nor takes messages away from it.

        Args:
            now: monotonic seconds; the age counts by the robot's clock.
        """
        late = self._late()
        if late and self._lock.acquire(timeout=0.001):
            try:
                self._take()
            finally:
                self._lock.release()
            late = self._late()
        return late

    def told(self, problems: Iterable[Problem]) -> str:
        """One line about problems, with the full names of topics."""
        named = (problem._replace(topic=self._names.get(problem.topic, problem.topic)) for problem in problems)
        return '; '.join(map(str, named))

    def _late(self) -> str:
        now = self._clock.seconds()
        for topic, limit in self._limits.items():
            taken = self._newest.get(topic)
            if taken is None:
                return f'{self._names[topic]}: nothing came yet'
            if now > taken.expires:
                return f'{self._names[topic]}: {limit + now - taken.expires:.3f} s old, expected at most {limit:g} s'
        return ''

    def _take(self) -> None:
        """Take waiting messages. Their age comes from ROS time once, and grows by the steady clock from then on."""
        now_ns, now = self._clock.time_ns(), self._clock.seconds()
        for topic, subscription in self._subscriptions.items():
            while (message := subscription.take_with_info()) is not None:
                cdr, info = message
                received = self._clock.received(info)
                try:
                    stamp = codecs.header_stamp(cdr) if self._by_header[topic] else received
                except InputError:
                    continue  # its age is unknown
                taken = Taken(
                    cdr,
                    received,
                    info['received_timestamp'],
                    now + self._limits.get(topic, math.inf) - max(0, now_ns - stamp) / 1e9,
                    info.get('publication_sequence_number'),
                )
                before = self._newest.get(topic)
                if topic == self._leading:
                    numbered = before and taken.number and before.number
                    dropped = max(0, taken.number - before.number - 1) if numbered else 0
                    self.dropped += dropped
                    self.sent += 1 + dropped
                self._newest[topic] = self._unread[topic] = taken
