"""Real-time priority for what commands a robot: it runs as soon as it has to, whatever else the computer computes.

Needs Linux and a limit that allows it: root, or `rtprio` in /etc/security/limits.conf (systemd: LimitRTPRIO).
"""

from __future__ import annotations

import os

# Below the kernel's interrupt threads and ros2_control's controller manager (50), above every ordinary process.
# Among equals nobody gives way: what must not wait for the loading of a policy stands above it.
PROCESS, CONTROL, WATCHDOG, GUARD = 40, 41, 42, 43


def take_priority(priority: int) -> bool:
    """Put this process, and the threads and processes that it starts from now on, under SCHED_FIFO.

    Returns:
        Whether the system allowed it; else nothing has changed.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):  # no Linux; no permission
        return False
    return True


def has_priority() -> bool:
    """Whether the calling thread has it."""
    return hasattr(os, 'SCHED_FIFO') and os.sched_getscheduler(0) == os.SCHED_FIFO


def raise_thread(priority: int) -> None:
    """Change the priority of the calling thread, where the process has one."""
    if has_priority():
        take_priority(priority)
