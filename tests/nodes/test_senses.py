"""Robots with several cameras, with joint states as inputs and with discrete actions: real processes."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from rosbags.rosbag2 import Reader

from dreamer_ros.agents.system import make_agent
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.simulation import make
from dreamer_ros.wire import topics
from tests.agents.small import config
from tests.nodes.test_run import bags

LENGTH = 20  # actions per episode


def run(start, peer, folder, episodes, agent, **parameters):
    """Whole bags of a simulator, an agent and a recorder in lock-step."""
    simulator = start('simulator', wait_for_subscribers=3, action_repeat=2, episode_length=2 * LENGTH, **parameters)
    agent = start('agent', **agent)
    recorder = start('recorder', folder=folder)
    peer.until(lambda: len(bags(folder)) >= episodes, f'{episodes} episodes')
    assert simulator.stop() == 0
    peer.spin(0.3)
    assert recorder.stop() == 0 and agent.stop() == 0
    return bags(folder)[:episodes]


def counts(bag):
    with Reader(bag) as reader:
        return Counter({connection.topic: connection.msgcount for connection in reader.connections})


def policy_of(spec, inputs, path, seed):
    """A policy file for the robot, whose actions depend on what it perceives."""
    torch.manual_seed(seed)
    agent = make_agent(config('v1', f'env.inputs={inputs}', 'env.image_size=[32, 48]'), spec)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    Exporter(agent.policy(), spec).write(path, {'version': 3, 'system': 'dreamer', 'preset': 'test'})
    return PolicyRunner(path, spec)


@pytest.mark.parametrize(
    'inputs, cameras', [('both', ['front', 'overview']), ('vector', [])], ids=['two cameras and joints', 'joints alone']
)
def test_a_policy_acts_on_everything_it_perceives(inputs, cameras, start, peer, tmp_path, seed):
    """The recorded actions are those that the policy gives for the recorded images and joint states."""
    environment = make('rover_target', inputs=inputs, cameras=cameras, image_size=(32, 48), action_repeat=2)
    spec = environment.spec
    environment.close()
    runner = policy_of(spec, inputs, tmp_path / 'policy.onnx', seed)
    senses = {'cameras': json.dumps(cameras)} if cameras else {}
    found = run(
        start,
        peer,
        tmp_path / 'bags',
        2,
        dict(mode='evaluate', policy=runner.path),
        task='rover_target',
        inputs=inputs,
        image_size='[32, 48]',
        **senses,
    )
    actions = []
    for bag in found:
        names = [topic.within('sim0').name for topic in topics.per_step(spec.cameras)]
        assert counts(bag) == dict.fromkeys(names, LENGTH + 1)
        [episode], problems = read_episodes(bag, spec)
        assert problems == [] and episode.image.shape == (LENGTH + 1, *spec.image_shape)
        assert len(np.unique(episode.vector, axis=0)) > LENGTH // 2
        expected = [
            runner.act(image, vector, k == 0, explore=False)
            for k, (image, vector) in enumerate(zip(episode.image, episode.vector))
        ]
        np.testing.assert_allclose(episode.action[:-1], expected[:-1], atol=1e-5)
        actions += expected
        for half in np.split(episode.image, len(cameras), -1) if cameras else ():
            assert half.std() > 10 and not np.array_equal(half[0], half[-1])
    assert np.std(actions) > 1e-4, 'the policy answers everything alike'


def test_discrete_actions_are_choices(start, peer, tmp_path):
    found = run(start, peer, tmp_path / 'bags', 2, dict(seed=1), task='rover_target_discrete', image_size='[32, 32]')
    environment = make('rover_target_discrete', image_size=(32, 32), action_repeat=2)
    spec = environment.spec
    environment.close()
    taken = []
    for bag in found:
        assert set(counts(bag).values()) == {LENGTH + 1}
        [episode], problems = read_episodes(bag, spec)
        assert problems == []
        taken += list(episode.action[:-1])
    assert {tuple(action) for action in taken} == {tuple(row) for row in np.eye(4)}, 'not every choice, or others'
