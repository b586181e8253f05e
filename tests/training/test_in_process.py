"""Training with simulators in the same process."""

from __future__ import annotations

import itertools
import threading

import pytest

from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.in_process import train_in_process
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.run_directory import latest_policy
from tests.learners import TINY

TASK = 'cartpole_balance'
CONFIG = load_preset(
    'cpu',
    (
        *TINY,
        'env.image_size=32',
        'env.action_repeat={default: 8}',  # episodes of 125 agent steps
        'schedule.prefill=130',
        'schedule.replay_ratio=2',  # an update each 16 agent steps
        'schedule.publish_every=2',
        'schedule.log_every=2',
        'schedule.overlap=false',
    ),
)


def test_equal_seeds_give_equal_runs_with_several_simulators(tmp_path):
    """Although simulators and learner work side by side. Policies are scored at the marks."""
    statuses = []
    for name in ('a', 'b'):
        folder = train_in_process(
            TASK,
            CONFIG,
            tmp_path / name,
            steps=2400,
            seed=3,
            simulators=2,
            device='cpu',
            evaluations=2,
            evaluation_episodes=2,
            report=statuses.append,
        )
        assert folder == tmp_path / name
    runs = [read_metrics(tmp_path / name) for name in ('a', 'b')]
    for line in itertools.chain(*runs):
        for key in ('time', 'env_steps_per_second', 'frames_per_second', 'updates_per_second'):
            line.pop(key, None)
    assert runs[0] == runs[1]
    a, b = (find_checkpoint(tmp_path / name) for name in ('a', 'b'))
    tensors = [path.relative_to(a) for path in a.rglob('*.safetensors')]
    assert tensors and all((a / path).read_bytes() == (b / path).read_bytes() for path in tensors)

    last = statuses[-1]
    assert (last.step, last.updates) == (2400, 10)  # (300 - 130) steps, one update each 16 of them
    # At the marks, up to whole steps of two simulators
    assert [line['step'] for line in runs[0] if 'return_evaluate' in line] == [1200, 1200, 2400, 2400]
    assert [line['step'] for line in runs[0] if 'return_explore' in line] == [1000, 2000]
    assert PolicyRunner(latest_policy(tmp_path / 'a')).metadata['updates'] == '10'
    assert (tmp_path / 'a' / 'curve.png').exists() and (tmp_path / 'a' / 'dream.mp4').exists()


def test_a_folder_with_a_run_is_refused(tmp_path):
    (tmp_path / 'config.yaml').write_text('preset: cpu\n')
    with pytest.raises(InputError, match=f'run {tmp_path}: expected a folder without a run.*another log directory'):
        train_in_process(TASK, CONFIG, tmp_path, steps=2400)
    assert [path.name for path in tmp_path.iterdir()] == ['config.yaml']


def test_stopped_early_everything_is_saved(tmp_path):
    stop = threading.Event()

    def report(status):
        if status.updates == 3:
            stop.set()

    train_in_process(TASK, CONFIG, tmp_path, steps=24_000, device='cpu', stop=stop, report=report)
    assert find_checkpoint(tmp_path).name == '000000003'
    assert PolicyRunner(latest_policy(tmp_path)).metadata['updates'] == '3'


def test_a_budget_that_no_episode_fits_into_is_told(tmp_path):
    with pytest.raises(InputError, match='each simulator to end an episode of 125 agent steps, got 252 for 3'):
        train_in_process(TASK, CONFIG, tmp_path, steps=2000, simulators=3, device='cpu', evaluations=1)
