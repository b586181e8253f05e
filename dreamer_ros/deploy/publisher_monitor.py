"""Who else publishes the command of a robot: a teleoperator, a mux, an agent on another computer."""

from __future__ import annotations

import re
import time
from collections import Counter

from rclpy.node import Node

LOOK_PERIOD = 1.0  # seconds between two looks at the ROS graph
# Seconds that a killed node may stay in it, with the middleware's usual lease of 20.
GHOST_TIME = 25.0
_GUARD = re.compile(r'/guard_\d+')
# What the middleware calls a node that it knows nothing but a publisher of, as it does for a moment of every node.
_UNKNOWN = re.compile(r'_NODE_NAME_UNKNOWN_|_CREATED_BY_BARE_DDS_APP_')


class OtherPublishers:
    """Names of the nodes that publish a topic beside an agent and its guard.

    A name that the agent, its killed predecessor or their guards may have counts only once it has been there for
    longer than the dead are.

    Args:
        node: the agent.
        topic: by its full name.
        own: how many publishers of it each of the agent's nodes has, by the node's full name.
    """

    def __init__(self, node: Node, topic: str, own: dict[str, int]):
        self._node, self._topic, self._own = node, topic, own
        self._since: dict[str, float] = {}
        self._next = 0.0
        self.names: tuple[str, ...] = ()

    def look(self) -> tuple[str, ...]:
        """Look at the graph, once in a while; the names that are new since the last look."""
        now = time.monotonic()
        if now < self._next:
            return ()
        self._next = now + LOOK_PERIOD
        publishers = Counter(
            f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            for info in self._node.get_publishers_info_by_topic(self._topic)
        )
        publishers.subtract(self._own)
        self._since = {name: self._since.get(name, now) for name, count in publishers.items() if count > 0}
        before = self.names
        self.names = tuple(
            sorted(
                name for name, since in self._since.items() if now - since > GHOST_TIME or not self._may_be_ours(name)
            )
        )
        return tuple(name for name in self.names if name not in before)

    def _may_be_ours(self, name: str) -> bool:
        return name in self._own or bool(_GUARD.fullmatch(name) or _UNKNOWN.search(name))
