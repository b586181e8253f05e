"""Resimulator node: simulates a recorded episode again, and fails if the result differs."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field
from rclpy.node import Node

from dreamer_ros import options as shared
from dreamer_ros.options import Options
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.viewing.resimulation import resimulate


class ResimulatorParameters(Options):
    """What can be set of the resimulator."""

    bag: shared.EpisodeBag
    task: str = Field('', description='Path of the task file, if it has moved since the recording.')
    output: shared.ResultFolder


def _run(node: Node, _stop) -> int:
    parameters = read_parameters(node, ResimulatorParameters)
    result = resimulate(Path(parameters.bag), parameters.task or None)
    print(result.report())
    print(result.write(Path(parameters.output)), flush=True)
    return 0 if result.exact else 1


def main() -> int:
    """Entry point of `ros2 run dreamer_ros resimulator`; exit code 1 if the episode differs."""
    return run_node('resimulator', _run)


if __name__ == '__main__':
    sys.exit(main())
