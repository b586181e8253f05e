"""The cross-entropy method: it finds optima, refits as written, and is one pure function of its noise."""

import numpy as np
import torch

from dreamer_ros.agents.planet import cross_entropy_method


def quadratic(optimum):
    """Score whose maximum over sequences [B, N, H, A] is at `optimum` [B, H, A]."""
    return lambda actions, iteration: -(actions - optimum[:, None]).square().sum((-2, -1))


def test_finds_the_optimum_of_a_quadratic(seed):
    torch.manual_seed(seed)
    optimum = torch.rand(3, 4, 2) * 1.6 - 0.8
    plan = cross_entropy_method(quadratic(optimum), torch.randn(12, 3, 500, 4, 2), 50)
    torch.testing.assert_close(plan, optimum, atol=0.02, rtol=0)


def test_an_optimum_out_of_reach_is_met_at_the_bound(seed):
    torch.manual_seed(seed)
    optimum = torch.tensor([[[3.0, -2.0]]])
    plan = cross_entropy_method(quadratic(optimum), torch.randn(10, 1, 500, 1, 2), 50)
    torch.testing.assert_close(plan, torch.tensor([[[1.0, -1.0]]]), atol=0.02, rtol=0)


def test_is_the_papers_loop(rng):
    """One row, written out with sorting and numpy; the score differs from iteration to iteration."""
    iterations, candidates, horizon, actions, elites = 3, 20, 4, 2, 5
    noise = rng.normal(size=(iterations, 1, candidates, horizon, actions))
    weights = rng.normal(size=(iterations, horizon, actions))
    mean, std = np.zeros((horizon, actions)), np.ones((horizon, actions))
    for i in range(iterations):
        drawn = np.clip(mean + std * noise[i, 0], -1, 1)
        order = np.argsort([(weights[i] * one).sum() for one in drawn])
        best = drawn[order[-elites:]]
        mean, std = best.mean(0), np.sqrt(best.var(0) + 1e-6)
    weights = torch.tensor(weights)
    plan = cross_entropy_method(
        lambda drawn, iteration: (weights[iteration] * drawn).sum((-2, -1)), torch.tensor(noise), elites
    )
    np.testing.assert_allclose(plan[0].numpy(), mean, atol=1e-9)


def test_rows_of_a_batch_do_not_mix(seed):
    torch.manual_seed(seed)
    optimum, noise = torch.rand(4, 3, 2) * 2 - 1, torch.randn(5, 4, 60, 3, 2)
    together = cross_entropy_method(quadratic(optimum), noise, 10)
    for row in range(4):
        alone = cross_entropy_method(quadratic(optimum[row : row + 1]), noise[:, row : row + 1], 10)
        torch.testing.assert_close(together[row], alone[0])


def test_no_noise_means_no_plan():
    """All candidates are the mean, and nothing is divided by their spread."""
    plan = cross_entropy_method(quadratic(torch.full((1, 3, 2), 0.5)), torch.zeros(4, 1, 10, 3, 2), 3)
    assert torch.equal(plan, torch.zeros(1, 3, 2))
