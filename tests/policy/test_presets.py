"""Every preset's agent, exported: the same actions as in torch over whole episodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dreamer_ros.config import load_preset
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.learner import Learner
from tests.agents.small import agent, robot
from tests.policy.tiny import spec

SMALL = ('schedule.batch=2', 'schedule.length=6')
SHORT = ('imagination.horizon=3',)


@pytest.mark.parametrize('discrete', [False, True])
@pytest.mark.parametrize(
    'preset, overrides',
    [
        ('cpu', (*SHORT, 'imagination.starts=4', 'conv.depth=4', 'rssm.deter=64', 'rssm.hidden=64', 'mlp.units=32')),
        ('dreamerv3_1m', (*SHORT, 'rssm.deter=128')),
        ('dreamerv2', (*SHORT, 'rssm.deter=64', 'mlp.units=32', 'conv.depth=8', 'rssm.stoch=8', 'rssm.classes=8')),
        ('dreamer', (*SHORT, 'rssm.deter=64', 'mlp.units=32', 'conv.depth=8')),
        (
            'world_models_cpu',
            ('controller.horizon=3', 'controller.population=8', 'controller.sigma=1', 'controller.every=1'),
        ),
    ],
)
def test_exported_agent_matches_torch(tmp_path, preset, overrides, discrete, rng, seed):
    config = load_preset(preset, (*SMALL, *overrides))
    robot = dataclasses.replace(spec(actions=3), image_size=config.env.image_size, discrete=discrete)
    learner = Learner(config, robot, 'cpu', seed)
    exporter = Exporter(learner.policy, robot)  # before training, as the trainer does
    shape, height, width = (2, 6), *robot.image_size
    for _ in range(3):
        flags = {key: np.zeros(shape, bool) for key in ('is_first', 'is_last', 'is_terminal', 'is_human')}
        learner.update(
            {
                'image': rng.integers(0, 256, (*shape, height, width, 3), np.uint8),
                **flags,
                'vector': np.zeros((*shape, 0), np.float32),
                'action': rng.uniform(-1, 1, (*shape, 3)).astype(np.float32),
                'reward': rng.uniform(0, 1, shape).astype(np.float32),
            }
        )
    exporter.write(tmp_path / 'p.onnx', {'version': 1})
    runner = PolicyRunner(tmp_path / 'p.onnx', robot, seed=seed)
    noises, policy = np.random.default_rng(seed), learner.policy
    state, worst = torch.zeros(1, policy.state_size), 0.0
    for step in range(100):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        explore, first = step % 50 >= 25, step % 50 == 0
        action = runner.act(image, None, first, explore)
        shape = (1, policy.noise_size)
        noise = noises.standard_normal(shape, np.float32) if explore else np.zeros(shape, np.float32)
        with torch.no_grad():
            expected, state = policy(
                torch.from_numpy(image)[None], torch.tensor([first]), state, torch.from_numpy(noise)
            )
        worst = max(worst, float(np.abs(action - expected.numpy()[0]).max()))
        if discrete:
            assert sorted(action) == [0.0, 0.0, 1.0]
    assert worst < 1e-5
    # several robots at once
    feed = {
        'image': rng.integers(0, 256, (4, height, width, 3), np.uint8),
        'is_first': np.array([True, False] * 2),
        'state': rng.normal(size=(4, policy.state_size)).astype(np.float32),
        'noise': rng.normal(size=(4, policy.noise_size)).astype(np.float32),
    }
    actions = runner._session.run(['action'], feed)[0]
    with torch.no_grad():
        expected, _ = policy(*(torch.from_numpy(array) for array in feed.values()))
    np.testing.assert_allclose(actions, expected.numpy(), atol=1e-5)


def test_what_was_done_instead_is_what_a_policy_remembers(tmp_path, rng):
    """A person's action, or a limited one, takes the place of its own in the recurrent state."""
    made = agent('v2', seed=3)
    Exporter(made.policy(), robot()).write(tmp_path / 'p.onnx', dict(system='dreamer', preset='v2', step=0, version=1))
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)

    def second(instead):
        runner = PolicyRunner(tmp_path / 'p.onnx')
        answer = runner.act(images[0], None, True, explore=False)
        if instead is not None:
            runner.acted(answer if instead == 'the same' else np.array(instead, np.float32))
        return runner.act(images[1], None, False, explore=False)

    np.testing.assert_array_equal(second(None), second('the same'))
    assert np.abs(second([1, -1]) - second([-1, 1])).max() > 1e-3
