"""Replay a bag: its messages on topics, its actions in the simulator, or its steps before a world model."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros replay.launch.py --show-args`."""
    return launch_description('replay')
