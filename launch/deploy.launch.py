"""Play a policy on a robot through its contract, or on a simulated one."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros deploy.launch.py --show-args`."""
    return launch_description('deploy')
