"""Watches the ROS graph for other publishers of a robot's command, and for subscribers that obey it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dreamer_ros.wire.topics import Topic

LOOK_PERIOD = 1.0  # seconds between two looks at the ROS graph
# Seconds for which a killed node may stay in the graph: the middleware's usual lease of 20, and some more.
GHOST_TIME = 25.0
_GUARD = re.compile(r'/guard_\d+')
# The middleware's names for a node of which it has seen only an endpoint, as happens briefly with every node.
_UNKNOWN = re.compile(r'_NODE_NAME_UNKNOWN_|_CREATED_BY_BARE_DDS_APP_')
# Subscribers that do not obey: recorders, and the hidden nodes of tools such as `ros2 topic echo`.
_ONLOOKER = re.compile(r'.*/(recorder|rosbag2_recorder\w*|_.*)')


class CommandTopic:
    """The other publishers of a robot's command, and its subscribers.

    A publisher whose name could be that of this agent, its killed predecessor or one of their guards counts only
    after `GHOST_TIME`.

    Args:
        node: the agent.
        topic: the command, by its full name.
        source: name of the contract, for messages.
        publisher: the agent's.
        own: number of publishers of each of the agent's nodes, by the node's full name.

    Attributes:
        others: names of the other publishers.
        unheard: one sentence about why nobody obeys; '' if somebody does.
    """

    def __init__(self, node: Node, topic: Topic, source: str, publisher: Publisher, own: dict[str, int]):
        self._node, self._topic, self._source, self._publisher, self._own = node, topic, source, publisher, own
        self._since: dict[str, float] = {}
        self._next = 0.0
        self.others: tuple[str, ...] = ()
        self.unheard = _nobody(topic)

    def look(self) -> list[str]:
        """Look at the graph, at most once per `LOOK_PERIOD`; returns new warnings."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + LOOK_PERIOD
        return [*self._look_for_publishers(now), *self._look_for_subscribers()]

    def check(self, now: float) -> str:
        """Why nobody obeys; '' if somebody does. For the watchdog."""
        # The middleware itself matches types and QoS, and reports at once when a subscriber leaves.
        return self.unheard or ('' if self._publisher.get_subscription_count() else _nobody(self._topic))

    def _look_for_publishers(self, now: float) -> Iterable[str]:
        publishers = Counter(map(node_name, self._node.get_publishers_info_by_topic(self._topic.name)))
        publishers.subtract(self._own)
        self._since = {name: self._since.get(name, now) for name, count in publishers.items() if count > 0}
        before = self.others
        self.others = tuple(
            sorted(
                name for name, since in self._since.items() if now - since > GHOST_TIME or not self._may_be_ours(name)
            )
        )
        newcomers = [name for name in self.others if name not in before]
        if newcomers:
            yield (
                f'{", ".join(newcomers)} publishes {self._topic.name} too: the robot obeys the newest message, '
                'and nothing that stops this agent stops the others'
            )

    def _look_for_subscribers(self) -> Iterable[str]:
        before, self.unheard = self.unheard, find_obeying(self._node, self._topic, self._source).why
        if self.unheard and self.unheard != before:
            yield f'{self.unheard}; the robot is not commanded until somebody listens'

    def _may_be_ours(self, name: str) -> bool:
        return name in self._own or bool(_GUARD.fullmatch(name) or _UNKNOWN.search(name))


class Obeying(NamedTuple):
    """Who obeys a command.

    Attributes:
        nodes: full names of the subscribers that do.
        key: of the contract's command, that does not fit the others: topic, type or qos.
        why: one sentence about why nobody obeys; '' if somebody does.
    """

    nodes: tuple[str, ...]
    key: str = ''
    why: str = ''


def find_obeying(node: Node, topic: Topic, source: str) -> Obeying:
    """Look in the graph for subscribers that obey a command.

    Args:
        node: any.
        topic: the command, by its full name.
        source: name of the contract, for the sentence.
    """
    found, others = [], []
    for info in node.get_subscriptions_info_by_topic(topic.name):
        name = node_name(info)
        if is_onlooker(name):
            continue
        if info.topic_type != topic.type:
            others.append(
                Obeying(
                    (),
                    'type',
                    f'{topic.name} has a subscriber of {info.topic_type} ({name}), {source} says {topic.type}',
                )
            )
        elif wanted := _wanted(info.qos_profile, topic):
            asks = f'{topic.name} has a subscriber that asks for {wanted} messages ({name})'
            others.append(Obeying((), 'qos', f'{asks}, which those of {source} are not'))
        else:
            found.append(name)
    if found:
        return Obeying(tuple(found))
    return others[0] if others else Obeying((), 'topic', _nobody(topic))


def node_name(info) -> str:
    """Full name of an endpoint's node."""
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def is_onlooker(name: str) -> bool:
    """Whether a node does not obey what it subscribes, to judge by its name."""
    return bool(_ONLOOKER.fullmatch(name)) and not _UNKNOWN.search(name)


def _wanted(profile: QoSProfile, topic: Topic) -> str:
    """The quality of service that a subscriber asks for and the command does not offer; '' for none."""
    if profile.reliability == ReliabilityPolicy.RELIABLE and not topic.qos.reliable:
        return 'reliable'
    if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and not topic.qos.transient_local:
        return 'transient_local'
    return ''


def _nobody(topic: Topic) -> str:
    return f'{topic.name}: expected a subscriber of {topic.type}, found none'
