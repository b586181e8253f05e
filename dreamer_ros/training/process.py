"""What makes a process a fast CPU learner beside simulators on the same cores."""
from __future__ import annotations

import ctypes
import os

# glibc's <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def prepare() -> None:
    """Tune allocator and OpenMP; call before torch is imported, since OpenMP reads its settings on loading.

    glibc hands each large tensor back to the kernel and faults it in again, which costs 12 to 30 % of an
    update. OpenMP threads that spin while they wait take the core from simulator and agent.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)
    mallopt(M_TOP_PAD, 2 ** 28)


def pick_threads(robots: int) -> int:
    """Threads of the learner: all of two cores, else what simulators and agents leave, 16 at most."""
    cores = len(os.sched_getaffinity(0))
    return cores if cores <= 2 else min(16, max(2, cores - robots))


def configure_learner(threads: int, overlap: bool) -> None:
    """Give an update its threads; call before the first torch operation.

    Two operators run at a time, each on half of the threads: those of the two halves of an overlapped update, or
    of two lanes.
    """
    configure_torch(max(1, threads // 2))
    if threads > 1 and not overlap:
        from dreamer_ros.nets.lanes import open_lanes
        open_lanes()


def configure_torch(threads: int) -> None:
    """Set the thread count and flush denormals; call before the first torch operation.

    Denormal activations made a small Dreamer several times slower within minutes. The mode belongs to a
    thread and is inherited by the pool's threads, so it must be set before they start.
    """
    import torch
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
