"""What version 0.1.0 has written still loads, resumes and plays; see tests/data/README.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.config import ReplayConfig
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.policy.loader import load
from dreamer_ros.replay.dataset import open_replay
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.offline import find_spec
from dreamer_ros.training.run_directory import latest_policy

DATA = Path(__file__).parent / 'data'
BAGS = json.loads((DATA / 'expected.json').read_text())


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(DATA, tmp_path / 'data'))


@pytest.mark.parametrize('name', BAGS)
def test_a_bag_holds_the_same_episode(name):
    expected = BAGS[name]
    spec = find_spec([(DATA / name).parent])
    assert spec.hash == expected['spec_hash']
    [episode], problems = read_episodes(DATA / name, spec)
    assert not problems and episode.complete and len(episode) == expected['steps']
    assert episode.total_reward == pytest.approx(expected['return'], abs=1e-4)
    found = {array: np.ascontiguousarray(getattr(episode, array)).tobytes() for array in expected['sha256']}
    assert {array: hashlib.sha256(data).hexdigest()[:16] for array, data in found.items()} == expected['sha256']


@pytest.mark.parametrize('name', BAGS)
def test_a_bag_is_described(name, capsys):
    assert main(['bag', 'info', str(DATA / name)]) == 0
    output = capsys.readouterr().out
    assert f'{BAGS[name]["return"]:.2f}' in output and 'whole' in output and 'sensor_msgs/msg/Image' in output


def test_the_policy_plays(capsys):
    path = latest_policy(DATA / 'dreamer')
    runner = load(path)  # checks what it computes against the golden vector
    spec = RobotSpec.from_json((DATA / 'dreamer' / 'spec.json').read_text(), 'spec.json')
    assert runner.version == 3 and runner.spec == spec
    [name, *_] = BAGS
    [episode], _ = read_episodes(DATA / name, spec)
    for k in range(len(episode)):
        action = runner.act(episode.image[k], None, bool(episode.is_first[k]), explore=False)
        assert sorted(action) == [0.0, 0.0, 0.0, 1.0]
    assert main(['policy', 'verify', str(path)]) == 0
    assert 'version 3 for rover_target_discrete' in capsys.readouterr().out


@pytest.mark.parametrize('folder, steps', [('dreamer/episodes', 52), ('dreamerv3/episodes', 21), ('robot', 9)])
def test_the_episodes_are_sampled(old, folder, steps):
    spec = find_spec([old / folder])
    replay = open_replay(old / folder, ReplayConfig(), spec, length=8, seed=0)
    replay.refresh()
    assert replay.steps == steps
    batch = replay.sample(4, 8)
    assert batch['image'].shape == (4, 8, 32, 32, 3) and batch['image'].any() and batch['action'].any()


@pytest.mark.parametrize(
    'run, updates, more', [('dreamer', 11, []), ('dreamerv3', 7, []), ('planet', 7, ['--bags', 'dreamerv3/episodes'])]
)
def test_a_run_is_resumed(old, run, updates, more, capfd, monkeypatch):
    monkeypatch.chdir(old)
    before = read_metrics(old / run)
    train = ['train', '--logdir', run, *more, '--updates', str(updates + 4), '--device', 'cpu']
    assert main(train) == 0, capfd.readouterr().err
    assert f'{updates} updates' in ''.join(capfd.readouterr())
    metrics = read_metrics(old / run)
    assert metrics[: len(before)] == before and metrics[-1]['updates'] == updates + 4
    assert (old / run / 'checkpoints' / 'latest').read_text().strip() == f'{updates + 4:09d}'
    load(latest_policy(old / run))
