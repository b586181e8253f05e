"""Dream player node: publishes a world model's reconstruction and prediction of an episode on the topic `dream`."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
from pydantic import Field
from rclpy.node import Node
from sensor_msgs.msg import Image

from dreamer_ros import options as shared
from dreamer_ros.options import Options
from dreamer_ros.ros import qos
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.wire import codecs, topics

DRAIN = 1.0  # seconds for the last frames to arrive before the publisher is gone


class DreamPlayerParameters(Options):
    """What can be set of the dream player."""

    run: str = Field(description='Run directory, or one of its checkpoints.')
    bag: shared.EpisodeBag
    context: shared.Context
    output: shared.ResultFolder


def play(frames: np.ndarray, fps: float) -> int:
    """Wait for a viewer of `dream` (Ctrl-C ends that), play uint8 [T, H, W, 3] once, return the exit code."""
    return run_node('dream_player', lambda node, stop: _play(node, stop, frames, fps))


def _dream(node: Node, stop: threading.Event) -> None:
    parameters = read_parameters(node, DreamPlayerParameters)
    from dreamer_ros.training import process

    process.prepare()
    process.configure_torch(process.pick_threads(robots=0))
    from dreamer_ros.training.inspection import dream_bag, inspection_film

    inspection, paths = dream_bag(parameters.run, Path(parameters.bag), parameters.context, Path(parameters.output))
    print('\n'.join(str(path) for path in paths), flush=True)
    if inspection.film is not None:
        _play(node, stop, inspection_film(inspection), 1.0 / inspection.period)


def main() -> int:
    """Entry point of `ros2 run dreamer_ros dream_player`."""
    return run_node('dream_player', _dream)


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


if __name__ == '__main__':
    sys.exit(main())
