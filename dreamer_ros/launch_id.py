"""Which launch a process belongs to: all that one `dreamer launch` or `ros2 launch` starts."""

from __future__ import annotations

import os
import uuid

# Set in the environment of every process that a launch starts.
VARIABLE = 'DREAMER_ROS_LAUNCH'
# What this process gives to those that it starts.
NEW = uuid.uuid4().hex


def launch() -> str:
    """The launch this process belongs to, '' if it was started by hand."""
    return os.environ.get(VARIABLE, '')
