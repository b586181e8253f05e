"""Two simulators on one namespace would answer each other's actions: the second one must not start."""
from __future__ import annotations

import time
from typing import Set, Tuple

from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher

from dreamer_ros.bridge.topics import Topic
from dreamer_ros.errors import InputError
from dreamer_ros.nodes import qos

DISCOVERY_TIME = 1.0  # seconds until every publisher of the network is surely known
ANSWER_TIME = 2.0     # seconds within which a living node answers a parameter request
TIE_TIME = 0.3        # seconds for two nodes that start at the same moment to see each other
ADVICE = 'give each simulator a namespace of its own'


def publish_alone(node: Node, topic: Topic) -> Publisher:
    """Become the only publisher of a topic.

    Args:
        node: must not be spinning yet.

    Raises:
        InputError: somebody alive publishes there, or began at the same moment and has the lower GID.
    """
    _refuse_if_taken(topic)
    before = _publishers(node, topic)
    publisher = qos.publisher(node, topic)
    mine = _publishers(node, topic) - before
    time.sleep(TIE_TIME)
    rivals = _publishers(node, topic) - before - mine
    if rivals and min(rivals) < min(mine):
        raise InputError(f'topic {publisher.topic_name}: expected no other publisher, but another one started at '
                         f'the same time; {ADVICE}')
    return publisher


def _publishers(node: Node, topic: Topic) -> Set[Tuple[int, ...]]:
    return {tuple(endpoint.endpoint_gid) for endpoint in node.get_publishers_info_by_topic(topic.name)}


def _refuse_if_taken(topic: Topic) -> None:
    """Raise InputError if a living node publishes the topic.

    A node that was killed stays in the graph for up to 20 s (its DDS lease). So every publisher found is asked
    for a parameter, which each ROS node answers: one that stays silent is gone.
    """
    # A node beside the real one, in its namespace, that does not answer the question it asks.
    probe = Node('probe', start_parameter_services=False, enable_rosout=False)
    executor = SingleThreadedExecutor()
    executor.add_node(probe)
    try:
        time.sleep(DISCOVERY_TIME)
        found = probe.get_publishers_info_by_topic(topic.name)
        names = {f'{endpoint.node_namespace.rstrip("/")}/{endpoint.node_name}' for endpoint in found}
        clients = {name: probe.create_client(GetParameters, f'{name}/get_parameters') for name in names}
        answers = {}
        deadline = time.monotonic() + ANSWER_TIME
        while clients and time.monotonic() < deadline:
            for name, client in clients.items():
                if name not in answers and client.service_is_ready():
                    answers[name] = client.call_async(GetParameters.Request(names=['use_sim_time']))
            executor.spin_once(timeout_sec=0.05)
            for name, answer in answers.items():
                if answer.done():
                    raise InputError(
                        f'topic {probe.resolve_topic_name(topic.name)}: expected no other publisher, but {name} is '
                        f'running and publishes there; {ADVICE}')
    finally:
        executor.shutdown()
        probe.destroy_node()
