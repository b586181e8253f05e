"""File server node: shows a robot's episodes to its trainer, or a trainer's policies to its robots, on a network."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from rclpy.node import Node

from dreamer_ros.errors import InputError
from dreamer_ros.ros import diagnostics
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.runtime import Parameters, run_node
from dreamer_ros.transfer.serving import FileServer, Shelf

LOCAL = '127.0.0.1'


def body(node: Node, stop: threading.Event) -> None:
    """Serve until the event is set."""
    parameters = Parameters(node)
    bags = parameters.text('bags', '', 'folder of episode bags to show; empty for none')
    policies = parameters.text('policies', '', "folder of a run's policies to show; empty for none")
    address = parameters.text(
        'address', LOCAL, 'of this computer, to listen at; 0.0.0.0: at all of them; 127.0.0.1: for this computer alone'
    )
    port = parameters.integer('port', 8075, 'to listen at; 0 picks one', 0, 65535)
    parameters.finish()
    if not (bags or policies):
        raise InputError(f'{node.get_fully_qualified_name()}: expected bags or policies, folders to show')
    server = FileServer(Shelf(_folder(bags), _folder(policies)), address, port)
    what = ' and '.join(name for name, folder in (('episode bags', bags), ('policies', policies)) if folder)
    whom = 'this computer alone' if address == LOCAL else 'everybody who reaches this port'
    node.get_logger().info(f'http://{address}:{server.port}: {what} can be read by {whom}; nothing can be written')
    inbox = Inbox(node)
    report = Diagnostics(
        node,
        'files',
        what,
        lambda: (diagnostics.OK, f'listening at {address}:{server.port}', {'requests': server.requests}),
    )
    try:
        while not stop.is_set():
            inbox.wait(0.1)
            report.tick()
    finally:
        server.close()


def _folder(text: str):
    return Path(text).expanduser() if text else None


def main() -> int:
    """Entry point of `ros2 run dreamer_ros file_server`."""
    return run_node('file_server', body)


if __name__ == '__main__':
    sys.exit(main())
