"""Two simulators on one namespace would answer each other's actions: the younger one must end."""

from __future__ import annotations

import math
import time
from typing import Any

from rclpy.node import Node

from dreamer_ros.errors import InputError
from dreamer_ros.ros import qos
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.topic_lock import Claim
from dreamer_ros.wire.topics import QoS, Topic

DISCOVERY_TIME = 1.0  # seconds within which DDS mostly has found the publishers of the network; 3 if packets get lost
CHECK_PERIOD = 1.0  # seconds between two looks for one that it found later
LISTENER = QoS(reliable=True, transient_local=True, depth=10)


class OnlyPublisher:
    """Publishes one latched message for as long as nobody else has done so before.

    On one computer a claim of the topic tells at once. Between computers, DDS delivers a latched message to whoever
    comes later, stamped with the time of its publication, and only while its publisher lives: so the message itself
    tells who was first, and a killed simulator, which stays in the ROS graph for up to 20 s, does not count.

    Args:
        node: that publishes.
        inbox: of its loop, which must name the subscriptions it waits for.
        topic: latched.
        message: of that topic.

    Raises:
        InputError: somebody publishes there already.
    """

    def __init__(self, node: Node, inbox: Inbox, topic: Topic, message: Any):
        self._inbox = inbox
        self._messages = inbox.subscribe(topic, LISTENER)
        self._claim = Claim(node, self._messages.topic_name, self._refusal('of this computer publishes there'))
        self._published = math.inf
        end = time.monotonic() + DISCOVERY_TIME
        while (now := time.monotonic()) < end:
            inbox.wait(end - now, self._messages)
            self._refuse_second_place()
        self._published = time.time_ns()
        self._publisher = qos.publisher(node, topic)
        self._publisher.publish(message)
        self._next_check = 0.0

    def tick(self) -> None:
        """Look for an older publisher, once a second.

        Raises:
            InputError: there is one, discovered late.
        """
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_PERIOD
            self._refuse_second_place()

    def _refuse_second_place(self) -> None:
        while (published := self._inbox.take_publication_time(self._messages)) is not None:
            if published < self._published:
                since = time.strftime('%H:%M:%S', time.localtime(published / 1e9))
                raise InputError(self._refusal(f'publishes there since {since}'))

    def _refusal(self, publisher: str) -> str:
        return (
            f'topic {self._messages.topic_name}: expected no other publisher, but a simulator {publisher}; '
            'give each simulator a namespace of its own, each run a ROS_DOMAIN_ID'
        )
