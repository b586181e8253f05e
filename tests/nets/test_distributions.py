"""Scalar and action distributions against float64 references written from their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erfinv as exact_erfinv
from scipy.stats import kstest, truncnorm

from dreamer_ros.nets.distributions import (
    ACTIONS,
    BoundedNormal,
    Normal,
    OneHot,
    TanhNormal,
    TruncatedNormal,
    TwoHot,
    bounded,
    erfinv,
)
from dreamer_ros.nets.layers import softplus_inverse, symexp, symlog

BINS = np.array([math.copysign(math.expm1(abs(x)), x) for x in (-20.0 + 40.0 * i / 254 for i in range(255))])


def softplus(x):
    return np.logaddexp(0.0, x)


def two_hot(value):
    """One row of 255 weights, by search through the bins."""
    row = np.zeros(255)
    if value <= BINS[0]:
        row[0] = 1.0
    elif value >= BINS[-1]:
        row[-1] = 1.0
    else:
        below = max(i for i in range(255) if BINS[i] <= value)
        share = (value - BINS[below]) / (BINS[below + 1] - BINS[below])
        row[below], row[below + 1] = 1.0 - share, share
    return row


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_symlog_and_symexp():
    values = torch.tensor([-1e6, -3.0, -1e-4, 0.0, 1e-4, 3.0, 1e6], dtype=torch.float64)
    expected = [math.copysign(math.log(1.0 + abs(v)), v) for v in values.tolist()]
    np.testing.assert_allclose(symlog(values), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(symexp(symlog(values)), values, rtol=1e-9)
    assert softplus(softplus_inverse(5.0)) == pytest.approx(5.0, abs=1e-12)
    assert softplus_inverse(5.0) == pytest.approx(math.log(math.exp(5.0) - 1.0), abs=1e-12)


def test_twohot_bins():
    bins = TwoHot().bins('cpu')
    np.testing.assert_allclose(bins.numpy(), BINS, rtol=1e-6, atol=1e-9)
    assert torch.equal(bins, -bins.flip(0)) and bins[127] == 0.0


def test_twohot_target_is_the_reference_and_preserves_the_value(rng):
    bins = TwoHot().bins('cpu')
    magnitudes = np.exp(rng.uniform(-6, 19, 200)) * rng.choice([-1, 1], 200)
    values = np.concatenate([magnitudes, bins.numpy()[[0, 1, 126, 127, 128, 253, 254]], [0.0, 1e-9, -1e-9]])
    below, above, weight = TwoHot().target(torch.tensor(values, dtype=torch.float32))
    assert torch.equal(above, below + 1) and (below >= 0).all() and (above <= 254).all()
    dense = np.zeros((len(values), 255))
    rows = np.arange(len(values))
    dense[rows, below] += 1.0 - weight.double().numpy()
    dense[rows, above] += weight.double().numpy()
    np.testing.assert_allclose(dense.sum(-1), 1.0)
    np.testing.assert_allclose(dense, [two_hot(v) for v in values], atol=1e-4)
    np.testing.assert_allclose(dense @ bins.double().numpy(), values, rtol=1e-4, atol=1e-6)


def test_twohot_loss_is_the_cross_entropy(rng):
    logits = rng.normal(0, 3, (64, 255))
    values = np.concatenate([rng.normal(0, 10, 32), np.exp(rng.uniform(0, 25, 16)), -np.exp(rng.uniform(0, 25, 16))])
    expected = [-(two_hot(v) * row).sum() for v, row in zip(values, log_softmax(logits))]
    loss = TwoHot().loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(values, dtype=torch.float32))
    np.testing.assert_allclose(loss, expected, rtol=2e-4)


def test_twohot_mean(rng):
    logits = rng.normal(0, 1, (32, 255)) - 0.3 * np.abs(np.arange(255) - 140)
    expected = (np.exp(log_softmax(logits)) * BINS).sum(-1)
    np.testing.assert_allclose(TwoHot().mean(torch.tensor(logits, dtype=torch.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize('level', [0.0, 1.0, -7.3])
def test_equal_logits_mean_exactly_zero(level):
    assert (TwoHot().mean(torch.full((5, 3, 255), level)) == 0.0).all()


def test_mirrored_logits_mirror_the_mean(rng):
    logits = torch.tensor(rng.normal(0, 2, (16, 255)), dtype=torch.float32)
    torch.testing.assert_close(TwoHot().mean(logits.flip(-1)), -TwoHot().mean(logits), rtol=1e-5, atol=1.0)
    symmetric = torch.cat([logits[:, :128], logits[:, :127].flip(-1)], -1)
    assert (TwoHot().mean(symmetric) == 0.0).all()


@pytest.mark.parametrize('value', [1e9, -1e9, 3e38, -3e38, math.inf, -math.inf])
def test_values_beyond_the_bins_train_the_outer_bin(value):
    logits = torch.zeros(1, 255, requires_grad=True)
    loss = TwoHot().loss(logits, torch.tensor([value]))
    assert loss.item() == pytest.approx(math.log(255), rel=1e-5)
    loss.sum().backward()
    edge = 254 if value > 0 else 0
    assert logits.grad.argmin() == edge and logits.grad[0, edge].item() == pytest.approx(1 / 255 - 1, rel=1e-4)


def test_twohot_regression_reaches_its_target():
    logits = torch.zeros(4, 255, requires_grad=True)
    targets = torch.tensor([-250.0, 0.0, 3.7, 12345.0])
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        TwoHot().loss(logits, targets).sum().backward()
        optimizer.step()
    logits = logits.detach() - torch.where(logits.detach() < logits.detach().max(-1, True).values - 6, 100.0, 0.0)
    np.testing.assert_allclose(TwoHot().mean(logits), targets, rtol=0.02, atol=0.01)


def test_normal_loss_is_its_negative_log_likelihood_up_to_a_constant(rng):
    raw, target = (torch.tensor(rng.normal(0, 3, (7, *end)), dtype=torch.float64) for end in ((1,), ()))
    reference = -torch.distributions.Normal(raw[:, 0], 1.0).log_prob(target) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(Normal().loss(raw, target), reference)
    assert torch.equal(Normal().mean(raw), raw[:, 0])


def tanh_normal_log_density(raw_mean, raw_std, action):
    """ln p(a) = ln N(atanh a) − ln(1 − a²), in float64."""
    mean = 5.0 * np.tanh(raw_mean / 5.0)
    std = softplus(raw_std + math.log(math.exp(5.0) - 1.0)) + 1e-4
    x = 0.5 * (np.log1p(action) - np.log1p(-action))
    normal = -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    return normal - np.log1p(-action) - np.log1p(action)


def test_tanh_normal_log_prob(rng):
    raw = rng.normal(0, 3, (50, 6)).astype(np.float32)
    action = np.tanh(rng.normal(0, 1.5, (50, 3))).astype(np.float32)
    action[:5] = [
        [0.0, 0.999, -0.999],
        [0.9999, -0.9999, 0.5],
        [0.99999, -0.99999, -0.5],
        [1e-6, -1e-6, 0.1],
        [0, 0, 0],
    ]
    expected = tanh_normal_log_density(
        *raw.astype(np.float64).reshape(50, 2, 3).swapaxes(0, 1), action.astype(np.float64)
    ).sum(-1)
    np.testing.assert_allclose(
        TanhNormal().log_prob(torch.tensor(raw), torch.tensor(action)), expected, rtol=1e-3, atol=2e-3
    )


@pytest.mark.parametrize('mean, std', [(0.0, -5.0), (2.0, -4.0), (-8.0, -5.2), (0.3, -8.0)])
def test_tanh_normal_density_integrates_to_one(mean, std):
    # nodes are equally spaced before tanh: most of the mass can lie close to ±1
    x = torch.linspace(-7.2, 7.2, 40001, dtype=torch.float64)
    action = torch.tanh(x)
    raw = torch.tensor([mean, std]).expand(len(x), 2)
    density = TanhNormal().log_prob(raw, action.float()[:, None]).double().exp()
    centre, width = (p.double() for p in TanhNormal().parameters(torch.tensor([mean, std])))
    inside = torch.special.ndtr((7.2 - centre) / width) - torch.special.ndtr((-7.2 - centre) / width)
    assert torch.trapezoid(density, action).item() == pytest.approx(inside.item(), rel=2e-3)


def test_tanh_normal_at_the_bounds_is_finite_with_a_finite_gradient():
    raw = torch.tensor([[0.5, -0.5, 0.0, 0.0]], requires_grad=True)
    log_prob = TanhNormal().log_prob(raw, torch.tensor([[1.0, -1.0]]))
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all() and torch.isfinite(raw.grad).all()


def test_tanh_normal_samples_have_its_distribution(seed):
    torch.manual_seed(seed)
    raw = torch.tensor([0.4, -4.5]).expand(100_000, 2)
    action = TanhNormal().sample(raw, torch.randn(100_000, 1))[:, 0].double().numpy()
    mean = 5.0 * math.tanh(0.4 / 5.0)
    std = softplus(-4.5 + math.log(math.exp(5.0) - 1.0)) + 1e-4
    for quantile, z in ((0.1, -1.2815515655), (0.5, 0.0), (0.9, 1.2815515655)):
        share = (action < math.tanh(mean + z * std)).mean()
        assert abs(share - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / 1e5)


def test_bounded_normal_is_the_papers(rng):
    raw = rng.normal(0, 2, (40, 4))
    noise = rng.normal(0, 1, (40, 2))
    mean, std = np.tanh(raw[:, :2]), 0.9 / (1.0 + np.exp(-(raw[:, 2:] + 2.0))) + 0.1
    distribution = BoundedNormal()
    tensor = torch.tensor(raw)
    action = distribution.sample(tensor, torch.tensor(noise))
    np.testing.assert_allclose(action, mean + std * noise, rtol=1e-12)
    reference = torch.distributions.Normal(torch.tensor(mean), torch.tensor(std))
    torch.testing.assert_close(distribution.log_prob(tensor, action), reference.log_prob(action).sum(-1))
    torch.testing.assert_close(distribution.entropy(tensor), reference.entropy().sum(-1))


def truncated_reference(raw):
    """scipy's distribution for raw values [..., 2] of one action."""
    mean, std = np.tanh(raw[..., 0]), 2.0 / (1.0 + np.exp(-raw[..., 1] / 2.0)) + 0.1
    return truncnorm((-1.0 - mean) / std, (1.0 - mean) / std, mean, std)


def test_truncated_normal_log_prob_and_entropy(rng):
    raw = np.concatenate([rng.normal(0, 3, (40, 2)), [[30.0, -30.0], [-30.0, -30.0], [30.0, 30.0], [0.0, -30.0]]])
    reference = truncated_reference(raw)
    action = reference.ppf(rng.uniform(size=44))
    tensor = torch.tensor(raw)
    np.testing.assert_allclose(
        TruncatedNormal().log_prob(tensor, torch.tensor(action)[:, None]),
        reference.logpdf(action),
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_allclose(TruncatedNormal().entropy(tensor), reference.entropy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('raw', [(0.0, 0.0), (0.0, -8.0), (1.5, -2.0), (-2.0, 4.0), (30.0, 1.0), (-30.0, -30.0)])
def test_truncated_normal_samples_have_its_distribution(raw, seed):
    torch.manual_seed(seed)
    rows = torch.tensor(raw).expand(50_000, 2)
    action = TruncatedNormal().sample(rows, torch.randn(50_000, 1))[:, 0].double().numpy()
    assert np.abs(action).max() <= 1.0 + 1e-6
    assert kstest(action, truncated_reference(np.array(raw)).cdf).pvalue > 1e-6


def test_truncated_normal_moves_with_its_parameters_at_a_fixed_quantile(rng):
    """The gradient of a sample is the derivative of the inverse distribution function."""
    raw = rng.normal(0, 1.5, (30, 2))
    tensor = torch.tensor(raw, requires_grad=True)
    action = TruncatedNormal().sample(tensor, torch.tensor(rng.normal(size=(30, 1))))
    (gradient,) = torch.autograd.grad(action.sum(), tensor)
    quantile = truncated_reference(raw).cdf(action.detach()[:, 0].numpy())
    for column in range(2):
        step = np.zeros(2)
        step[column] = 1e-5
        ends = [truncated_reference(raw + sign * step).ppf(quantile) for sign in (1, -1)]
        np.testing.assert_allclose(gradient[:, column], (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-4)


def test_inverse_error_function():
    x = np.concatenate([np.linspace(-1 + 1e-6, 1 - 1e-6, 20_001), [0.0, 1e-9]])
    np.testing.assert_allclose(erfinv(torch.tensor(x)), exact_erfinv(x), rtol=1e-6)
    ends = erfinv(torch.tensor([-1.0, 1.0], requires_grad=True))
    assert ends.tolist() == pytest.approx([-exact_erfinv(1 - 1e-6), exact_erfinv(1 - 1e-6)], rel=1e-2)


@pytest.mark.parametrize('name', sorted(ACTIONS))
def test_zero_noise_gives_the_mode(name, rng):
    raw = torch.tensor(np.concatenate([rng.normal(0, 1, (20, 4)), [[40.0, -40.0, 0.0, -40.0]]]))
    mode = ACTIONS[name]().sample(raw, torch.zeros(21, 2, dtype=torch.float64))
    expected = torch.tanh(5.0 * torch.tanh(raw[:, :2] / 5.0)) if name == 'tanh_normal' else torch.tanh(raw[:, :2])
    torch.testing.assert_close(mode, expected)


@pytest.mark.parametrize('name', sorted(ACTIONS))
def test_gradients_of_samples_and_entropies(name, rng):
    raw = torch.tensor(rng.normal(0, 1, (20, 4)), requires_grad=True)
    distribution = ACTIONS[name]()
    noise = torch.tensor(rng.normal(0, 1, (20, 2)))
    if name != 'truncated_normal':  # whose quantile moves with the mode: see its own test
        assert torch.autograd.gradcheck(lambda r: distribution.sample(r, noise), (raw,))
    assert torch.autograd.gradcheck(lambda r: distribution.entropy(r), (raw,))
    action = distribution.sample(raw, 0.1 * noise).detach().clamp(-0.99, 0.99)
    if name != 'tanh_normal':  # computes its likelihood in float32
        assert torch.autograd.gradcheck(lambda r: distribution.log_prob(r, action), (raw,))


@pytest.mark.parametrize('name', sorted(ACTIONS))
def test_extreme_outputs_of_the_network_stay_finite(name):
    values = torch.tensor([-1e4, -20.0, 0.0, 20.0, 1e4])
    raw = torch.cartesian_prod(values, values).requires_grad_()
    distribution = ACTIONS[name]()
    for noise in (-6.0, 0.0, 6.0):
        action = distribution.sample(raw, torch.full((25, 1), noise))
        total = action + distribution.entropy(raw) + distribution.log_prob(raw, action.detach())
        (gradient,) = torch.autograd.grad(total.sum(), raw)
        assert torch.isfinite(total).all() and torch.isfinite(gradient).all()


def test_one_hot_probabilities(rng):
    logits = rng.normal(0, 3, (50, 4)).astype(np.float32)
    probs = 0.99 * np.exp(log_softmax(logits.astype(np.float64))) + 0.01 / 4
    choice = rng.integers(0, 4, 50)
    distribution, tensor = OneHot(0.01), torch.tensor(logits)
    np.testing.assert_allclose(
        distribution.log_prob(tensor, torch.eye(4)[choice]), np.log(probs[np.arange(50), choice]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(distribution.entropy(tensor), -(probs * np.log(probs)).sum(-1), rtol=1e-4)
    pure = OneHot(0.0).parameters(tensor)
    np.testing.assert_allclose(pure, log_softmax(logits.astype(np.float64)), rtol=1e-4, atol=1e-5)


def test_one_hot_samples(seed):
    torch.manual_seed(seed)
    logits = torch.tensor([2.0, 0.5, 0.0, -4.0]).expand(100_000, 4)
    sample = OneHot(0.01).sample(logits, torch.randn(100_000, 4))
    assert set(sample.unique().tolist()) == {0.0, 1.0} and (sample.sum(-1) == 1.0).all()
    expected = OneHot(0.01).parameters(logits[0]).exp().double()
    deviation = (expected * (1 - expected) / len(sample)).sqrt()
    assert ((sample.double().mean(0) - expected).abs() < 5 * deviation).all()


def test_one_hot_without_noise_is_the_likeliest_choice(rng):
    logits = torch.tensor(rng.normal(0, 1, (30, 5)))
    mode = OneHot(0.01).sample(logits, torch.zeros(30, 5))
    assert torch.equal(mode.argmax(-1), logits.argmax(-1)) and (mode.sum(-1) == 1.0).all()
    tied = OneHot(0.0).sample(torch.zeros(3, 4), torch.zeros(3, 4))  # as an actor begins
    assert torch.equal(tied, torch.eye(4)[[0, 0, 0]])


def test_one_hot_gradient_is_that_of_the_probabilities(rng):
    logits = torch.tensor(rng.normal(0, 1, (6, 4)), requires_grad=True)
    weight = torch.tensor(rng.normal(0, 1, (6, 4)))
    sample = OneHot(0.01).sample(logits, torch.tensor(rng.normal(0, 1, (6, 4))))
    assert torch.equal(sample.detach(), torch.eye(4, dtype=torch.float64)[sample.argmax(-1)])
    (taken,) = torch.autograd.grad((sample * weight).sum(), logits)
    (expected,) = torch.autograd.grad((OneHot(0.01).parameters(logits).exp() * weight).sum(), logits)
    torch.testing.assert_close(taken, expected)


def test_bounded_clips_the_value_and_passes_the_gradient():
    action = torch.tensor([-3.0, -1.0, 0.2, 1.5], requires_grad=True)
    clipped = bounded(action)
    torch.testing.assert_close(clipped.detach(), torch.tensor([-1.0, -1.0, 0.2, 1.0]))
    (clipped * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert action.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize('distribution', [BoundedNormal(), TruncatedNormal(), OneHot(0.01)])
def test_score_has_zero_mean_under_the_samples(distribution, seed):
    """E[∇ ln p(a)] = 0 holds only for the likelihood of the very actions that were drawn."""
    torch.manual_seed(seed)
    count = 200_000
    raw = torch.tensor([1.2, 2.0], dtype=torch.float64)  # half of the normal's mass is beyond 1
    rows = raw.expand(count, 2).detach().requires_grad_()
    noise = torch.randn(count, 2 // distribution.raw_per_action, dtype=torch.float64)
    action = distribution.sample(rows, noise).detach()
    distribution.log_prob(rows, action).sum().backward()
    mean, deviation = rows.grad.mean(0), rows.grad.std(0) / math.sqrt(count)
    assert (mean.abs() < 5 * deviation).all(), (mean, deviation)
