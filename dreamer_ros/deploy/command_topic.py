"""Watches the ROS graph for other publishers of a robot's command, and for subscribers that obey it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable

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
        self.unheard = self._nobody()

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
        return self.unheard or ('' if self._publisher.get_subscription_count() else self._nobody())

    def _look_for_publishers(self, now: float) -> Iterable[str]:
        publishers = Counter(map(_name, self._node.get_publishers_info_by_topic(self._topic.name)))
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
        before, found = self.unheard, []
        for info in self._node.get_subscriptions_info_by_topic(self._topic.name):
            name = _name(info)
            if _ONLOOKER.fullmatch(name) and not _UNKNOWN.search(name):
                continue
            if info.topic_type != self._topic.type:
                found.append(
                    f'{self._topic.name} has a subscriber of {info.topic_type} ({name}), '
                    f'{self._source} says {self._topic.type}'
                )
                continue
            wanted = self._wanted(info.qos_profile)
            if not wanted:
                found = ['']
                break
            found.append(
                f'{self._topic.name} has a subscriber that asks for {wanted} messages ({name}), which those of '
                f'{self._source} are not'
            )
        self.unheard = found[0] if found else self._nobody()
        if self.unheard and self.unheard != before:
            yield f'{self.unheard}; the robot is not commanded until somebody listens'

    def _wanted(self, profile: QoSProfile) -> str:
        """The quality of service that a subscriber asks for and the command does not offer; '' for none."""
        if profile.reliability == ReliabilityPolicy.RELIABLE and not self._topic.qos.reliable:
            return 'reliable'
        if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and not self._topic.qos.transient_local:
            return 'transient_local'
        return ''

    def _nobody(self) -> str:
        return f'{self._topic.name}: expected a subscriber of {self._topic.type}, found none'

    def _may_be_ours(self, name: str) -> bool:
        return name in self._own or bool(_GUARD.fullmatch(name) or _UNKNOWN.search(name))


def _name(info) -> str:
    """Full name of an endpoint's node."""
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
