"""Makes sure that a topic has one publisher, and that nodes listen to the robot of their own launch.

`TopicLock` gives a topic to one process of a computer. `OnlyPublisher` does the same on the whole network, for the
latched message by which a simulator announces its robot. `Announcements` reads such messages.

Two launches may share a ROS domain until the second simulator finds its namespace taken. Meanwhile the nodes of the
second launch must ignore the first one's robot. So `dreamer launch` and `ros2 launch` give their processes an
identity in the environment, simulators announce it, and nodes ignore robots of other launches. A robot or
node that was started by hand has no identity and is never ignored.
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
from dreamer_ros.ros.first_publisher import FirstPublisher
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.schema import load_json
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import topics
from dreamer_ros.wire.topics import QoS, Topic

KEY = 'launch'
DISCOVERY_TIME = 1.0  # seconds in which DDS usually finds the publishers of the network
CHECK_PERIOD = 1.0  # seconds between two checks for publishers that it found later
# Deeper than a publisher's, so that the announcement of another launch does not push out the awaited one.
LISTENER = QoS(depth=10, transient_local=True)


class TopicTaken(InputError):
    """Another process of this computer holds the topic."""


class TopicLock:
    """Holds a topic of a ROS domain for this process until `close`, or until the process dies.

    It binds the name of an abstract socket, which the kernel gives to one process and frees when that dies. No
    discovery is needed and nothing is left behind. It works within a network namespace, and only on Linux:
    elsewhere it holds nothing.

    Args:
        node: its ROS domain counts.
        topic: full name.
        refusal: sentence of the error for the second process.

    Raises:
        TopicTaken: another process, or another lock of this one, holds it.
    """

    def __init__(self, node: Node, topic: str, refusal: str):
        self._socket: socket.socket | None = None
        if not sys.platform.startswith('linux'):
            return
        # Names of topics may be longer than those of sockets.
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
        """Release the topic."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class OnlyPublisher:
    """Publishes one latched message unless somebody else did so before.

    Two simulators in one namespace would answer each other's actions, so the younger one must end. On one computer a
    lock tells at once. Between computers, DDS delivers a latched message to late subscribers with the time of
    its publication, and only while its publisher lives. So the message tells who was first, and a killed
    simulator, which stays in the ROS graph of others for up to 90 s, does not count.

    Args:
        node: the publisher.
        inbox: of the node's loop, which must name the subscriptions it waits for.
        topic: a latched topic.
        message: the message.

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
        """Check for an older publisher, once a second.

        Raises:
            InputError: one was discovered late.
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
    """The message to publish on `spec`."""
    launch = launcher.launch()
    return String(data=json.dumps({**spec.to_dict(), KEY: launch}) if launch else spec.to_json())


class Announcements:
    """Announcements of robots on `spec`, without those of other launches and of strangers.

    Args:
        inbox: of the node's loop.
        namespace: of the robot, below the node's; '' for the node's own.
    """

    def __init__(self, inbox: Inbox, namespace: str = ''):
        self.subscription = inbox.subscribe(topics.SPEC.below(namespace) if namespace else topics.SPEC, LISTENER)
        self._publisher = FirstPublisher(inbox.node, self.topic)
        self._launch = launcher.launch()

    @property
    def topic(self) -> str:
        """Full name of the topic."""
        return self.subscription.topic_name

    def take(self) -> RobotSpec | None:
        """The newest announcement since the last call, or None.

        Raises:
            InputError: it cannot be read.
        """
        newest = None
        while (taken := self.subscription.take_with_info()) is not None:
            text, launch = _split(taken[0].data)
            ours = not (self._launch and launch) or launch == self._launch
            if ours and self._publisher.accepts(taken[1]):
                newest = text
        return None if newest is None else RobotSpec.from_json(newest, f'topic {self.topic}')


def _split(text: str) -> tuple[str, str | None]:
    """Spec as JSON, and launch, of an announcement. RobotSpec refuses what is not JSON."""
    try:
        data = load_json(text, 'announcement')
        launch = data.pop(KEY, None)
        return json.dumps(data), launch
    except (InputError, AttributeError, TypeError):
        return text, None
