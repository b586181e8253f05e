"""Recurrent cells against naive references, and the scan: resets, single steps, noise."""

import numpy as np
import pytest
import torch
from torch import nn

from dreamer_ros.config import RssmConfig
from dreamer_ros.nets.layers import BlockLinear, RMSNorm, dense, from_blocks, to_blocks, truncated_normal
from dreamer_ros.nets.rssm import GRU, RSSM, BlockGRU, LayerNormGRU, State

SYSTEMS = {
    'v1': dict(deter=8, hidden=7, stoch=3, classes=0, cell='gru', prior_layers=1, activation='elu', norm='none'),
    'v2': dict(
        deter=8, hidden=6, stoch=3, classes=4, cell='layernorm_gru', prior_layers=1, activation='elu', norm='layer'
    ),
    'v3': dict(deter=8, hidden=6, stoch=3, classes=4, cell='block_gru', blocks=4, posterior_layers=2),
}
EMBED, ACTION = 5, 2


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def config(name):
    return RssmConfig(**SYSTEMS[name])


def disturb(module, seed):
    """Random values in every parameter: initial ones and zeros would hide a forgotten scale or bias."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def cell_inputs(rng, batch=5, stoch=3, deter=8):
    return tuple(torch.tensor(rng.normal(0, 1.5, (batch, n))) for n in (deter, stoch, ACTION))


def numbers(tensor):
    return tensor.detach().numpy()


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def layer_norm(x, norm):
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-3) * numbers(norm.weight) + numbers(
        norm.bias
    )


def rms_norm(x, norm):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * numbers(norm.scale)


def linear(x, layer):
    return x @ numbers(layer.weight).T + (0.0 if layer.bias is None else numbers(layer.bias))


def test_gru_is_torch_gru_cell_on_a_dense_layer(rng, seed):
    cell = disturb(GRU(config('v1'), 3, ACTION), seed)
    deter, stoch, action = cell_inputs(rng)
    joint = nn.Linear(3 + ACTION, 7)
    reference = nn.GRUCell(7, 8)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([cell.stoch.weight, cell.action.weight], 1))
        joint.bias.copy_(cell.stoch.bias)
        reference.weight_ih.copy_(cell.input.weight)
        reference.bias_ih.copy_(cell.input.bias)
        reference.weight_hh.copy_(cell.recurrent.weight)
        reference.bias_hh.copy_(cell.recurrent.bias)
    expected = reference(nn.functional.elu(joint(torch.cat([stoch, action], -1))), deter)
    torch.testing.assert_close(cell(deter, stoch, cell.project_action(action)), expected)


def test_layer_norm_gru(rng, seed):
    cell = disturb(LayerNormGRU(config('v2'), 3, ACTION), seed)
    deter, stoch, action = (numbers(x) for x in cell_inputs(rng))
    projected = linear(stoch, cell.stoch) + linear(action, cell.action)
    x = layer_norm(projected, cell.input[0])
    x = np.where(x > 0, x, np.expm1(x))
    parts = layer_norm(linear(x, cell.hidden) + linear(deter, cell.recurrent), cell.norm)
    reset, candidate, update = parts[:, :8], parts[:, 8:16], parts[:, 16:]
    update = sigmoid(update - 1.0)
    expected = update * np.tanh(sigmoid(reset) * candidate) + (1.0 - update) * deter
    taken = cell(*(torch.tensor(x) for x in (deter, stoch)), cell.project_action(torch.tensor(action)))
    np.testing.assert_allclose(numbers(taken), expected, rtol=1e-9)


def test_block_gru_block_by_block(rng, seed):
    blocks, width = 4, 2
    cell = disturb(BlockGRU(config('v3'), 3, ACTION), seed)
    deter, stoch, action = (numbers(x) for x in cell_inputs(rng))
    action[0] = [3.0, -0.5]  # beyond its bounds: scaled by max(1, |a|)

    def project(x, layer):
        return silu(rms_norm(linear(x, layer[0]), layer[1]))

    shared = np.concatenate(
        [
            project(deter, cell.deter_in),
            project(stoch, cell.stoch_in),
            project(action / np.maximum(1.0, np.abs(action)), cell.action_in),
        ],
        -1,
    )
    hidden = np.empty_like(deter)
    for block in range(blocks):
        columns = slice(block * width, (block + 1) * width)
        x = np.concatenate([deter[:, columns], shared], -1)
        hidden[:, columns] = x @ numbers(cell.hidden.weight[block]) + numbers(cell.hidden.bias[block])
    hidden = silu(rms_norm(hidden, cell.norm))
    expected = np.empty_like(deter)
    for block in range(blocks):
        columns = slice(block * width, (block + 1) * width)
        gates = hidden[:, columns] @ numbers(cell.gates.weight[block]) + numbers(cell.gates.bias[block])
        reset, candidate, update = gates[:, :width], gates[:, width : 2 * width], gates[:, 2 * width :]
        update = sigmoid(update - 1.0)
        expected[:, columns] = update * np.tanh(sigmoid(reset) * candidate) + (1.0 - update) * deter[:, columns]
    taken = cell(torch.tensor(deter), torch.tensor(stoch), cell.project_action(torch.tensor(action)))
    np.testing.assert_allclose(numbers(taken), expected, rtol=1e-4, atol=1e-6)  # norms compute in float32


def test_block_layout_round_trip_and_independence(rng):
    x = torch.tensor(rng.normal(size=(3, 8)))
    assert torch.equal(from_blocks(to_blocks(x, 4)), x)
    assert torch.equal(to_blocks(x, 4)[1], x[:, 2:4])
    layer = BlockLinear(8, 12, 4)
    moved = x.clone()
    moved[:, 2:4] += 1.0  # the second block
    change = (from_blocks(layer(to_blocks(moved, 4))) - from_blocks(layer(to_blocks(x, 4)))).abs().amax(0)
    assert (change[3:6] > 0).all() and (change[[0, 1, 2, 6, 7, 8, 9, 10, 11]] == 0).all()


def test_initial_weights_have_variance_one_over_the_full_fan_in(seed):
    torch.manual_seed(seed)
    layer = BlockLinear(512, 1024, 8)
    bound = 2.0 / np.sqrt(512) / 0.87962566103423978
    assert layer.weight.std().item() == pytest.approx(1 / np.sqrt(512), rel=0.02)
    assert 0.95 * bound < layer.weight.abs().max() <= bound
    weight = torch.empty(400, 300)
    truncated_normal(weight, 300)
    assert weight.std().item() == pytest.approx(1 / np.sqrt(300), rel=0.02)


@pytest.mark.parametrize('cell', ['gru', 'layernorm_gru'])
def test_layers_whose_outputs_are_added_are_initialised_as_one(cell, seed):
    """Glorot's bound of the layer on their concatenated inputs, as in V1 and V2; each alone would have a wider one."""
    torch.manual_seed(seed)
    made = RSSM(RssmConfig(deter=64, hidden=50, stoch=40, classes=0, cell=cell, norm='none'), EMBED, 6).cell
    pairs = [(made.stoch, made.action)] + ([(made.hidden, made.recurrent)] if cell == 'layernorm_gru' else [])
    for pair in pairs:
        bound = np.sqrt(6 / (sum(layer.in_features for layer in pair) + pair[0].out_features))
        for layer in pair:
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.15)
            assert layer.bias is None or not layer.bias.any()


def test_an_rms_normalised_layer_has_a_bias():
    """RMSNorm has no shift: without a bias the layer could not tell x from 2x."""
    torch.manual_seed(0)  # some initial weights leave the bias little to say
    layer = disturb(dense(4, 6, 'silu', 'rms'), 0)
    x = torch.ones(1, 4)
    assert (layer(x) - layer(2 * x)).abs().max() > 0.01
    assert dense(4, 6, 'silu', 'layer')[0].bias is None and dense(4, 6, 'elu', 'none')[0].bias is not None


def test_rms_norm(rng):
    norm = disturb(RMSNorm(6), 1)
    x = rng.normal(0, 2, (4, 6)).astype(np.float32)
    np.testing.assert_allclose(numbers(norm(torch.tensor(x))), rms_norm(x.astype(float), norm), rtol=1e-5)


def sequence(rng, rssm, batch=3, length=7):
    embed = torch.tensor(rng.normal(size=(batch, length, EMBED)))
    action = torch.tensor(rng.uniform(-1, 1, (batch, length, ACTION)))
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    return embed, action, is_first, rssm.latent.noise(length, batch)


def fix_noise(monkeypatch, rssm, noise):
    """`observe` takes this noise [T, B, ...] instead of drawing it."""

    def given(*shape, device=None):
        assert shape == noise.shape[:2]
        return noise

    monkeypatch.setattr(rssm.latent, 'noise', given)


def make(name, seed):
    torch.manual_seed(seed)
    return disturb(RSSM(config(name), EMBED, ACTION), seed)


@pytest.mark.parametrize('name', sorted(SYSTEMS))
def test_reset_inside_a_sequence_starts_afresh(name, rng, seed, monkeypatch):
    rssm = make(name, seed)
    embed, action, is_first, noise = sequence(rng, rssm)
    is_first[1, 4] = True
    fix_noise(monkeypatch, rssm, noise)
    states, posterior, prior = rssm.observe(embed, action, is_first)

    fix_noise(monkeypatch, rssm, noise[4:])
    other = action.clone()
    other[:, 4] = 99.0  # the action before a first observation belongs to another episode
    fresh, fresh_posterior, fresh_prior = rssm.observe(embed[:, 4:], other[:, 4:], is_first[:, 4:])
    for taken, expected in zip((*states, posterior, prior), (*fresh, fresh_posterior, fresh_prior)):
        torch.testing.assert_close(taken[1, 4:], expected[1])

    assert not torch.allclose(states.deter[0, 4:], fresh.deter[0])  # the row without a reset remembers

    fix_noise(monkeypatch, rssm, noise)
    is_first[1, 4] = False
    unbroken, _, _ = rssm.observe(embed, action, is_first)
    torch.testing.assert_close(unbroken.deter[1, :4], states.deter[1, :4])
    assert not torch.allclose(unbroken.deter[1, 4:], states.deter[1, 4:])


@pytest.mark.parametrize('name', sorted(SYSTEMS))
def test_no_gradient_crosses_a_reset(name, rng, seed):
    rssm = make(name, seed)
    embed, action, is_first, _ = sequence(rng, rssm)
    is_first[:, 3] = True
    embed.requires_grad_()
    action.requires_grad_()
    states, _, _ = rssm.observe(embed, action, is_first)
    states.feature[:, 3:].square().sum().backward()
    assert (embed.grad[:, :3] == 0).all() and (action.grad[:, :4] == 0).all()
    assert (embed.grad[:, 3:] != 0).any() and (action.grad[:, 4:] != 0).any()


@pytest.mark.parametrize('name', sorted(SYSTEMS))
def test_observe_equals_its_single_steps(name, rng, seed, monkeypatch):
    rssm = make(name, seed)
    embed, action, is_first, noise = sequence(rng, rssm)
    is_first[0, 0] = is_first[2, 3] = is_first[1, 6] = True
    fix_noise(monkeypatch, rssm, noise)
    states, posterior, prior = rssm.observe(embed, action, is_first)
    state = rssm.initial(3)
    for t in range(7):
        state = rssm.observe_step(state, action[:, t], embed[:, t], is_first[:, t], noise[t])
        torch.testing.assert_close(state.deter, states.deter[:, t])
        torch.testing.assert_close(state.stoch, states.stoch[:, t])
        torch.testing.assert_close(prior[:, t], rssm.prior(state.deter))
        posterior_t = rssm.posterior(state.deter, rssm.posterior_embed(embed[:, t]))
        torch.testing.assert_close(posterior[:, t], posterior_t)


@pytest.mark.parametrize('name', sorted(SYSTEMS))
def test_imagine_step_is_the_cell_and_a_sample_of_the_prior(name, rng, seed):
    rssm = make(name, seed)
    deter, stoch, action = cell_inputs(rng, stoch=rssm.latent.size)
    noise = rssm.latent.noise(5)
    state = rssm.imagine_step(State(deter, stoch), action, noise)
    expected = rssm.cell(deter, stoch, rssm.cell.project_action(action))
    torch.testing.assert_close(state.deter, expected)
    torch.testing.assert_close(state.stoch, rssm.latent.sample(rssm.prior(expected), noise))
    assert torch.equal(state.feature, torch.cat([state.deter, state.stoch], -1))
    # the prior never sees an image: what it predicts is what `observe` calls the prior
    assert rssm.prior(expected).shape[0] == 5


@pytest.mark.parametrize('name', sorted(SYSTEMS))
def test_sequences_of_a_batch_do_not_mix(name, rng, seed, monkeypatch):
    rssm = make(name, seed)
    embed, action, is_first, noise = sequence(rng, rssm)
    fix_noise(monkeypatch, rssm, noise)
    states, _, _ = rssm.observe(embed, action, is_first)
    fix_noise(monkeypatch, rssm, noise[:, 1:2])
    alone, _, _ = rssm.observe(embed[1:2], action[1:2], is_first[1:2])
    torch.testing.assert_close(states.feature[1:2], alone.feature)


def test_posterior_of_the_first_layer_is_joint(rng, seed):
    """[deter, embed] through one layer equals the two halves that the scan uses."""
    rssm = make('v1', seed)
    deter, embed = torch.tensor(rng.normal(size=(4, 8))), torch.tensor(rng.normal(size=(4, EMBED)))
    joint = torch.cat([rssm.posterior_deter.weight, rssm.posterior_embed.weight], 1)
    hidden = nn.functional.elu(torch.cat([deter, embed], -1) @ joint.T + rssm.posterior_deter.bias)
    raw = hidden @ rssm.posterior_out.weight.T + rssm.posterior_out.bias
    expected = torch.cat([raw[:, :3], nn.functional.softplus(raw[:, 3:]) + 0.1], -1)
    torch.testing.assert_close(rssm.posterior(deter, rssm.posterior_embed(embed)), expected)
