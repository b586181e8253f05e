"""Real-time priority, so that whatever commands a robot runs on time on a busy computer.

It needs Linux and permission: root, or `rtprio` in /etc/security/limits.conf (systemd: LimitRTPRIO).
"""

from __future__ import annotations

import os

# Below the kernel's interrupt threads and ros2_control's controller manager (50), above every ordinary process.
# Threads of equal priority do not preempt each other, so those that must not wait for a policy to load rank higher.
PROCESS, CONTROL, WATCHDOG, GUARD = 40, 41, 42, 43


def take_priority(priority: int) -> bool:
    """Put this process, and all it starts from now on, under SCHED_FIFO. Returns whether the system allowed it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):  # no Linux; no permission
        return False
    return True


def has_priority() -> bool:
    """Whether the calling thread has real-time priority."""
    return hasattr(os, 'SCHED_FIFO') and os.sched_getscheduler(0) == os.SCHED_FIFO


def raise_thread(priority: int) -> None:
    """Change the priority of the calling thread if the process has a real-time one."""
    if has_priority():
        take_priority(priority)
