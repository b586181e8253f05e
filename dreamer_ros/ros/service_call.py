"""Calls a service of a running node, for machines without the `ros2` command."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from dreamer_ros.errors import InputError
from dreamer_ros.ros.runtime import start_ros

DISCOVERY_TIME, ANSWER_TIME = 5.0, 60.0  # seconds
TRANSITIONS = {'configure': 1, 'cleanup': 2, 'activate': 3, 'deactivate': 4}  # lifecycle_msgs/msg/Transition
# By the name of a service's type: the type, and its request for each value.
KINDS: dict[str, tuple[Any, dict[str | None, Any]]] = {
    'Trigger': (Trigger, {None: Trigger.Request()}),
    'SetBool': (SetBool, {'true': SetBool.Request(data=True), 'false': SetBool.Request(data=False)}),
    'ChangeState': (
        ChangeState,
        {name: ChangeState.Request(transition=Transition(id=number)) for name, number in TRANSITIONS.items()},
    ),
}


def call(service: str, value: str | None) -> str:
    """Call a service and return its answer.

    Args:
        service: full name, of type Trigger, SetBool or ChangeState (lifecycle).
        value: `true` or `false` for SetBool, a transition for ChangeState, None for Trigger.

    Raises:
        InputError: nobody offers the service, it takes another value, it refuses, or no answer comes.
    """
    start_ros()
    node = Node('service_call', enable_rosout=False, start_parameter_services=False)
    try:
        kind, requests = KINDS[_kind(node, service)]
        if value not in requests:
            expected = ' or '.join(word for word in requests if word) or 'no value'
            raise InputError(f'service {service}: expected {expected}, got {value or "nothing"}')
        client: Any = node.create_client(kind, service)
        if not client.wait_for_service(DISCOVERY_TIME):
            raise InputError(f'service {service}: expected a node that offers it, found none')
        answer = client.call_async(requests[value])
        rclpy.spin_until_future_complete(node, answer, timeout_sec=ANSWER_TIME)
        if not answer.done():
            raise InputError(f'service {service}: expected an answer within {ANSWER_TIME:.0f} s, got none')
        result = answer.result()
        message = getattr(result, 'message', '') or ('done' if result.success else 'it said no')
        if not result.success:
            raise InputError(f'service {service}: expected success, got {message}')
        return message
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _kind(node: Node, service: str) -> str:
    deadline = time.monotonic() + DISCOVERY_TIME
    while time.monotonic() < deadline:
        for name, types in node.get_service_names_and_types():
            if name == service:
                kind = types[0].rpartition('/')[2]
                if kind not in KINDS:
                    raise InputError(f'service {service}: expected type {" or ".join(KINDS)}, got {types[0]}')
                return kind
        time.sleep(0.05)
    raise InputError(f'service {service}: expected a node that offers it, found none within {DISCOVERY_TIME:.0f} s')
