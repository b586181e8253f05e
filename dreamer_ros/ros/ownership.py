"""Who owns a topic: the one process that may speak there, and the robot that a namespace belongs to.

`TopicLock` gives a topic to one process of a computer. `OnlyPublisher` does the same on the whole network, for the
latched message by which a simulator announces its robot. `Announcements` reads such messages.

Two launches may share a ROS domain for a while: the simulator of the second one has to find out that the namespace
is taken. Until it does, no node of the second launch may listen to the first one's robot, let alone answer it. So
`dreamer launch` and `ros2 launch` give their processes an identity by the environment, simulators send it along, and
a node that has one ignores the robots of other launches. A robot or a node started by hand has none and meets
everybody.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import socket
import sys
import time
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from dreamer_ros import launcher
from dreamer_ros.errors import InputError
from dreamer_ros.ros import qos
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.schema import load_json
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import topics
from dreamer_ros.wire.topics import QoS, Topic

KEY = 'launch'
DISCOVERY_TIME = 1.0  # seconds within which DDS mostly has found the publishers of the network
CHECK_PERIOD = 1.0  # seconds between two looks for one that it found later
# Deeper than a publisher's: the announcement of a stranger must not push out the one that is waited for.
LISTENER = QoS(depth=10, transient_local=True)


class TopicTaken(InputError):
    """Another process of this computer holds the topic."""


class TopicLock:
    """Holds a topic of a ROS domain for this process until `close`, or until it dies in whatever way.

    The kernel gives the name of an abstract socket away once, at once, and frees it with its process. Nothing has to
    be discovered, and nothing is left behind. It reaches as far as the computer's network namespace. Systems other
    than Linux have no such names: there it holds nothing.

    Args:
        node: whose domain is meant.
        topic: by its full name.
        refusal: one sentence for whoever comes second.

    Raises:
        TopicTaken: another process, or another lock of this one, holds it.
    """

    def __init__(self, node: Node, topic: str, refusal: str):
        self._socket: socket.socket | None = None
        if not sys.platform.startswith('linux'):
            return
        # Names of sockets are shorter than those of topics may be.
        name = hashlib.sha256(f'{node.context.get_domain_id()} {topic}'.encode()).hexdigest()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(f'\0dreamer_ros/{name}')
        except OSError as error:
            self.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise TopicTaken(refusal) from None

    def close(self) -> None:
        """Let others have it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class OnlyPublisher:
    """Publishes one latched message for as long as nobody else has done so before.

    Two simulators in one namespace would answer each other's actions: the younger one must end. On one computer a
    lock tells at once. Between computers, DDS delivers a latched message to whoever comes later, stamped with the
    time of its publication, and only while its publisher lives. So the message itself tells who was first, and a
    killed simulator, which stays in the ROS graph of other processes for up to 90 s, does not count.

    Args:
        node: that publishes.
        inbox: of its loop, which must name the subscriptions it waits for.
        topic: latched.
        message: of that topic.

    Raises:
        InputError: somebody publishes there already.
    """

    def __init__(self, node: Node, inbox: Inbox, topic: Topic, message: Any):
        self._messages = inbox.subscribe(topic, LISTENER)
        self._lock = TopicLock(node, self._messages.topic_name, self._refusal('of this computer publishes there'))
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
        while (taken := self._messages.take_with_info()) is not None:
            published = taken[1]['source_timestamp']
            if published < self._published:
                since = time.strftime('%H:%M:%S', time.localtime(published / 1e9))
                raise InputError(self._refusal(f'publishes there since {since}'))

    def _refusal(self, publisher: str) -> str:
        return (
            f'topic {self._messages.topic_name}: expected no other publisher, but a simulator {publisher}; '
            'give each simulator a namespace of its own, each run a ROS_DOMAIN_ID'
        )


def announcement(spec: RobotSpec) -> String:
    """What to publish on `spec`."""
    launch = launcher.launch()
    return String(data=json.dumps({**spec.to_dict(), KEY: launch}) if launch else spec.to_json())


class Announcements:
    """The robots that announce themselves on `spec` of a namespace, those of other launches left out.

    Args:
        inbox: of the node's loop.
        namespace: of the robot; '' for the node's own.
    """

    def __init__(self, inbox: Inbox, namespace: str = ''):
        self.subscription = inbox.subscribe(topics.SPEC.within(namespace) if namespace else topics.SPEC, LISTENER)
        self._launch = launcher.launch()

    @property
    def topic(self) -> str:
        """Full name of the topic."""
        return self.subscription.topic_name

    def take(self) -> RobotSpec | None:
        """The newest announcement that was not taken yet, or None.

        Raises:
            InputError: it cannot be read.
        """
        newest = None
        while (message := self.subscription.take()) is not None:
            text, launch = _split(message.data)
            if not (self._launch and launch) or launch == self._launch:
                newest = text
        return None if newest is None else RobotSpec.from_json(newest, f'topic {self.topic}')


def _split(text: str) -> tuple[str, str | None]:
    """Spec as JSON, and launch, of an announcement. What is no JSON is left to RobotSpec to refuse."""
    try:
        data = load_json(text, 'announcement')
        launch = data.pop(KEY, None)
        return json.dumps(data), launch
    except (InputError, AttributeError, TypeError):
        return text, None
