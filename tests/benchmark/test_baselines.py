"""What learning systems are held against."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from dreamer_ros import simulation
from dreamer_ros.benchmark.results import Protocol
from dreamer_ros.benchmark.sac_pixels import FRAMES, SHIFT, PixelTask, shift, train_sac
from dreamer_ros.benchmark.systems import Job, train
from dreamer_ros.errors import InputError


@pytest.mark.parametrize('name', ['random', 'still'])
def test_untrained_ones(name, tmp_path):
    protocol = Protocol(steps=100, episodes=2)
    job = Job(name, name, 'cartpole_balance', 3, protocol, tmp_path, 1, [])
    outcome = train(job, lambda outcome: None)
    # The same actions and initial states, by hand
    rng = np.random.default_rng(1_000_003)
    environment = simulation.make(
        'cartpole_balance', image_size=(48, 48), action_repeat=job.action_repeat, seed=1_000_003
    )
    returns = []
    for _ in range(2):
        observation, rewards = environment.reset(), []
        while not observation.is_last:
            action = rng.uniform(-1, 1, 1) if name == 'random' else np.zeros(1)
            observation = environment.step(action.astype(np.float32))
            rewards.append(observation.reward)
        returns.append(sum(rewards))
    environment.close()
    assert outcome.returns == pytest.approx(returns)
    assert outcome.env_steps == 0 and outcome.curve == []


def test_pixel_task_stacks_the_last_images():
    task = PixelTask('cartpole_balance', (32, 40), 250, seed=1)
    plain = simulation.make('cartpole_balance', image_size=(32, 40), action_repeat=250, seed=1)
    first, _ = task.reset()
    images = [plain.reset().image] * FRAMES
    for action in (0.3, -1.0, 0.7, 0.1):
        stack, reward, terminated, truncated, _ = task.step(np.array([action], np.float32))
        seen = plain.step([np.float32(action)])
        images.append(seen.image)
        assert stack.dtype == np.uint8 and stack.shape == task.observation_space.shape == (3 * FRAMES, 32, 40)
        np.testing.assert_array_equal(stack, np.concatenate([i.transpose(2, 0, 1) for i in images[-FRAMES:]]))
        assert (reward, terminated, truncated) == (seen.reward, False, seen.is_last)
    assert seen.is_last
    task.close()
    plain.close()


def test_shift_moves_whole_images_and_repeats_edges(seed):
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (20, 2, 11, 13), dtype=torch.uint8)
    shifted = shift(images)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode='edge')
    moves = set()
    for before, after in zip(padded, shifted.numpy()):
        found = [
            (y, x)
            for y in range(2 * SHIFT + 1)
            for x in range(2 * SHIFT + 1)
            if np.array_equal(before[:, y : y + 11, x : x + 13], after)
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 5


def test_sac_trains_its_encoder_by_the_critic_alone(monkeypatch):
    from stable_baselines3 import SAC

    made = []
    learn = SAC.learn
    monkeypatch.setattr(SAC, 'learn', lambda self, *a, **options: made.append(self) or learn(self, *a, **options))
    protocol = Protocol(steps=2000, evaluations=2, curve_episodes=1, episodes=1)
    outcome = train_sac('cartpole_balance', (48, 48), 125, 0, protocol, lambda outcome: None)
    assert (outcome.env_steps, outcome.updates) == (2000, 7)  # 16 steps, 8 before learning starts
    assert [point[0] for point in outcome.curve] == [1000, 2000]
    assert len(outcome.returns) == 1 and 0 < outcome.returns[0] < 1000

    actor, critic = made[0].policy.actor, made[0].policy.critic
    encoder = set(critic.features_extractor.cnn.parameters())
    assert encoder <= {p for group in critic.optimizer.param_groups for p in group['params']}
    own = {p for group in actor.optimizer.param_groups for p in group['params']}
    assert own == set(actor.parameters()) and not own & encoder
    observation = made[0].policy.obs_to_tensor(made[0].observation_space.sample())[0]
    for parameter in encoder:
        parameter.grad = None
    before = actor(observation, deterministic=True)
    before.sum().backward()
    assert all(parameter.grad is None for parameter in encoder)
    with torch.no_grad():
        for parameter in encoder:
            parameter.mul_(-1.0)
    assert not torch.equal(actor(observation, deterministic=True), before)  # it is the critic's


def test_the_missing_library_is_named():
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        'from dreamer_ros.benchmark.results import Protocol\n'
        'from dreamer_ros.benchmark.systems import Job, train\n'
        "train(Job('sac', 'sac_pixels', 'cartpole_balance', 0, Protocol(steps=100), None, 1, []), print)"
    )
    result = subprocess.run([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True)
    assert "pip install 'dreamer_ros[baselines]'" in result.stderr
    assert InputError.__name__ in result.stderr
