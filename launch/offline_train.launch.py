"""Learn from bags alone, without a simulator; `sim_train.launch.py logdir:=…` goes on from there."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros offline_train.launch.py --show-args`."""
    return launch_description('offline_train')
