"""The running policy and the training filter are the same model."""

import numpy as np
import pytest
import torch

from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.learner import Learner
from tests.agents.small import ACTIONS, agent, batch, config

EVERY = ('v1', 'v2', 'dreamerv2', 'v3')


def run(policy, image, is_first, noise):
    """Actions and states of an episode, one observation at a time."""
    state = torch.randn(len(image), policy.state_size)  # is_first must wipe it
    actions, states = [], []
    with torch.no_grad():
        for t in range(image.shape[1]):
            action, state = policy(image[:, t], is_first[:, t], state, noise[:, t])
            actions.append(action)
            states.append(state)
    return torch.stack(actions, 1), torch.stack(states, 1)


@pytest.mark.parametrize('system', EVERY)
def test_policy_reproduces_the_states_of_training(system, seed, monkeypatch):
    """Act step by step, store as a recorder would, and filter the stored sequence as the learner does."""
    settings = config(system)
    spec = RobotSpec('test', (32, 32), (), ('a', 'b'), (-1, -1), (1, 1), 0.02, 2)
    learner = Learner(settings, spec, 'cpu', seed)
    learner.agent.load_state_dict(agent(system, seed=seed).state_dict())
    policy, rssm = learner.policy, learner.agent.model.rssm
    data = batch(3, 8, seed)
    is_first = data.is_first.clone()
    is_first[:, 0] = is_first[2, 5] = True
    noise = torch.randn(3, 8, policy.noise_size)
    actions, states = run(policy, data.image, is_first, noise)
    assert actions.abs().max() <= 1.0 and actions.std() > 0.1

    stored = learner.to_batch(
        dict(
            image=data.image.numpy(),
            vector=data.vector.numpy(),
            action=actions.numpy(),
            reward=data.reward.numpy(),
            is_first=is_first.numpy(),
            is_last=data.is_last.numpy(),
            is_terminal=data.is_terminal.numpy(),
            is_human=data.previous_human.numpy(),
        )
    )
    assert torch.equal(stored.previous_action[:, 1:], actions[:, :-1])
    latent_noise = rssm.latent.noise_from_normal(noise[..., : rssm.latent.size]).transpose(0, 1)
    monkeypatch.setattr(rssm.latent, 'noise', lambda *shape, device=None: latent_noise)
    with torch.no_grad():
        embed = learner.agent.model.encoder(stored.image.flatten(0, 1)).unflatten(0, (3, 8))
        trained, _, _ = rssm.observe(embed, stored.previous_action, stored.is_first)
    sizes = [rssm.deter_size, rssm.latent.size, ACTIONS]
    deter, stoch, previous = states.split(sizes, -1)
    torch.testing.assert_close(deter, trained.deter, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stoch, trained.stoch, rtol=1e-4, atol=1e-5)
    assert torch.equal(previous, actions)
    # an action is the actor's sample on the very feature that training sees
    with torch.no_grad():
        action = policy.distribution.sample(policy.actor(trained.feature), noise[..., -2 * ACTIONS : -ACTIONS])
        action = action + settings.actor.exploration_noise * noise[..., -ACTIONS:]
    torch.testing.assert_close(actions, action.clamp(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('system', EVERY)
def test_zero_noise_is_the_mode(system, seed):
    made = agent(system, seed=seed)
    policy, data = made.policy(), batch(2, 4, seed)
    is_first = torch.zeros(2, 4, dtype=torch.bool)
    is_first[:, 0] = True
    zero = torch.zeros(2, 4, policy.noise_size)
    first, states = run(policy, data.image, is_first, zero)
    second, _ = run(policy, data.image, is_first, zero)
    assert torch.equal(first, second)
    rssm = made.model.rssm
    deter, stoch, previous = (x[:, 1] for x in states.split(policy.sizes, -1))
    with torch.no_grad():
        mean = policy.actor(torch.cat([deter, stoch], -1)).chunk(2, -1)[0]
        posterior = rssm.posterior(deter, rssm.posterior_embed(policy.encoder(data.image[:, 1])))
    expected = torch.tanh(5 * torch.tanh(mean / 5)) if system == 'v1' else torch.tanh(mean)
    torch.testing.assert_close(previous, expected)
    if system == 'v1':
        torch.testing.assert_close(stoch, posterior.chunk(2, -1)[0])
    else:
        chosen = stoch.unflatten(-1, posterior.shape[-2:]).argmax(-2)
        assert torch.equal(chosen, posterior.argmax(-2))


def test_exploration_noise_is_added_and_clipped(seed):
    policy, data = agent('v1', seed=seed).policy(), batch(64, 1, seed)
    is_first = torch.ones(64, 1, dtype=torch.bool)
    noise = torch.zeros(64, 1, policy.noise_size)
    quiet, _ = run(policy, data.image, is_first, noise)
    noise[..., -ACTIONS:] = torch.randn(64, 1, ACTIONS) * 3
    noisy, states = run(policy, data.image, is_first, noise)
    torch.testing.assert_close(noisy, (quiet + 0.3 * noise[..., -ACTIONS:]).clamp(-1, 1))
    assert torch.equal(states[..., -ACTIONS:], noisy)  # the model is told what was really done


def test_one_row_of_a_batch_acts_as_it_does_alone(seed):
    policy, data = agent('v3', seed=seed).policy(), batch(3, 4, seed)
    noise = torch.randn(3, 4, policy.noise_size)
    is_first = data.is_first.clone()
    is_first[:, 0] = True
    together, _ = run(policy, data.image, is_first, noise)
    for row in range(3):
        alone, _ = run(policy, data.image[row : row + 1], is_first[row : row + 1], noise[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)
