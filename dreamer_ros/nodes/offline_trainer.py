"""Offline trainer node: learns from bags alone, in a process that a launch file can start."""

from __future__ import annotations

import sys
import threading

from rclpy.node import Node

from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.training.offline import OfflineOptions, plan, train_from_bags

OfflineTrainerParameters = OfflineOptions  # the name that `dreamer reference` looks for


def body(node: Node, stop: threading.Event) -> None:
    """Train until the updates are made or the event is set."""
    run = plan(read_parameters(node, OfflineTrainerParameters))
    train_from_bags(run, stop)
    node.get_logger().info(f'{"stopped" if stop.is_set() else "finished"}; everything is in {run.folder}')


def main() -> int:
    """Entry point of `ros2 run dreamer_ros offline_trainer`."""
    return run_node('offline_trainer', body)


if __name__ == '__main__':
    sys.exit(main())
