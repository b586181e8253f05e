"""CMA-ES in buffers: it solves known problems and goes on exactly where it was."""

import pytest
import torch

from dreamer_ros.agents.cma_es import CMAES, FULL_COVARIANCE


def sphere(x):
    return -(x - torch.arange(float(x.shape[-1]))).square().sum(-1)


def rosenbrock(x):
    return -(100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(-1)


@pytest.mark.parametrize(
    'fitness, size, generations, optimum', [(sphere, 10, 150, torch.arange(10.0)), (rosenbrock, 5, 400, torch.ones(5))]
)
def test_known_optimum_is_found(fitness, size, generations, optimum, seed):
    torch.manual_seed(seed)
    evolution = CMAES(size, 16, 0.5)
    for _ in range(generations):
        evolution.step(fitness)
    assert int(evolution.generation) == generations
    torch.testing.assert_close(evolution.mean.float(), optimum, atol=1e-3, rtol=0)


def test_many_numbers_take_a_diagonal_covariance(seed):
    """As many as the controller of a humanoid has; the full one would take a minute per generation."""
    torch.manual_seed(seed)
    evolution = CMAES(3000, 32, 0.5)
    assert evolution.covariance.shape == (3000,)
    scale = torch.linspace(1.0, 3.0, 3000)
    costs = [-evolution.step(lambda x: -(scale * (x - 1.0)).square().sum(-1)).min().item() for _ in range(600)]
    assert costs[-1] < 0.4 * costs[0]
    narrow = evolution.covariance[scale > 2.5].mean() / evolution.covariance[scale < 1.5].mean()
    assert narrow < 0.995, 'steep directions are searched in smaller steps'


@pytest.mark.parametrize('size', [6, FULL_COVARIANCE + 1])
def test_resumes_bit_for_bit(size, seed):
    torch.manual_seed(seed)
    first, second = CMAES(size, 8, 0.3), CMAES(size, 8, 0.9)
    for _ in range(20):
        first.step(rosenbrock)
    second.load_state_dict(first.state_dict())
    random = torch.get_rng_state()
    expected = [first.step(rosenbrock) for _ in range(20)]
    torch.set_rng_state(random)
    actual = [second.step(rosenbrock) for _ in range(20)]
    assert all(torch.equal(a, b) for a, b in zip(expected, actual))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert first.covariance.dtype == torch.float64


def test_candidates_follow_the_distribution(seed):
    torch.manual_seed(seed)
    evolution, seen = CMAES(3, 20_000, 0.1), []
    root = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, -1.0, 0.5]], dtype=torch.float64)
    evolution.covariance.copy_(root @ root.T)
    evolution.mean.copy_(torch.tensor([5.0, -1.0, 0.0]))
    evolution.step(lambda x: seen.append(x) or x[:, 0])
    candidates = seen[0].double()
    torch.testing.assert_close(candidates.mean(0), torch.tensor([5.0, -1.0, 0.0]).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(candidates.T), 0.01 * root @ root.T, atol=2e-3, rtol=0)


def test_what_is_not_finite_counts_as_worst(seed):
    torch.manual_seed(seed)
    evolution = CMAES(4, 24, 0.5)

    def fitness(x):
        values = sphere(x)
        values[::6], values[1::6] = torch.nan, torch.inf
        return values

    for _ in range(250):
        evolution.step(fitness)
    torch.testing.assert_close(evolution.mean.float(), torch.arange(4.0), atol=0.1, rtol=0)
