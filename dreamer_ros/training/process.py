"""Settings of a learner's process: memory, threads, and how many processes share its work."""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dreamer_ros.config import Config
from dreamer_ros.errors import InputError
from dreamer_ros.launcher import torchrun_rank

if TYPE_CHECKING:
    from dreamer_ros.training.parallel import Team

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
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 2**28)


def prepare_learners(
    config: Config, robots: int, learners: int = 1, threads: int = 0
) -> AbstractContextManager[Team | None]:
    """Tune this process for learning, before torch is imported, and form the team of learners if there are several.

    Args:
        robots: simulators and agents on this machine, which need cores too.
        learners: processes that share every update.
        threads: of each learner on a CPU; 0 picks.
    """
    prepare()
    from dreamer_ros.training.parallel import form

    threads = threads or pick_threads(robots, learners)
    configure_learner(threads, config.schedule.overlap)
    return form(learners, threads)


def learners(wanted: int) -> int:
    """How many processes share the learner's work: as many as torchrun has started, else as many as wanted."""
    return wanted if torchrun_rank() is None else int(os.environ['WORLD_SIZE'])


def check_learners(config: Config, count: int) -> None:
    """Check that a run can have this many learners.

    Raises:
        InputError: a setting does not allow it.
    """
    if count == 1:
        return
    if config.schedule.overlap:
        raise InputError(f'learners: with {count} of them, expected schedule.overlap=false, got true')
    if config.system == 'world_models':
        raise InputError(
            f'learners: expected 1 for system world_models, whose controller evolves in one process, got {count}'
        )
    if config.schedule.batch % count:
        raise InputError(
            f'learners: expected a number that divides schedule.batch {config.schedule.batch}, got {count}'
        )


def pick_threads(robots: int, learners: int = 1) -> int:
    """Threads of each learner: all of one or two cores, else those that the robots leave, at most 16."""
    cores = len(os.sched_getaffinity(0))
    threads = cores if cores <= 2 else min(16, max(2, cores - robots))
    return max(1, threads // int(os.environ.get('LOCAL_WORLD_SIZE', learners)))


def configure_learner(threads: int, overlap: bool) -> None:
    """Give an update its threads; call before the first torch operation.

    Two operators run at a time, each on half of the threads: one of each half of an overlapped update, or of each
    lane.
    """
    configure_torch(max(1, threads // 2))
    if threads > 1 and not overlap:
        from dreamer_ros.nets.lanes import open_lanes

        open_lanes()


def configure_torch(threads: int) -> None:
    """Set the thread count and flush denormals; call before the first torch operation.

    Denormal activations made a small Dreamer several times slower within minutes. Threads inherit the mode from the
    one that starts them, so it must be set before torch's pool starts.
    """
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
