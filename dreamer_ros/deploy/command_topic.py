"""Who else publishes the command of a robot, and who obeys it, told from the ROS graph."""

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
# Seconds that a killed node may stay in it, with the middleware's usual lease of 20.
GHOST_TIME = 25.0
_GUARD = re.compile(r'/guard_\d+')
# What the middleware calls a node that it knows nothing but an endpoint of, as it does for a moment of every node.
_UNKNOWN = re.compile(r'_NODE_NAME_UNKNOWN_|_CREATED_BY_BARE_DDS_APP_')
# Who listens to commands without obeying them: recorders, and tools such as `ros2 topic echo`, whose nodes are hidden.
_ONLOOKER = re.compile(r'.*/(recorder|rosbag2_recorder\w*|_.*)')


class CommandTopic:
    """The nodes at both ends of a robot's command, beside an agent and its guard.

    A publisher with a name that the agent, its killed predecessor or their guards may have counts only once it has
    been there for longer than the dead are.

    Args:
        node: the agent.
        topic: of the command, by its full name.
        source: of the contract, for people.
        publisher: of the agent.
        own: how many publishers each of the agent's nodes has, by the node's full name.

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
        """Look at the graph, once in a while; what to warn of since the last look."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + LOOK_PERIOD
        return [*self._look_for_publishers(now), *self._look_for_subscribers()]

    def check(self, now: float) -> str:
        """Why nobody obeys, if that is so; for the watchdog."""
        # The middleware matches types and qualities itself, and tells at once of a subscriber that goes in good order.
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
                f'{", ".join(newcomers)} publishes {self._topic.name} too: the robot obeys whoever spoke last, '
                'and what stops this agent stops nobody else'
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
        """What a subscriber asks for and the command does not offer."""
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
    """Of an endpoint's node, in full."""
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
