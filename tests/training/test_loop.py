"""The training loop on real bags, without ROS: exact ratio, resume, damage, full disk."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.loop import Trainer
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.progress import Progress
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory, latest_policy
from dreamer_ros.training.run_replay import BagReplay
from dreamer_ros.training.schedule import Schedule
from tests.episodes import bags
from tests.learners import TINY

STEPS = 20  # agent steps of an episode
ROBOT = dataclasses.replace(bags.SPEC, image_size=(32, 32), vector=(), action_repeat=4)
CONFIG = load_preset(
    'cpu',
    (
        *TINY,
        'env.image_size=32',
        'schedule.replay_ratio=16',
        'schedule.prefill=20',
        'schedule.log_every=5',
        'schedule.publish_every=10',
        'replay.capacity=1000',
    ),
)


def write_bags(folder: Path, numbers, mode='explore'):
    rng = np.random.default_rng(list(numbers))
    for number in numbers:
        episode = bags.random_episode(rng, STEPS + 1, bags.START_NS + number * 10**13)
        episode.image = rng.integers(0, 256, (STEPS + 1, 32, 32, 3), np.uint8)
        custom = {'mode': mode, 'spec': ROBOT.to_json(), 'spec_hash': ROBOT.hash, 'robot': 'sim0'}
        name = f'20270101T0000{number:02d}.000-sim0-{number:06d}'
        bags.write_episode(folder, name, episode, custom)


def train(path: Path, episodes: int, stop=None, robots=None, begin=None):
    """Train on a budget of so many episodes; returns (trainer, its output)."""
    output = io.StringIO()
    with contextlib.closing(RunDirectory(path, CONFIG, ROBOT)) as run:
        trainer = make_trainer(run, robots or Robots(), episodes, stop=stop, progress=Progress(output), begin=begin)
        trainer.train()
    return trainer, output.getvalue()


def make_trainer(run, robots, episodes, config=CONFIG, stop=None, progress=None, begin=None):
    """A trainer on bags of ROBOT with a budget of so many episodes."""
    return Trainer(
        config,
        ROBOT,
        run,
        robots,
        BagReplay(run.episodes, config, ROBOT, 0),
        Schedule.make(config.schedule, episodes * STEPS * ROBOT.action_repeat, ROBOT.action_repeat),
        device='cpu',
        seed=0,
        stop=stop or threading.Event(),
        progress=progress or Progress(io.StringIO()),
        begin=begin,
    )


def due(episodes):
    return (episodes * STEPS - 20) * 16 // 32


def test_learns_from_bags_to_the_budget_and_continues(tmp_path):
    folder = tmp_path / 'episodes'
    write_bags(folder, range(3))
    write_bags(folder, [3], mode='evaluate')
    trainer, output = train(tmp_path, 4)
    assert trainer.status.updates == due(4) == 30
    for name in ('curve.png', 'evaluation.mp4', 'dream.mp4', 'config.yaml', 'spec.json', 'metrics.jsonl'):
        assert (tmp_path / name).stat().st_size, name
    lines = read_metrics(tmp_path)
    returns = [line for line in lines if 'return_explore' in line or 'return_evaluate' in line]
    assert [line['step'] for line in returns] == [80, 160, 240, 320]
    assert 'return_evaluate' in returns[3] and returns[3]['length'] == STEPS
    losses = [line for line in lines if 'model_loss' in line]
    assert [line['updates'] for line in losses] == [5, 10, 15, 20, 25, 30]
    first = PolicyRunner(latest_policy(tmp_path), ROBOT)
    assert first.metadata['updates'] == '30' and first.metadata['task'] == 'test'

    write_bags(folder, range(4, 6))
    trainer, output = train(tmp_path, 6)
    assert 'resuming at 320 env steps, 30 updates, 84 steps in the replay' in output
    assert trainer.status.updates == due(6) == 50
    assert trainer.status.replay_steps == 6 * (STEPS + 1)  # nothing loaded twice
    returns = [line for line in read_metrics(tmp_path) if 'episode' in line]
    assert len({line['episode'] for line in returns}) == len(returns) == 6
    second = PolicyRunner(latest_policy(tmp_path), ROBOT)
    assert second.version > first.version and second.metadata['updates'] == '50'

    # the newest checkpoint is damaged: the work since the one before is done again
    for file in (tmp_path / 'checkpoints' / '000000050' / 'learner').iterdir():
        file.write_bytes(file.read_bytes()[:-10] + b'0123456789')
    trainer, output = train(tmp_path, 6)
    assert '000000050: damaged' in output and 'resuming at 320 env steps' in output
    assert trainer.status.updates == due(6)


def test_bad_bags_are_told_and_passed_over(tmp_path):
    folder = tmp_path / 'episodes'
    write_bags(folder, range(3))
    broken = next(folder.glob('*-000001/*.mcap'))
    broken.write_bytes(b'garbage' * 1000)
    for path in (broken, broken.parent, broken.parent / 'metadata.yaml'):
        os.utime(path, (1e9, 1e9))  # long enough ago that nobody writes it any more
    trainer, output = train(tmp_path, 2)
    assert trainer.status.updates == due(2)
    problems = [line for line in output.splitlines() if line.startswith('replay:')]
    assert problems and all('-000001:' in problem for problem in problems)


class Walking(Robots):
    """A robot that records an episode whenever it was allowed to walk so far."""

    def __init__(self, folder, stop=None, stop_after=None, written=0):
        self.folder, self.walked, self.live, self.first, self.written = folder, 0, 0, written, written
        self.manifests, self.stop, self.stop_after = [], stop, stop_after

    def live_steps(self):
        return self.live

    def stored(self, info):
        if int(info.name[-6:]) >= self.first:
            self.live -= info.steps - 1

    def grant(self, steps):
        if steps > self.live:
            self.walked, self.live = self.walked + 1, self.live + 1
            if self.walked % STEPS == 0:
                write_bags(self.folder, [self.written])
                self.written += 1

    def publish(self, manifest):
        self.manifests.append(manifest)
        if self.stop_after and manifest.version >= self.stop_after:
            self.stop.set()


def test_robots_walk_exactly_to_the_budget(tmp_path):
    robot = Walking(tmp_path / 'episodes')
    trainer, _ = train(tmp_path, 5, robots=robot)
    assert robot.walked == 5 * STEPS and trainer.status.updates == due(5) == 40
    assert [manifest.version for manifest in robot.manifests] == [1, 2, 3, 4, 5]
    assert PolicyRunner(robot.manifests[-1].uri, ROBOT, robot.manifests[-1].sha256).version == 5


def test_stopped_halfway_everything_is_saved_and_the_ratio_stays_exact(tmp_path):
    stop = threading.Event()
    robot = Walking(tmp_path / 'episodes', stop, stop_after=2)
    trainer, _ = train(tmp_path, 5, stop=stop, robots=robot)
    assert trainer.status.updates == 20
    assert (tmp_path / 'curve.png').exists() and (tmp_path / 'dream.mp4').exists()
    # steps that were live when the session ended and never reached a bag are walked again
    again = Walking(tmp_path / 'episodes', written=robot.written)
    trainer, output = train(tmp_path, 5, robots=again)
    assert '20 updates' in output and trainer.status.updates == due(5)
    assert robot.written * STEPS + again.walked == 5 * STEPS
    assert again.manifests[0].version == 4  # right at the start, and never an old number


def test_checkpoint_on_request(tmp_path):
    write_bags(tmp_path / 'episodes', range(4))
    answer = []

    class Asking(Robots):
        def publish(self, manifest):
            if not answer:
                thread = threading.Thread(target=lambda: answer.append(trainer.request_checkpoint()))
                thread.start()

    with contextlib.closing(RunDirectory(tmp_path, CONFIG, ROBOT)) as run:
        trainer = make_trainer(run, Asking(), 4)
        trainer.train()
    assert answer and answer[0].name == '000000010'


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    """In a mount namespace with a disk of its own, too small for the second checkpoint."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mount = ['unshare', '--mount', 'sh', '-c', f'mount -t tmpfs -o size=3m none {disk} && exec "$@"', 'sh']
    if not shutil.which('unshare') or subprocess.run([*mount, 'true'], capture_output=True).returncode:
        pytest.skip('needs the right to mount a small disk')
    code = f"""
import pathlib, sys
from dreamer_ros.errors import run_main
from dreamer_ros.training.run_directory import latest_policy
from tests.training import test_loop as t
path = pathlib.Path({str(disk)!r})
t.write_bags(path / 'episodes', range(3))
t.train(path, 3)
saved = sorted(p.name for p in (path / 'checkpoints').iterdir())
with open(path / 'filler', 'wb', buffering=0) as filler:
    try:
        while True: filler.write(b'x' * 4096)
    except OSError: pass
robot = t.Walking(pathlib.Path({str(tmp_path)!r}) / 'elsewhere')
code = run_main(lambda: t.train(path, 5, robots=robot) and None)
assert sorted(p.name for p in (path / 'checkpoints').iterdir()) == saved, saved
assert latest_policy(path).exists()
(path / 'filler').unlink()
trainer, output = t.train(path, 3)
assert trainer.status.updates == t.due(3)
sys.exit(code)
"""
    result = subprocess.run([*mount, sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    [error] = [line for line in result.stderr.splitlines() if line.startswith('error:')]
    assert 'the disk is full' in error or 'No space left' in error
    assert 'Traceback' not in result.stderr


def test_losses_that_are_not_finite_end_the_run_with_a_sentence(tmp_path):
    write_bags(tmp_path / 'episodes', range(4))
    with contextlib.closing(RunDirectory(tmp_path, CONFIG, ROBOT)) as run:
        trainer = make_trainer(run, Robots(), 4)
        with np.errstate(all='ignore'):
            for parameter in trainer._learner.agent.parameters():
                parameter.data.fill_(float('nan'))
        with pytest.raises(InputError, match='update 5: expected finite losses, got'):
            trainer.train()
    assert not (tmp_path / 'checkpoints' / 'latest').exists()


def test_begins_with_what_another_run_has_learnt(tmp_path):
    """The first policy is out before the first step; what was learnt before asks for no steps, and pays for none."""
    write_bags(tmp_path / 'old' / 'episodes', range(3))
    earlier, _ = train(tmp_path / 'old', 2)
    write_bags(tmp_path / 'new' / 'episodes', range(10, 12))
    robots = Walking(tmp_path / 'new' / 'episodes', written=12)
    trainer, output = train(tmp_path / 'new', 2, robots=robots, begin=tmp_path / 'old')
    assert f'beginning with {tmp_path}/old/checkpoints/' in output and f'after {due(2)} updates' in output
    assert robots.manifests[0].version == 1
    assert trainer.status.updates == earlier.status.updates + due(2)
    _, output = train(tmp_path / 'new', 2, begin=tmp_path / 'old')
    assert 'resuming at' in output and 'beginning' not in output
