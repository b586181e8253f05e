"""Offline trainer node: learns from bags alone, in a process that a launch file can start."""

from __future__ import annotations

import sys
import threading

from rclpy.node import Node

from dreamer_ros.ros.runtime import Parameters, run_node
from dreamer_ros.training import process
from dreamer_ros.training.offline import plan, train


def body(node: Node, stop: threading.Event) -> None:
    """Train until the updates are made or the event is set."""
    parameters = Parameters(node)
    bags = parameters.texts('bags', [''], 'folders of bags or run directories, each DIR or DIR:WEIGHT')
    preset = parameters.text('preset', '', 'preset of models/ by name, or a YAML file')
    logdir = parameters.text('logdir', '', 'run directory; empty for runs/<task>-<preset>-<time>')
    updates = parameters.integer('updates', 0, 'of the run; 0 for as many as the preset makes online', 0, 10**12)
    validation = parameters.number('validation', 0.1, 'share of the episodes that is held out', 0.0, 0.9)
    robot = parameters.text('robot', '', 'contract of the robot, for bags that do not say which it was')
    device = parameters.text('device', 'auto', 'auto, cpu, cuda, cuda:1, …')
    seed = parameters.integer('seed', 0, 'of parameters and sampling', 0, 2**31 - 1)
    overrides = parameters.texts('overrides', [''], 'section.key=value, on top of the preset')
    learners = process.learners(parameters.integer('learners', 1, 'processes that share every update', 1, 64))
    parameters.finish()
    run = plan(
        [text for text in bags if text],
        robot,
        preset,
        logdir,
        updates or None,
        validation,
        [text for text in overrides if text],
    )
    train(run, device, learners, seed, stop)
    node.get_logger().info(f'{"stopped" if stop.is_set() else "finished"}; everything is in {run.folder}')


def main() -> int:
    """Entry point of `ros2 run dreamer_ros offline_trainer`."""
    return run_node('offline_trainer', body)


if __name__ == '__main__':
    sys.exit(main())
