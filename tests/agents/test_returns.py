"""Return estimators against the sums of the Dreamer paper, written out; alignment with dreamed states."""

import math

import numpy as np
import pytest
import torch

from dreamer_ros.agents.actor_critic import ActorCritic, lambda_returns, n_step_returns, reward_returns
from tests.agents.small import config


def product(values):
    return math.prod(values)


def bootstrapped(reward, value, discount, start, k):
    """V_N^k of index `start`: k rewards, discounted, then the value; shorter at the end of the trajectory."""
    k = min(k, len(reward) - start)
    total = sum(product(discount[start : start + j]) * reward[start + j] for j in range(k))
    return total + product(discount[start : start + k]) * value[start + k - 1]


def paper_lambda(reward, value, discount, start, lambda_):
    """V_λ = (1 − λ) Σ_{n=1}^{H−1} λ^{n−1} V_N^n + λ^{H−1} V_N^H."""
    horizon = len(reward)
    head = sum(lambda_ ** (n - 1) * bootstrapped(reward, value, discount, start, n) for n in range(1, horizon))
    return (1 - lambda_) * head + lambda_ ** (horizon - 1) * bootstrapped(reward, value, discount, start, horizon)


def trajectories(rng, horizon, count=4):
    reward, value = rng.normal(0, 2, (2, horizon, count))
    discount = rng.uniform(0, 1, (horizon, count))
    discount[rng.uniform(size=discount.shape) < 0.15] = 0.0  # an episode that ends inside the dream
    return reward, value, discount


@pytest.mark.parametrize('horizon', [1, 2, 3, 15])
@pytest.mark.parametrize('lambda_', [0.0, 0.5, 0.95, 1.0])
def test_lambda_returns_are_the_papers_sum(rng, horizon, lambda_):
    arrays = trajectories(rng, horizon)
    taken = lambda_returns(*(torch.tensor(a) for a in arrays), lambda_)
    expected = [[paper_lambda(*(a[:, i] for a in arrays), t, lambda_) for i in range(4)] for t in range(horizon)]
    np.testing.assert_allclose(taken, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('n', [1, 2, 7, 8, 30])
def test_n_step_returns(rng, n):
    arrays = trajectories(rng, 8)
    taken = n_step_returns(*(torch.tensor(a) for a in arrays), n)
    expected = [[bootstrapped(*(a[:, i] for a in arrays), t, n) for i in range(4)] for t in range(8)]
    np.testing.assert_allclose(taken, expected, rtol=1e-10, atol=1e-12)


def test_limits_of_lambda(rng):
    arrays = [torch.tensor(a) for a in trajectories(rng, 6)]
    torch.testing.assert_close(lambda_returns(*arrays, 0.0), n_step_returns(*arrays, 1))
    torch.testing.assert_close(lambda_returns(*arrays, 1.0), n_step_returns(*arrays, 6))


def test_reward_returns(rng):
    reward = torch.tensor(rng.normal(size=(5, 3)))
    expected = [[reward[t:, i].sum().item() for i in range(3)] for t in range(5)]
    np.testing.assert_allclose(reward_returns(reward), expected)


def behaviour(include_start, estimator, horizon, n_steps=15):
    gradient = 'reinforce' if include_start else 'dynamics'
    return ActorCritic(
        config(
            'v3',
            f'imagination.include_start={include_start}',
            f'imagination.estimator={estimator}',
            f'imagination.horizon={horizon}',
            f'imagination.n_steps={n_steps}',
            'imagination.lambda_=0.8',
            f'actor.gradient={gradient}',
        ),
        6,
        2,
    )


@pytest.mark.parametrize('estimator', ['lambda', 'n_step', 'reward'])
@pytest.mark.parametrize('include_start', [True, False])
@pytest.mark.parametrize('horizon, n_steps', [(2, 1), (3, 15), (6, 1), (6, 3), (6, 15)])
def test_targets_belong_to_their_states(rng, include_start, estimator, horizon, n_steps):
    """Walk from every dreamed state by its index, with rewards, discounts and values that belong to states."""
    arriving = {s: rng.normal(size=3) for s in range(1, horizon + 1)}  # reward on arriving at s_1 … s_H
    discount = rng.uniform(0.2, 1, (horizon + 1, 3))  # of going on from s_0 … s_H
    value = rng.normal(size=(horizon + 1, 3))
    returns, weight, span = behaviour(include_start, estimator, horizon, n_steps).targets(
        torch.tensor(np.stack([arriving[s] for s in range(1, horizon + 1)])),
        torch.tensor(discount),
        torch.tensor(value),
    )
    states = list(range(horizon + 1))[span]
    # Dreamer: v(s) counts the reward of arriving at s. DreamerV3: it counts from the next one on.
    assert states == list(range(0 if include_start else 1, horizon))
    first = 1 if include_start else 0

    def estimate(state, k):
        """k rewards from `state` on, then the value of the state where the walk stops."""
        k = min(k, horizon - state)
        total, factor = np.zeros(3), np.ones(3)
        for step in range(k):
            passed = state + first + step
            total = total + factor * arriving[passed]
            factor = factor * discount[passed]
        return total + factor * value[state + k]

    for row, state in enumerate(states):
        if estimator == 'reward':  # V_R: all the rewards left, to the end of the dream
            expected = sum(arriving[s] for s in range(state + first, horizon + 1))
        elif estimator == 'n_step':
            expected = estimate(state, n_steps)
        else:
            expected = 0.2 * sum(0.8 ** (n - 1) * estimate(state, n) for n in range(1, horizon))
            expected = expected + 0.8 ** (horizon - 1) * estimate(state, horizon)
        np.testing.assert_allclose(returns[row], expected, rtol=1e-10, err_msg=f's_{state}')
        # V2 and V3 also ask whether the start state itself goes on; Dreamer's targets start with weight 1
        passed = range(state + 1) if include_start else range(1, state)
        np.testing.assert_allclose(weight[row], product(discount[s] for s in passed) * np.ones(3))
    assert len(returns) == len(weight) == len(states)


def test_gradient_of_a_target_reaches_rewards_values_and_discounts(rng):
    inputs = [torch.tensor(rng.uniform(0.3, 1, (n, 2)), requires_grad=True) for n in (5, 6, 6)]
    assert torch.autograd.gradcheck(lambda *x: behaviour(False, 'lambda', 5).targets(*x)[0], inputs)
    _, weight, _ = behaviour(True, 'lambda', 5).targets(*inputs)
    assert not weight.requires_grad
