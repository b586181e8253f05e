"""Offline trainer node: learns from bags alone, in a process that a launch file can start."""

from __future__ import annotations

import sys
import threading

from rclpy.node import Node

from dreamer_ros import options as shared
from dreamer_ros.options import Options
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.training import process
from dreamer_ros.training.offline import plan
from dreamer_ros.training.session import train_from_bags


class OfflineTrainerParameters(Options):
    """What can be set of the offline trainer."""

    bags: shared.Bags
    preset: shared.Preset
    overrides: shared.Overrides
    logdir: shared.Logdir
    updates: shared.Updates
    validation: shared.Validation
    robot: shared.BagContract
    seed: shared.Seed
    device: shared.Device
    learners: shared.Learners


def body(node: Node, stop: threading.Event) -> None:
    """Train until the updates are made or the event is set."""
    parameters = read_parameters(node, OfflineTrainerParameters)
    run = plan(
        parameters.bags,
        parameters.robot,
        parameters.preset,
        parameters.logdir,
        parameters.updates,
        parameters.validation,
        parameters.overrides,
    )
    train_from_bags(run, parameters.device, process.learners(parameters.learners), parameters.seed, stop)
    node.get_logger().info(f'{"stopped" if stop.is_set() else "finished"}; everything is in {run.folder}')


def main() -> int:
    """Entry point of `ros2 run dreamer_ros offline_trainer`."""
    return run_node('offline_trainer', body)


if __name__ == '__main__':
    sys.exit(main())
