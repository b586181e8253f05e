"""Wherever a robot's rewards come from, they are what is learned."""

from __future__ import annotations

import numpy as np
import pytest

from dreamer_ros.episodes.labels import Labels
from dreamer_ros.formats.importing import import_source
from dreamer_ros.replay.dataset import ReplayDataset
from dreamer_ros.training.learner import Learner
from tests.episodes.robot_bags import START, TINY, contract, write_robot_bag
from tests.episodes.test_robot_bag import expected_at, teleoperated
from tests.training.test_offline import learn, plan

LARGER = TINY.replace('[6, 8]', '[32, 32]')
TOPIC = '{topic: range, type: std_msgs/msg/Float64, field: data}'
FIELD = "{topic: joint_states, type: sensor_msgs/msg/JointState, field: 'velocity[wheel]'}"
REWARDS = {
    'a topic': f'reward: {TOPIC}',
    'a field of a message': f'reward: {FIELD}',
    'an expression': f'reward: {{fields: {{far: {TOPIC}, speed: {FIELD}}}, expression: tanh(speed) - 0.5 * abs(far)}}',
    'labels': '',
}
LABELS = 'episodes: [{start: 0.5, end: 3.5, rewards: [{time: 1.05, reward: 1}, {time: 2.05, reward: -2}], reward: 4}]'


def expected(kind, sent, stamp):
    speed, far = expected_at(sent['joint_states'], stamp), expected_at(sent['range'], stamp)
    return {'a topic': far, 'a field of a message': speed, 'an expression': np.tanh(speed) - 0.5 * abs(far)}[kind]


@pytest.mark.parametrize('kind', REWARDS)
def test_rewards_are_learned(kind, tmp_path, rng, preset, monkeypatch):
    robot = contract(LARGER + REWARDS[kind])
    (tmp_path / 'robot.yaml').write_text(robot.text)
    sent, _, rows = teleoperated(rng)
    folder = tmp_path / 'bags'
    source = write_robot_bag(folder, 'monday', rows)
    if kind == 'labels':
        folder = tmp_path / 'labelled'
        assert len(import_source(source, folder, robot, Labels(LABELS, 'labels.yaml')).bags) == 1
    batches = []
    update = Learner.update
    monkeypatch.setattr(Learner, 'update', lambda self, batch: (batches.append(batch), update(self, batch))[1])
    infos = []
    refresh = ReplayDataset.refresh
    monkeypatch.setattr(ReplayDataset, 'refresh', lambda self: (infos.extend(new := refresh(self)), new)[1])
    run = plan(
        [str(folder)],
        robot=str(tmp_path / 'robot.yaml'),
        preset=preset,
        logdir=str(tmp_path / 'run'),
        updates=3,
        validation=0.0,
    )
    trainer, output = learn(run)
    assert trainer.status.updates == 3 and len(batches) == 3, output
    [info] = infos
    period = 100_000_000
    stamps = info.last_stamp - period * np.arange(info.steps)[::-1]
    if kind == 'labels':
        assert sorted({float(reward) for batch in batches for reward in batch['reward'].ravel()} - {0.0}) != []
        assert info.total_reward == 3.0 and info.complete
        return
    rewards = np.array([expected(kind, sent, int(stamp)) for stamp in stamps], np.float32)
    assert info.total_reward == pytest.approx(float(rewards[1:].sum()), abs=1e-4), 'the first step has none'
    assert stamps[0] >= START
    learned = {float(reward) for batch in batches for reward in batch['reward'].ravel()} - {0.0}
    assert len(learned) > 10 and learned <= set(rewards.tolist())
