"""Tells the publisher of a topic from strangers that publish there too."""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node

LOOK_PERIOD = 0.5  # seconds between two looks at the ROS graph
# Seconds of silence after which one of the same name takes over: a killed node stays in the graph for up to 90 s.
SILENCE = 2.0
STRANGERS = 100  # that are named
UNKNOWN = '_NODE_NAME_UNKNOWN_'  # rmw's name of a node that the graph does not know yet


class FirstPublisher:
    """Accepts the messages of one publisher, the first that is heard, and warns once of each other one.

    Another one takes over when the first has left the ROS graph, or when it has the same name and the first is silent,
    as after a restart. A node that has just started counts as of that name until the graph tells its own. A middleware
    that does not say who published a message has all of them accepted.

    Args:
        node: the subscriber.
        topic: full name.
    """

    def __init__(self, node: Node, topic: str):
        self._node, self._topic = node, topic
        self._first: bytes | None = None
        self._heard = self._next_look = 0.0  # monotonic seconds
        self._strangers: set[bytes] = set()

    def accepts(self, info: Any) -> bool:
        """Whether a message counts. `info` is what came with it from the middleware."""
        gid = (info.get('publisher_gid') or {}).get('data')
        now = time.monotonic()
        if gid is None:
            return True
        if gid == self._first or self._first is None or self._takes_over(gid, now):
            self._first, self._heard = gid, now
            return True
        return False

    def _takes_over(self, gid: bytes, now: float) -> bool:
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_PERIOD
        names = {
            bytes(info.endpoint_gid): f'{info.node_namespace.rstrip("/")}/{info.node_name}'
            for info in self._node.get_publishers_info_by_topic(self._topic)
        }
        if self._first not in names:
            return True
        first, name = names[self._first], names.get(gid, UNKNOWN)
        if (name == first or UNKNOWN in name) and now - self._heard > SILENCE:
            return True
        if UNKNOWN in name:
            return False
        if gid not in self._strangers and len(self._strangers) < STRANGERS:
            self._strangers.add(gid)
            self._node.get_logger().warning(
                f'{self._topic}: ignored what {name} publishes, because {first} was heard there first'
            )
        return False
