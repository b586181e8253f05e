"""What a process knows of the launcher that started it, `dreamer launch` or `ros2 launch`.

Nodes import this module first, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

# Set in the environment of every process that a launcher starts.
VARIABLE = 'DREAMER_ROS_LAUNCH'
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_LAUNCH = os.urandom(16).hex()
# How far nodes see each other, and other variables by which people say so.
DISCOVERY = 'ROS_AUTOMATIC_DISCOVERY_RANGE'
NETWORK = (
    DISCOVERY,
    'ROS_LOCALHOST_ONLY',
    'ROS_STATIC_PEERS',
    'ROS_DISCOVERY_SERVER',
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'CYCLONEDDS_URI',
)


def new_launch() -> str:
    """The launch that this process gives to those that it starts: its process id, and a name that no other has."""
    return f'{os.getpid()}-{_LAUNCH}'


def launch() -> str:
    """The launch this process belongs to, '' if it was started by hand."""
    return os.environ.get(VARIABLE, '')


def local_discovery(environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps a simulation to this computer: two people's /clock and /sim0 on one network must not meet.

    Empty if the environment says anything about the network.
    """
    return {} if any(environment.get(name) for name in NETWORK) else {DISCOVERY: 'LOCALHOST'}


def end_with_parent(number: signal.Signals) -> None:
    """Get this signal when the parent process ends, however it does. Linux only."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), 'prctl', None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, number)


def end_with_launcher() -> None:
    """Get SIGTERM when the launcher ends, however it does: killed, it cannot ask its nodes to stop their robots.

    A process that was started by hand goes on without its shell, as a daemon should.
    """
    process_id = launch().partition('-')[0]
    if not process_id.isdecimal():
        return
    end_with_parent(signal.SIGTERM)
    if not os.path.exists(f'/proc/{process_id}') and os.path.exists('/proc/self'):
        os.kill(os.getpid(), signal.SIGTERM)  # it ended while this process was starting


def torchrun_rank() -> int | None:
    """This process's rank under torchrun; None without it."""
    return int(os.environ['RANK']) if 'TORCHELASTIC_RUN_ID' in os.environ else None
