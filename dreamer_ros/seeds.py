"""Seeds of simulators, far enough apart that no two of a run, or of runs with neighbouring seeds, play the same."""

from __future__ import annotations


def collector_seed(seed: int, number: int) -> int:
    """Of the simulator of that number that collects for the run with this seed."""
    return seed + 1000 * number


def evaluation_seed(seed: int, number: int = 0) -> int:
    """Of the simulator of that number that scores its policies, in initial states that no collector has seen."""
    return seed + 1_000_000 + number
