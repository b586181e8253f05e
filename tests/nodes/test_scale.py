"""Two simulators feed a trainer whose updates are shared by two processes."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import yaml

from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.run_directory import latest_policy
from tests.learners import TINY

OVERRIDES = (
    *TINY,
    'env.image_size=32',
    'env.action_repeat.default=20',
    'schedule.overlap=false',
    'schedule.replay_ratio=8',
    'schedule.prefill=60',
    'schedule.log_every=10',
    'schedule.publish_every=10',
)


def test_two_simulators_and_two_learners(tmp_path, ros_domain):
    run = tmp_path / 'run'
    result = subprocess.run(
        [
            sys.executable,
            '-m',
            'dreamer_ros.cli',
            'launch',
            'sim_train',
            'task:=pendulum_swingup',
            'simulators:=2',
            'learners:=2',
            'steps:=6000',
            'episodes:=0',
            'device:=cpu',
            f'logdir:={run}',
            f'overrides:={" ".join(OVERRIDES)}',
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        text=True,
        timeout=280,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    assert 'error' not in result.stdout and 'Traceback' not in result.stdout, result.stdout
    # 6000 / 20 steps in all, those of both robots, and as many updates as they pay for
    newest = (run / 'checkpoints' / 'latest').read_text()
    assert int(newest) == (300 - 60) * 8 // 32
    learnt = collections.Counter()
    for bag in (run / 'episodes').glob('[!.]*'):
        data = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']['custom_data']
        learnt[data['robot']] += int(data.get('policy_version') or 0) > 0
    assert set(learnt) == {'sim0', 'sim1'} and min(learnt.values()) >= 1, 'both played what was learnt'
    assert PolicyRunner(latest_policy(run)).metadata['updates'] == str(int(newest))
