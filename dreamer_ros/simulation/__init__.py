"""MuJoCo environments seen through a camera: the dm_control suite and the worlds in `sim/`."""

from dreamer_ros.simulation.environment import (
    VISUAL_TASKS,
    Environment,
    Observation,
    make,
    robot_spec,
    task_files,
    task_name,
    task_names,
)

__all__ = ['VISUAL_TASKS', 'Environment', 'Observation', 'make', 'robot_spec', 'task_files', 'task_name', 'task_names']
