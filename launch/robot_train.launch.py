"""Learn on a robot: it acts and records, a trainer, here or on another computer, learns and sends policies."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros robot_train.launch.py --show-args`."""
    return launch_description('robot_train')
