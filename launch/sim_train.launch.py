"""Learn a task in simulation: simulators, agents, recorders and the trainer; then evaluate the policy."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros sim_train.launch.py --show-args`."""
    return launch_description('sim_train')
