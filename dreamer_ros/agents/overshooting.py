"""Latent overshooting: the prior is trained to predict several steps ahead (PlaNet, arXiv 1811.04551, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamer_ros.nets.collective import average
from dreamer_ros.nets.layers import flatten_time
from dreamer_ros.nets.rssm import RSSM, State


def overshooting_loss(
    rssm: RSSM, states: State, posterior: Tensor, action: Tensor, is_first: Tensor, distance: int, free_nats: float
) -> Tensor:
    """Mean over d = 1 … `distance` of max(0, KL[sg(posterior_{t+d}) ‖ prior^(d)] − free nats).

    prior^(d) is the prior rolled d steps from the posterior state at t, with the actions that were taken. Steps
    that an episode's start lies between are left out; so are distances as long as the sequence.

    Args:
        states: posterior states [B, T, ...].
        posterior: their stats [B, T, ...].
        action: the action BEFORE each observation [B, T, A].
        is_first: [B, T].

    Returns:
        Scalar.
    """
    batch, length = is_first.shape
    actions = rssm.cell.project_action(action)
    deter, stoch = states
    within = torch.ones_like(is_first)  # no episode's start between t and t + d
    losses = []
    for d in range(1, min(distance, length - 1) + 1):
        count = length - d  # start steps t that have a step t + d
        deter = rssm.cell(*(flatten_time(x[:, :count]) for x in (deter, stoch, actions[:, d:])))
        prior = rssm.prior(deter)
        stoch = rssm.latent.sample(prior, rssm.latent.noise(len(deter), device=deter.device))
        deter, stoch, prior = (x.unflatten(0, (batch, count)) for x in (deter, stoch, prior))
        within = within[:, :count] & ~is_first[:, d:]
        excess = (rssm.latent.kl(posterior[:, d:].detach(), prior) - free_nats).clamp(min=0.0)
        losses.append((excess * within).sum() / average(within.float().sum()).clamp(min=1.0))
    return torch.stack(losses).mean()
