"""Play a policy in simulation and score it: simulator, agent, recorder and evaluator."""

from dreamer_ros.launching.ros2 import launch_description


def generate_launch_description():
    """See `ros2 launch dreamer_ros sim_eval.launch.py --show-args`."""
    return launch_description('sim_eval')
