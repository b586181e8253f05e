"""Gaussian and categorical latents: statistics, samples, divergences and their gradients."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from dreamer_ros.nets.rssm import CategoricalLatent, GaussianLatent


def tensor(rng, *shape, scale=1.0):
    return torch.tensor(rng.normal(0, scale, shape))


def test_gaussian_stats_and_kl(rng):
    latent = GaussianLatent(5, 0.1)
    left, right = latent.stats(tensor(rng, 3, 4, 10)), latent.stats(tensor(rng, 3, 4, 10))
    raw = np.random.default_rng(0).normal(0, 2, (6, 10))
    stats = latent.stats(torch.tensor(raw)).numpy()
    np.testing.assert_array_equal(stats[:, :5], raw[:, :5])
    np.testing.assert_allclose(stats[:, 5:], np.log1p(np.exp(raw[:, 5:])) + 0.1)

    def reference(stats):
        return Independent(Normal(stats[..., :5], stats[..., 5:]), 1)

    torch.testing.assert_close(latent.kl(left, right), kl_divergence(reference(left), reference(right)))
    torch.testing.assert_close(latent.entropy(left), reference(left).entropy())
    assert (latent.kl(left, left).abs() < 1e-12).all()


def test_gaussian_kl_equals_a_monte_carlo_estimate(rng):
    latent = GaussianLatent(2, 0.1)
    left, right = latent.stats(tensor(rng, 4)), latent.stats(tensor(rng, 4))
    x = latent.sample(left, torch.tensor(rng.normal(0, 1, (200_000, 2))))

    def log_density(stats):
        mean, std = stats.chunk(2, -1)
        return (-0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    terms = log_density(left) - log_density(right)
    assert abs(terms.mean() - latent.kl(left, right)) < 5 * terms.std() / math.sqrt(len(terms))


@pytest.mark.parametrize('unimix', [0.0, 0.01, 0.3])
def test_categorical_stats_mix_in_the_uniform(rng, unimix):
    latent = CategoricalLatent(3, 4, unimix)
    logits = rng.normal(0, 5, (6, 12)).astype(np.float32).astype(np.float64)
    expected = np.empty((6, 4, 3))  # classes before variables
    for row in range(6):
        for variable in range(3):
            own = np.exp(logits[row].reshape(4, 3)[:, variable])
            expected[row, :, variable] = (1 - unimix) * own / own.sum() + unimix / 4
    stats = latent.stats(torch.tensor(logits))
    np.testing.assert_allclose(stats.exp(), expected, rtol=1e-4, atol=1e-7)
    if unimix:
        assert stats.exp().min() >= unimix / 4 * 0.9999


def test_categorical_kl_and_entropy(rng):
    latent = CategoricalLatent(3, 4, 0.01)
    left, right = (latent.stats(tensor(rng, 5, 2, 12, scale=3.0)).double() for _ in range(2))
    reference_left, reference_right = (Categorical(logits=x.transpose(-1, -2)) for x in (left, right))
    torch.testing.assert_close(
        latent.kl(left, right), kl_divergence(reference_left, reference_right).sum(-1), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(latent.entropy(left), reference_left.entropy().sum(-1), rtol=1e-6, atol=1e-6)


def test_certain_logits_keep_kl_finite():
    latent = CategoricalLatent(1, 3, 0.01)
    left = latent.stats(torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True))
    right = latent.stats(torch.tensor([[0.0, 0.0, 1e4]]))
    kl = latent.kl(left, right)
    high, low = 1 - 0.01 + 0.01 / 3, 0.01 / 3
    assert kl.item() == pytest.approx((high - low) * math.log(high / low), rel=1e-4)


def chi_square(counts, probs):
    expected = counts.sum() * probs
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize('source', ['gumbel', 'normal'])
def test_sample_frequencies(seed, source):
    """Chi-square of both noise sources; 7 degrees of freedom exceed 40 once in a million runs."""
    torch.manual_seed(seed)
    latent = CategoricalLatent(2, 8, 0.01)
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -4.0], [0.0] * 8])
    stats = latent.stats(logits.T.reshape(1, 16))
    count = 100_000
    if source == 'gumbel':
        noise = latent.noise(count)
    else:
        noise = latent.noise_from_normal(torch.randn(count, latent.size))
    sample = latent.sample(stats.expand(count, -1, -1), noise).view(count, 8, 2)
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert (sample.sum(1) == 1).all()
    for variable in range(2):
        frequency = sample[:, :, variable].sum(0).double().numpy()
        assert chi_square(frequency, stats[0, :, variable].exp().double().numpy()) < 40.0
    joint = (sample[:, :, 0].T @ sample[:, :, 1]).double().numpy().reshape(-1)  # variables are independent
    product = torch.outer(stats[0, :, 0].exp(), stats[0, :, 1].exp()).double().numpy().reshape(-1)
    assert chi_square(joint, product / product.sum()) < 140.0  # 63 degrees of freedom


def test_zero_normals_give_the_mode(rng):
    latent = CategoricalLatent(4, 5, 0.01)
    stats = latent.stats(tensor(rng, 30, 20, scale=0.1))
    sample = latent.sample(stats, latent.noise_from_normal(torch.zeros(30, 20))).view(30, 5, 4)
    assert torch.equal(sample.sum(1), torch.ones(30, 4)) and torch.equal(sample.argmax(1), stats.argmax(1))
    tied = latent.sample(latent.stats(torch.zeros(2, 20)), torch.zeros(2, 5, 4)).view(2, 5, 4)
    assert torch.equal(tied[:, 0], torch.ones(2, 4)) and not tied[:, 1:].any()
    gaussian = GaussianLatent(3, 0.1)
    raw = tensor(rng, 7, 6)
    assert torch.equal(gaussian.sample(gaussian.stats(raw), gaussian.noise_from_normal(torch.zeros(7, 3))), raw[:, :3])


@pytest.mark.parametrize('value', [-40.0, 40.0])
def test_extreme_normals_stay_finite(value):
    latent = CategoricalLatent(2, 3, 0.01)
    assert torch.isfinite(latent.noise_from_normal(torch.full((1, 6), value))).all()


def test_straight_through_gradient_is_that_of_the_probabilities(rng):
    latent = CategoricalLatent(3, 4, 0.01)
    raw = tensor(rng, 6, 12).requires_grad_()
    weight = tensor(rng, 6, 12)
    stats = latent.stats(raw)
    sample = latent.sample(stats, latent.noise(6))
    rounded = sample.detach().round()
    torch.testing.assert_close(sample.detach(), rounded, atol=1e-6, rtol=0)  # its value is one-hot
    (sample * weight).sum().backward()
    taken, raw.grad = raw.grad, None
    (latent.stats(raw).exp().flatten(-2) * weight).sum().backward()
    assert taken.abs().max() > 1e-3
    torch.testing.assert_close(taken, raw.grad)


def test_gaussian_sample_gradient(rng):
    latent = GaussianLatent(3, 0.1)
    raw, noise = tensor(rng, 4, 6).requires_grad_(), tensor(rng, 4, 3)
    assert torch.autograd.gradcheck(lambda r: latent.sample(latent.stats(r), noise), (raw,))
    assert torch.autograd.gradcheck(lambda r: latent.kl(latent.stats(r), latent.stats(r.flip(0))), (raw,))
