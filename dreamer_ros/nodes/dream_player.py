"""Plays a film on the `dream` topic, for viewers on the ROS network."""
from __future__ import annotations

import threading
import time

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image

from dreamer_ros.bridge import codecs, topics
from dreamer_ros.nodes import qos
from dreamer_ros.nodes.runtime import run_node

DRAIN = 1.0  # seconds for the last frames to arrive before the publisher is gone


def play(frames: np.ndarray, fps: float) -> int:
    """Wait for a viewer of `dream` (Ctrl-C ends that), play uint8 [T, H, W, 3] once, return the exit code."""
    return run_node('dream_player', lambda node, stop: _play(node, stop, frames, fps))


def _play(node: Node, stop: threading.Event, frames: np.ndarray, fps: float) -> None:
    publisher = qos.publisher(node, topics.DREAM)
    log = node.get_logger()
    log.info(f'waiting for a viewer of {publisher.topic_name} (rqt_image_view, Foxglove, …)')
    while not publisher.get_subscription_count():
        if stop.wait(0.1):
            return
    log.info(f'playing {len(frames)} frames')
    begin = time.monotonic()
    for number, frame in enumerate(frames):
        message = Image()
        codecs.fill_image(message, frame, node.get_clock().now().nanoseconds, 'dream')
        publisher.publish(message)
        if stop.wait(max(0.0, begin + (number + 1) / fps - time.monotonic())):
            return
    stop.wait(DRAIN)
