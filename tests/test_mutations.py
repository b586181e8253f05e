"""Some mutations of every kind of foreign file; `python -m benchmarks.bench_fuzz` tries a thousand of each."""

from __future__ import annotations

import numpy as np
import pytest

from tests import mutations

TRIALS = 30
KINDS = ['contract', 'large contract', 'task', 'preset', 'labels', 'manifest', 'spec', 'metrics']
KINDS += ['checkpoint', 'policy', 'npz', 'lerobot']


@pytest.fixture(scope='module')
def subjects(tmp_path_factory):
    return mutations.subjects(tmp_path_factory.mktemp('mutations') / 'originals')


@pytest.mark.parametrize('kind', KINDS)
def test_mutations(kind, subjects, tmp_path, seed):
    subjects[kind].read(subjects[kind].original)
    refused = 0
    for number in range(TRIALS):
        try:
            refused += bool(mutations.trial(subjects[kind], tmp_path / 'trial', np.random.default_rng((seed, number))))
        except Exception as error:
            raise AssertionError(f'trial {number} of seed {seed}: {error!r}') from error
    assert refused or kind == 'metrics'
