"""Record robots into episode bags."""
from dreamer_ros.ros_launch import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros record.launch.py --show-args`."""
    return launch_description('record')
