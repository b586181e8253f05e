"""Everything that can stop the robot, in the order in which it is looked for.

`STOPS` is the list. Each entry is the name under which the gate is held (watchdog.py): as long as one holds, no command
passes, and the stop is published once per control period.

Three layers do without this list. robot/safety.py changes what is not finite, beyond its limits or too fast before it
leaves. guard.py, a process of its own, stops the robot when this one is dead or frozen. The robot's own controller
stops it when nothing comes any more (`controller_timeout` of the contract).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import ESTOP
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.topics import LATEST, QoS, Topic

STOPS = {
    # The watchdog's thread looks for these, in this order, several times per control period.
    'estop': 'the emergency stop is pressed',
    'listening': 'an emergency stop of before may not have been heard of yet',
    'signal': 'SIGTERM or SIGINT came',
    'overdue': 'no command within 0.7 of a period after its tick: inference takes too long',
    'stale': 'a message that the policy needs is missing, or older than its max_age',
    'executor': 'a callback of the node takes longer than half a period',
    'guard': 'the guard process has ended, does not answer, or has not found the robot yet',
    'subscriber': 'nobody obeys the command: no subscriber, or one of another type or QoS',
    'joystick': 'the joystick is silent while a person steers',
    'clock': '/clock does not advance, with use_sim_time',
    # The control loop looks for these at every tick.
    'time': 'the clock was set back: what was measured before does not count',
    'observation': 'a message that the policy needs cannot be used: old, from the future, damaged or not finite',
    'end': "the robot stands where the contract's episode ends",
    'policy': 'there is no policy to play',
    'action': 'the policy says something that is not finite',
    'control': 'a tick failed, or an axis stands beyond its limits at the start',
    'pause': 'an episode has ended, and each waits for ~/enable',
    # People, by services.
    'enable': '~/enable false was called, or the emergency stop was pressed since ~/enable true',
    'inactive': 'the agent is not active',
}

LISTENING = 1.0  # seconds within which the middleware tells of a latched emergency stop


class EmergencyStop:
    """The latched e-stop topic, polled so that no executor can delay it.

    Two subscriptions, because a latched one is deaf to publishers that do not latch, such as `ros2 topic pub`, and
    the other one to what was said before it was there.
    """

    def __init__(self, node: Node, topic: str):
        self._subscriptions = [
            PolledSubscription(node, Topic(topic, ESTOP, quality), quality)
            for quality in (QoS(depth=1, transient_local=True), QoS(depth=10, reliable=False))
        ]
        self._pressed = False
        self._known = time.monotonic() + LISTENING
        self.topic = self._subscriptions[0].topic_name

    def listening(self, now: float) -> str:
        """A sentence for as long as a stop that was pressed before may not have been heard of."""
        return f'listening for an emergency stop on {self.topic}' if now < self._known else ''

    def pressed(self) -> bool:
        """What was said last."""
        for subscription in self._subscriptions:
            while (message := subscription.take()) is not None:
                self._pressed = message.data
        return self._pressed

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            subscription.close()


class Deadline:
    """A check of something that must happen in time: `set` says by when it must be set again.

    Args:
        reason: of the stop, once it is late.
    """

    def __init__(self, reason: str):
        self._reason = reason
        self._at = float('inf')

    def set(self, at: float) -> None:
        """By monotonic time `at`, in seconds."""
        self._at = at

    def __call__(self, now: float) -> str:
        return self._reason if now > self._at else ''


class Advance:
    """A check of something that must keep changing, such as ROS time.

    Args:
        read: its value now, and since when it may have that, in monotonic seconds.
        patience: seconds it may stay the same.
        reason: of the stop.
    """

    def __init__(self, read: Callable[[], tuple[int, float]], patience: float, reason: str):
        self._read, self._patience, self._reason = read, patience, reason
        self._last: tuple[int, float] | None = None

    def __call__(self, now: float) -> str:
        value, since = self._read()
        if self._last is None or value != self._last[0]:
            self._last = value, since
        return self._reason if now - self._last[1] > self._patience else ''


class ClockWatch:
    """Simulated time as it comes in, polled: ROS time itself waits for the executor."""

    def __init__(self, node: Node):
        self._subscription = PolledSubscription(node, topics.CLOCK, LATEST)
        self._newest = 0, time.monotonic()

    def read(self) -> tuple[int, float]:
        """Nanoseconds, 0 before the first message, and when that was published in monotonic seconds."""
        while (taken := self._subscription.take_with_info()) is not None:
            message, info = taken
            delay = max(0.0, (time.time_ns() - info['source_timestamp']) / 1e9)
            try:
                self._newest = codecs.stamp_to_ns(message.clock), time.monotonic() - delay
            except InputError:
                continue  # no time: the clock does not advance
        return self._newest

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()


class TimeSetBack:
    """Notices that a clock was set back, by a steady one beside it.

    Small corrections are none: stamps stand still until the clock has caught up.

    Args:
        time_ns: the clock.
        tolerance: seconds.
    """

    def __init__(self, time_ns: Callable[[], int], tolerance: float):
        self._time_ns, self._tolerance = time_ns, tolerance
        self._newest = 0
        self._at = 0.0  # monotonic seconds

    def look(self) -> float:
        """Seconds by which it was set back since the last look; 0 if it was not."""
        now, at = self._time_ns(), time.monotonic()
        back = (self._newest - now) / 1e9 if self._newest else 0.0
        set_back = back > self._tolerance
        # From its newest time on, it should have gone on as the steady one did.
        distance = back + at - self._at
        if set_back or now > self._newest:
            self._newest, self._at = now, at
        return distance if set_back else 0.0
