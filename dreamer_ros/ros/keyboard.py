"""A person at a keyboard calls the services of a robot agent, each by one key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import Thread
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from dreamer_ros.errors import InputError
from dreamer_ros.ros.service_call import DISCOVERY_TIME, KINDS

# By key: the agent's service, the value that it is called with, and its type.
KEYS: dict[str, tuple[str, str | None, str]] = {
    's': ('succeed', None, 'Trigger'),
    'f': ('fail', None, 'Trigger'),
    'e': ('end_episode', None, 'Trigger'),
    'r': ('ready', None, 'Trigger'),
    ' ': ('enable', 'false', 'SetBool'),
    'g': ('enable', 'true', 'SetBool'),
}
HELP = 's success  f failure  e end of the episode  r ready: set up again  space stop  g go on  q end'


def press(agent: str, keys: Iterable[str], say: Callable[[str], Any]) -> None:
    """Call a service for each key until `q`. Answers are said as they come; a key does not wait for them.

    Raises:
        InputError: there is no such agent.
    """
    rclpy.init()
    node = Node('keyboard', enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    clients: dict[str, Any] = {
        name: node.create_client(KINDS[kind][0], f'{agent}/{name}') for name, _, kind in KEYS.values()
    }
    try:
        if not clients['succeed'].wait_for_service(DISCOVERY_TIME):
            raise InputError(f'agent {agent}: expected a robot agent that is running, found none')
        Thread(target=_spin, args=(executor,), daemon=True).start()
        say(HELP)
        for key in keys:
            if key == 'q':
                return
            if key in KEYS:
                name, value, kind = KEYS[key]
                clients[name].call_async(KINDS[kind][1][value]).add_done_callback(partial(_say, say, name))
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        pass


def _say(say: Callable[[str], Any], name: str, answer: Any) -> None:
    result = answer.result()
    say(f'{name}: {result.message or ("done" if result.success else "it said no")}')
