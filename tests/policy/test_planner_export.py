"""The planner, unrolled in an ONNX file: the plans of torch, also where nothing is explored."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from dreamer_ros.agents.system import make_agent
from dreamer_ros.config import load_preset
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.runner import PolicyRunner
from tests.policy.tiny import spec

SMALL = (
    'env.image_size=32',
    'rssm.deter=24',
    'rssm.hidden=16',
    'rssm.stoch=5',
    'conv.depth=4',
    'mlp.units=16',
    'planner.horizon=4',
    'planner.candidates=16',
    'planner.iterations=3',
    'planner.elites=4',
)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    torch.manual_seed(0)
    robot = dataclasses.replace(spec(actions=3), image_size=(32, 32))
    agent = make_agent(load_preset('planet_cpu', SMALL), robot)
    policy = agent.policy()
    exporter = Exporter(policy, robot)
    with torch.no_grad():
        for parameter in agent.parameters():  # as training does, after the trace
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp('policy') / 'planet.onnx'
    exporter.write(path, {'version': 1})
    return policy, robot, path


def test_whole_episode_matches_torch(exported, rng, seed):
    policy, robot, path = exported
    runner, noises = PolicyRunner(path, robot, seed=seed), np.random.default_rng(seed)
    start, stop = policy.evaluation_noise
    assert json.loads(runner.metadata['evaluation_noise']) == [start, stop]
    state, actions = torch.zeros(1, policy.state_size), []
    for step in range(60):
        image, explore = rng.integers(0, 256, (32, 32, 3), np.uint8), step >= 30
        actions.append(runner.act(image, None, step in (0, 45), explore))
        noise = np.zeros((1, policy.noise_size), np.float32)
        drawn = slice(None) if explore else slice(start, stop)
        noise[0, drawn] = noises.standard_normal(noise[0, drawn].shape, np.float32)
        with torch.no_grad():
            expected, state = policy(
                torch.from_numpy(image)[None], torch.tensor([step in (0, 45)]), state, torch.from_numpy(noise)
            )
        np.testing.assert_allclose(actions[-1], expected.numpy()[0], atol=1e-4)
    assert np.std(actions, 0).min() > 0.05  # it did plan


def test_several_robots_at_once(exported, rng):
    policy, _, path = exported
    feed = {
        'image': rng.integers(0, 256, (3, 32, 32, 3), np.uint8),
        'is_first': np.array([True, False, False]),
        'state': rng.normal(size=(3, policy.state_size)).astype(np.float32),
        'noise': rng.normal(size=(3, policy.noise_size)).astype(np.float32),
    }
    actions, states = PolicyRunner(path)._session.run(['action', 'next_state'], feed)
    with torch.no_grad():
        expected = policy(*(torch.from_numpy(array) for array in feed.values()))
    np.testing.assert_allclose(actions, expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(states, expected[1].numpy(), atol=1e-4)


def test_an_evaluation_repeats_with_its_seed(exported):
    image = np.full((32, 32, 3), 100, np.uint8)
    first, again, other = (PolicyRunner(exported[2], seed=seed).act(image, None, True, False) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
