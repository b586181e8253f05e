"""Record robots into episode bags."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros record.launch.py --show-args`."""
    return launch_description('record')
