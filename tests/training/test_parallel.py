"""Data parallelism: two learners under torchrun are one, and what stands in its way is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.training.process import check_learners
from tests.training import parallel_update as script

ROOT = Path(__file__).parents[2]


def free_nats_between_the_halves() -> str:
    """Free nats above the KL of one half of the batch, below that of the whole: no share may clip its own."""
    kl = []
    for rows in (slice(0, 3), slice(3, 6)):
        with script.noise_by_row(len(kl), 2):
            learner = script.make_learner(script.config('cpu', 'schedule.batch=6', 'loss.free_nats=0'))
            loss, metrics = learner.agent.loss(learner.to_batch(script.samples(learner.config, 0, rows)))
            kl.append(float(metrics['kl']))
    assert max(kl) > 1.05 * min(kl)
    return f'loss.free_nats={0.6 * min(kl) + 0.4 * sum(kl) / 2}'


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """The folder that both ranks have written to, and the overrides of each case."""
    folder = tmp_path_factory.mktemp('ranks')
    overrides = {'cpu': [free_nats_between_the_halves()]}
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        f'--nproc-per-node={script.RANKS}',
        '-m',
        'tests.training.parallel_update',
        str(folder),
        json.dumps(overrides),
    ]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout
    return folder, overrides


@pytest.mark.parametrize('case', script.CASES)
def test_two_learners_make_the_update_of_one(ranks, case):
    folder, overrides = ranks
    found = load_file(str(folder / f'{case}-0.safetensors'))
    with script.noise_by_row(0, 1):
        expected = script.updated(script.make_learner(script.config(case, *overrides.get(case, ()))))
    assert found.keys() == expected.keys()
    compared = {'gradient': 0, 'metric': 0, 'agent': 0, 'optimizer': 0}
    for name, value in expected.items():
        kind = name.split('.')[0]
        compared[kind] += 1
        if name == 'metric.action_std':  # of a share, averaged
            continue
        # gradients are of the first update; rounding has grown in what is from after the last one
        close = 1e-4 if kind == 'gradient' else 2e-3
        size = max(1e-3, float(value.float().abs().max()))
        torch.testing.assert_close(
            found[name], value, rtol=close, atol=close * size, msg=lambda text: f'{name}: {text}'
        )
    assert all(compared.values())
    gradients = [value for name, value in expected.items() if name.startswith('gradient.')]
    moved = [value for value in gradients if value.abs().max() > 1e-4]
    assert len(moved) > compared['gradient'] // 2


@pytest.mark.parametrize('case', script.CASES)
def test_all_ranks_hold_the_same_state(ranks, case):
    folder, _ = ranks
    first, second = (load_file(str(folder / f'{case}-{rank}.safetensors')) for rank in range(2))
    for name, value in second.items():
        assert torch.equal(first[name], value), name


def test_a_checkpoint_brings_all_ranks_back(ranks):
    folder, _ = ranks
    on, again = (load_file(str(folder / f'{name}.safetensors')) for name in ('on', 'again'))
    for name, value in on.items():
        assert torch.equal(again[name], value), name


STARTED_HERE = """
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.parallel import form
from tests.training import parallel_update as script
with form(2, 1) as team:
    learner = Learner(script.config('cpu'), script.small.robot(), 'cpu', 0, team)
    for number in range(2):
        metrics = learner.update(script.samples(learner.config, number))
    print(all(bool(value.isfinite()) for value in metrics.values()), learner.updates)
print([child.returncode for child in team._children])
"""


def test_two_learners_without_torchrun():
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    result = subprocess.run(
        [sys.executable, '-c', STARTED_HERE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.splitlines() == ['True 2', '[0]'], result.stderr


@pytest.mark.parametrize(
    'preset, overrides, count, sentence',
    [
        ('cpu', ('schedule.overlap=true',), 2, 'expected schedule.overlap=false, got true'),
        ('world_models_cpu', (), 2, 'expected 1 for system world_models'),
        ('dreamerv3_1m', (), 3, 'expected a number that divides schedule.batch 16, got 3'),
    ],
)
def test_what_can_not_be_shared_is_refused(preset, overrides, count, sentence):
    check_learners(load_preset(preset, overrides), 1)  # alone it may
    with pytest.raises(InputError, match=sentence):
        check_learners(load_preset(preset, overrides), count)
