"""A few hundred damaged bags; `python -m benchmarks.bench_fuzz` tries ten thousand."""

from __future__ import annotations

import numpy as np

from tests.episodes import fuzz


def test_damaged_bags(tmp_path, seed):
    kinds = fuzz.originals(tmp_path / 'originals', np.random.default_rng(seed))
    steps = problems = 0
    for trial in range(120):
        try:
            _, found, told = fuzz.run(kinds, tmp_path / 'trial', np.random.default_rng((seed, trial)))
        except fuzz.Wrong as error:
            raise AssertionError(f'trial {trial} of seed {seed}: {error}') from error
        steps, problems = steps + found, problems + told
    # Most damage is local: much of what was recorded is still there, and most of it is noticed.
    assert steps > 120 * 5 and problems > 60
