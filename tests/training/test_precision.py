"""bfloat16 updates: every loss close to float32's, and what must stay float32 does."""

import math

import pytest
import torch

from tests.agents.small import agent, batch


def losses(system, precision, seed):
    """World-model losses and gradients of one batch, behaviour metrics from the same dream noise."""
    made, data = agent(system, seed=seed), batch(8, 16)
    torch.manual_seed(seed)
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16'):
        loss, metrics = made.loss(data)
    loss.backward()
    assert loss.dtype == torch.float32
    for name, parameter in made.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name
    return {name: value.item() for name, value in metrics.items()}


@pytest.mark.parametrize('system', ['v1', 'v2', 'v3'])
def test_bfloat16_losses_are_close_to_float32(system, seed):
    exact, rounded = losses(system, 'float32', seed), losses(system, 'bfloat16', seed)
    for name in ('image_loss', 'reward_loss', 'kl', 'model_loss', 'actor_entropy'):
        assert rounded[name] == pytest.approx(exact[name], rel=0.1, abs=0.1), name


@pytest.mark.parametrize('system', ['v1', 'v2', 'v3'])
def test_norms_latents_rewards_and_values_are_float32_inside(system):
    made = agent(system)
    with torch.autocast('cpu', torch.bfloat16):
        stats = made.model.rssm.prior(torch.randn(4, made.model.rssm.deter_size))
        feature = torch.randn(4, made.model.rssm.feature_size)
        reward, value = made.model.predict_reward(feature), made.behaviour.value(feature)
    assert stats.dtype == reward.dtype == value.dtype == torch.float32


def test_a_discount_is_more_than_bfloat16_can_tell():
    """1 − 1/333 would be 1 − 1/256 there, and the next number is 1."""
    made = agent('v3')
    with torch.no_grad():
        for parameter in made.model.continuation[-1].parameters():
            parameter.zero_()
        made.model.continuation[-1].bias.fill_(math.log(332.0))
    with torch.autocast('cpu', torch.bfloat16):
        discount = made.model.predict_discount(torch.randn(4, made.model.rssm.feature_size))
    assert discount.tolist() == pytest.approx([1 - 1 / 333] * 4, abs=1e-4)
