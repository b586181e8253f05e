"""File server node: serves a robot's episodes to its trainer, or a trainer's policies to its robots."""

from __future__ import annotations

import sys
import threading

from pydantic import Field
from rclpy.node import Node

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.options import Options
from dreamer_ros.ros import diagnostics
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.run_key import VARIABLE, given_key
from dreamer_ros.transfer.serving import FileServer, Shelf

LOCAL = '127.0.0.1'


class FileServerParameters(Options):
    """What can be set of the file server."""

    bags: str = Field('', description='Folder of episode bags to serve. Default: none.')
    policies: str = Field('', description="Folder of a run's policies to serve. Default: none.")
    address: shared.Address
    trust: shared.Trust
    port: int = Field(8075, ge=0, le=65535, description='Port to listen at. 0: any free one.')


def body(node: Node, stop: threading.Event) -> None:
    """Serve until the event is set."""
    parameters = read_parameters(node, FileServerParameters)
    bags, policies, address = parameters.bags, parameters.policies, parameters.address
    if not (bags or policies):
        raise InputError(f'{node.get_fully_qualified_name()}: expected a folder of bags or policies to serve')
    key = given_key() if parameters.trust == 'key' and address != LOCAL else None
    if key is None and parameters.trust == 'key' and address != LOCAL:
        raise InputError(
            f'{node.get_fully_qualified_name()}: expected the file of a key in {VARIABLE}, since {address} is not this '
            'computer alone, or trust:=lan'
        )
    server = FileServer(Shelf(_folder(bags), _folder(policies)), address, parameters.port, key.token if key else '')
    what = ' and '.join(name for name, folder in (('episode bags', bags), ('policies', policies)) if folder)
    others = f'whoever has the key {key.path}' if key else 'everybody who reaches this port'
    whom = 'this computer only' if address == LOCAL else others
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
    return user_path(text) if text else None


def main() -> int:
    """Entry point of `ros2 run dreamer_ros file_server`."""
    return run_node('file_server', body)


if __name__ == '__main__':
    sys.exit(main())
