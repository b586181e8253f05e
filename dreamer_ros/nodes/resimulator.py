"""Resimulator node: simulates a recorded episode once more, and fails where it comes out otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

from rclpy.node import Node

from dreamer_ros.ros.runtime import Parameters, run_node
from dreamer_ros.viewing.resimulation import resimulate


def _run(node: Node, _stop) -> int:
    parameters = Parameters(node)
    bag = parameters.text('bag', '', 'of one episode of a simulator')
    task = parameters.text('task', '', 'instead of the recorded one, a task file that has moved')
    output = parameters.text('output', '', 'folder for resimulation.json')
    parameters.finish()
    result = resimulate(Path(bag), task or None)
    print(result.report())
    print(result.write(Path(output)), flush=True)
    return 0 if result.exact else 1


def main() -> int:
    """Entry point of `ros2 run dreamer_ros resimulator`; exit code 1 if the episode departs."""
    return run_node('resimulator', _run)


if __name__ == '__main__':
    sys.exit(main())
