"""The memory of World Models against scipy, torch.nn.LSTM and the paper's formulas."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from dreamer_ros.nets.mdn_rnn import MDNRNN, LSTMCell, LSTMState, Mixture, dream_noise, gumbel


def mixture(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Mixture(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)))


def test_log_likelihood_is_that_of_a_gaussian_mixture(rng):
    made = mixture(2, 3, 5, 4, seed=int(rng.integers(1 << 30)))
    z = rng.normal(size=(2, 3, 4))
    logits, mean, std = made.logits.numpy(), made.mean.numpy(), made.log_std.exp().numpy()
    expected = np.zeros((2, 3, 4))
    for index in np.ndindex(2, 3, 4):
        b, t, d = index
        share = scipy.special.softmax(logits[b, t, :, d])
        expected[index] = np.log(
            sum(share[k] * scipy.stats.norm.pdf(z[index], mean[b, t, k, d], std[b, t, k, d]) for k in range(5))
        )
    np.testing.assert_allclose(made.log_prob(torch.from_numpy(z)).numpy(), expected, rtol=1e-10)


def test_log_likelihood_stays_finite_far_away():
    made = mixture(1, 5, 2)
    value = made.log_prob(torch.full((1, 2), 1e6, dtype=torch.float64))
    assert torch.isfinite(value).all() and (value < -1e6).all()


@pytest.mark.parametrize('temperature', [0.3, 1.0, 1.3])
def test_samples_follow_the_mixture_at_a_temperature(temperature, seed):
    """Share of component k ∝ π_k^(1/τ); variance within it τ σ_k²."""
    torch.manual_seed(seed)
    count, logits = 200_000, torch.tensor([0.5, -0.5, 0.0])
    mean, std = torch.tensor([-50.0, 0.0, 50.0]), torch.tensor([1.0, 2.0, 0.5])
    one = Mixture(*(x.view(1, 3, 1).expand(count, 3, 1) for x in (logits, mean, std.log())))
    z = one.sample(temperature, *dream_noise(3, 1, count)).squeeze(-1)
    share = logits.exp() ** (1.0 / temperature)
    for k, expected in enumerate(share / share.sum()):
        own = z[(z - mean[k]).abs() < 25.0]
        variance = temperature * float(std[k]) ** 2
        assert len(own) / count == pytest.approx(float(expected), abs=0.006)
        # within five standard errors, of which a rare component has large ones
        assert float(own.mean()) == pytest.approx(float(mean[k]), abs=5.0 * (variance / len(own)) ** 0.5)
        assert float(own.var()) == pytest.approx(variance, rel=5.0 * (2.0 / len(own)) ** 0.5)


def test_gumbel_noise(seed):
    torch.manual_seed(seed)
    noise = gumbel(100_000).numpy()
    assert np.isfinite(noise).all()
    assert scipy.stats.kstest(noise, scipy.stats.gumbel_r.cdf).pvalue > 1e-4


def test_cell_is_torchs_lstm(seed):
    torch.manual_seed(seed)
    cell, reference = LSTMCell(3, 6), torch.nn.LSTM(3, 6, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(cell.input.weight)
        reference.weight_hh_l0.copy_(cell.recurrent.weight)
        reference.bias_ih_l0.copy_(cell.input.bias)
        reference.bias_hh_l0.zero_()
        x, state = torch.randn(4, 7, 3), LSTMState(torch.randn(4, 6), torch.randn(4, 6))
        expected, (h, c) = reference(x, (state.h[None], state.c[None]))
        for t in range(7):
            state = cell(x[:, t], state)
            torch.testing.assert_close(state.h, expected[:, t])
    torch.testing.assert_close(state.c, c[0])


def test_filter_restarts_where_an_episode_begins(seed):
    torch.manual_seed(seed)
    memory = MDNRNN(3, 2, 5, 4)
    z, action = torch.randn(2, 8, 3), torch.randn(2, 8, 2)
    is_first = torch.zeros(2, 8, dtype=torch.bool)
    is_first[1, 3] = True
    with torch.no_grad():
        whole = memory.filter(z, action, is_first)
        parts = [
            memory.filter(z[1:, :3], action[1:, :3], is_first[1:, :3]),
            memory.filter(z[1:, 3:], action[1:, 3:], is_first[1:, 3:]),
        ]
    for name in ('h', 'c'):
        torch.testing.assert_close(getattr(whole, name)[1], torch.cat([getattr(p, name)[0] for p in parts]))
        assert not getattr(whole, name)[:, 0].any() and not getattr(whole, name)[1, 3].any()
        assert getattr(whole, name)[0, 3].any()
    # the state before step t knows the steps before it and nothing else
    later = z.clone()
    later[:, 5:] += 1.0
    with torch.no_grad():
        again = memory.filter(later, action, is_first)
    assert torch.equal(again.h[:, :6], whole.h[:, :6]) and not torch.equal(again.h[:, 6], whole.h[:, 6])


def test_prediction_has_one_mixture_per_dimension():
    made = MDNRNN(3, 2, 6, 5).predict(torch.randn(4, 7, 6))
    assert all(part.shape == (4, 7, 5, 3) for part in made)
    assert made.log_prob(torch.randn(4, 7, 3)).shape == (4, 7, 3)
