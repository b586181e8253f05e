"""Everything that can stop the robot, in the order in which it is checked.

`STOPS` is the list. Each key is a name under which the gate (watchdog.py) is held. While one of them holds it, no
command passes, and the stop is published once per control period.

Three layers work without this list. robot/safety.py corrects commands that are not finite, beyond their limits or too
fast. guard.py, a process of its own, stops the robot when this one is dead or frozen. The robot's own controller
stops it when no command comes any more (`controller_timeout` of the contract).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from dreamer_ros.robot.contract import ESTOP
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire.topics import QoS, Topic

STOPS = {
    # The watchdog's thread checks these in this order, several times per control period.
    'estop': 'the emergency stop is pressed',
    'listening': 'an emergency stop of before may not have been heard of yet',
    'signal': 'SIGTERM or SIGINT came',
    'overdue': 'no command within 0.7 of a period after its tick: inference takes too long',
    'stale': 'a message that the policy needs is missing, or older than its max_age',
    'executor': 'a callback of the node takes longer than half a period',
    'guard': 'the guard process has ended, does not answer, or has not found the robot yet',
    'subscriber': 'a receiver of the command is missing: no subscriber, one of another type or QoS, no action server',
    'limit': "a limit of the robot's state is exceeded and no axis can lead back, or is not measured",
    'joystick': 'the joystick is silent while a person steers',
    'clock': '/clock does not advance, with use_sim_time',
    # The control loop checks these at every tick.
    'time': 'the clock was set back: what was measured before does not count',
    'observation': 'a message that the policy needs cannot be used: old, from the future, damaged or not finite',
    'end': "the robot stands where the contract's episode ends",
    'policy': 'there is no policy to play',
    'action': 'the policy says something that is not finite',
    'control': 'a tick failed, or an axis stands beyond its limits at the start',
    'reset': 'the robot is being set up again by somebody else, or could not be',
    'pause': 'an episode has ended, and each waits for ~/enable',
    # People, by services.
    'enable': '~/enable false was called, or the emergency stop was pressed since ~/enable true',
    'inactive': 'the agent is not active',
}

LISTENING = 1.0  # seconds within which the middleware delivers a latched emergency stop


class EmergencyStop:
    """The latched e-stop topic, polled so that no executor can delay it.

    There are two subscriptions. A latched one hears no publisher that does not latch, such as `ros2 topic pub`. The
    other one misses messages from before it subscribed.
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
        """A sentence for as long as a stop that was pressed earlier may not have arrived yet."""
        return f'listening for an emergency stop on {self.topic}' if now < self._known else ''

    def pressed(self) -> bool:
        """Whether the newest message says so."""
        for subscription in self._subscriptions:
            while (message := subscription.take()) is not None:
                self._pressed = message.data
        return self._pressed

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            subscription.close()


class Deadline:
    """A check that fails with `reason` once the time given to `set` is over."""

    def __init__(self, reason: str):
        self._reason = reason
        self._at = float('inf')

    def set(self, at: float) -> None:
        """Set the deadline, in monotonic seconds."""
        self._at = at

    def __call__(self, now: float) -> str:
        return self._reason if now > self._at else ''


class TimeSetBack:
    """Notices that a clock was set back, by comparing it with the steady clock.

    Args:
        time_ns: the clock.
        tolerance: seconds; smaller corrections do not count, stamps stand still until the clock has caught up.
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
        # Since its newest time it should have advanced as much as the steady clock did.
        distance = back + at - self._at
        if set_back or now > self._newest:
            self._newest, self._at = now, at
        return distance if set_back else 0.0
