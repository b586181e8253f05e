"""Publishers and subscriptions from the rows of the topic table."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from dreamer_ros.ros.interfaces import interface
from dreamer_ros.wire.topics import QoS, Topic


def profile(qos: QoS) -> QoSProfile:
    """The rclpy profile of a topic's quality of service."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.transient_local else DurabilityPolicy.VOLATILE,
    )


def message_type(topic: Topic) -> Any:
    """The message class of a topic: `sensor_msgs/msg/Image` → sensor_msgs.msg.Image.

    Raises:
        InputError: its package is not installed.
    """
    return interface(topic.type, f'topic {topic.name}')


def publisher(node: Node, topic: Topic) -> Publisher:
    """A publisher with the type and quality of service of the topic table."""
    return node.create_publisher(message_type(topic), topic.name, profile(topic.qos))
