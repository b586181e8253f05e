"""Claims a topic for one process of a computer, so that no second one speaks there."""

from __future__ import annotations

import errno
import hashlib
import socket
import sys

from rclpy.node import Node

from dreamer_ros.errors import InputError


class Claimed(InputError):
    """Another process of this computer holds the topic."""


class Claim:
    """Holds a topic of a ROS domain for this process until `close`, or until it dies in whatever way.

    The kernel gives the name of an abstract socket away once, at once, and frees it with its process; nothing has to
    be discovered, and nothing is left behind. It reaches as far as the computer's network namespace. Systems other
    than Linux have no such names: there it holds nothing.

    Args:
        node: whose domain is meant.
        topic: by its full name.
        refusal: one sentence for whoever comes second.

    Raises:
        Claimed: another process, or another claim of this one, holds it.
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
            raise Claimed(refusal) from None

    def close(self) -> None:
        """Let others have it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
