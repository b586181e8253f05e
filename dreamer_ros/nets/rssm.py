"""Recurrent state-space model (PlaNet, arXiv 1811.04551): one scan for every latent and every cell.

A state is (deter, stoch). The prior predicts stoch from deter alone; the posterior also sees the embedding. Latents
turn raw network outputs into `stats`, one tensor, and sample from them. Noise comes from outside, so that a scan draws
it once for all steps and an exported policy takes it as an input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.config import RssmConfig
from dreamer_ros.nets.distributions import gumbel_from_normal, mixed_log_probs, one_hot_sample
from dreamer_ros.nets.layers import (
    ACTIVATIONS,
    BlockLinear,
    dense,
    from_blocks,
    initialise,
    mlp,
    norm_layer,
    to_blocks,
    widened,
)


class State(NamedTuple):
    """deter [..., deter], stoch [..., stoch·classes]."""

    deter: Tensor
    stoch: Tensor

    @property
    def feature(self) -> Tensor:
        """What the heads see: [..., deter + stoch·classes]."""
        return torch.cat([self.deter, self.stoch], -1)


class RSSM(nn.Module):
    """Prior and posterior over latent states.

    Args:
        config: sizes and cell.
        embed_size: length of the image embedding.
        action_size: length of the action vector.
    """

    def __init__(self, config: RssmConfig, embed_size: int, action_size: int):
        super().__init__()
        if config.classes:
            self.latent = CategoricalLatent(config.stoch, config.classes, config.unimix)
        else:
            self.latent = GaussianLatent(config.stoch, config.min_std)
        self.deter_size = config.deter
        self.feature_size = config.deter + self.latent.size
        self.cell = CELLS[config.cell](config, self.latent.size, action_size)
        style = config.activation, config.norm
        self.prior_hidden = mlp(config.deter, config.hidden, config.prior_layers, *style)
        self.prior_out = nn.Linear(config.hidden, self.latent.raw_size)
        # The first posterior layer sees [deter, embed]; kept as two so that embeddings are projected outside the scan.
        joint = nn.Linear(config.deter + embed_size, config.hidden, bias=config.norm != 'layer')
        initialise(joint, config.norm)
        self.posterior_deter = nn.Linear(config.deter, config.hidden, bias=joint.bias is not None)
        self.posterior_embed = nn.Linear(embed_size, config.hidden, bias=False)
        with torch.no_grad():
            self.posterior_deter.weight.copy_(joint.weight[:, : config.deter])
            self.posterior_embed.weight.copy_(joint.weight[:, config.deter :])
            if joint.bias is not None:
                self.posterior_deter.bias.zero_()
        self.posterior_hidden = nn.Sequential(
            norm_layer(config.norm, config.hidden),
            ACTIVATIONS[config.activation](),
            mlp(config.hidden, config.hidden, config.posterior_layers - 1, *style),
        )
        self.posterior_out = nn.Linear(config.hidden, self.latent.raw_size)
        for layer in (self.prior_out, self.posterior_out):
            initialise(layer, config.norm)

    def initial(self, batch: int, device=None) -> State:
        """The all-zero state."""
        return State(
            torch.zeros(batch, self.deter_size, device=device), torch.zeros(batch, self.latent.size, device=device)
        )

    def prior(self, deter: Tensor) -> Tensor:
        """Stats of p(stoch | deter)."""
        return self.latent.stats(self.prior_out(self.prior_hidden(deter)))

    def posterior(self, deter: Tensor, embed: Tensor) -> Tensor:
        """Stats of p(stoch | deter, embedding); `embed` is already through `posterior_embed`."""
        return self.latent.stats(self.posterior_out(self.posterior_hidden(self.posterior_deter(deter) + embed)))

    def observe(self, embed: Tensor, action: Tensor, is_first: Tensor) -> tuple[State, Tensor, Tensor]:
        """Filter a batch of sequences from the zero state.

        Args:
            embed: image embeddings [B, T, E].
            action: the action BEFORE each observation [B, T, A].
            is_first: [B, T]; where set, state and previous action are zeroed, also inside the sequence.

        Returns:
            posterior states [B, T, ...], posterior stats and prior stats [B, T, ...].
        """
        batch, length = embed.shape[:2]
        keep = (~is_first).to(embed.dtype).unsqueeze(-1)
        actions = self.cell.project_action(action * keep).unbind(1)
        embeds = self.posterior_embed(embed).unbind(1)
        noises = self.latent.noise(length, batch, device=embed.device).unbind(0)
        keeps = keep.unbind(1)
        deter, stoch = self.initial(batch, embed.device)
        deters, stochs, stats = [], [], []
        for t in range(length):
            deter = self.cell(deter * keeps[t], stoch * keeps[t], actions[t])
            stat = self.posterior(deter, embeds[t])
            stoch = self.latent.sample(stat, noises[t])
            deters.append(deter)
            stochs.append(stoch)
            stats.append(stat)
        states = State(torch.stack(deters, 1), torch.stack(stochs, 1))
        return states, torch.stack(stats, 1), self.prior(states.deter)

    def imagine_step(self, state: State, action: Tensor, noise: Tensor) -> State:
        """One step of the prior: state [B, ...], action [B, A], latent noise [B, ...]."""
        deter = self.cell(state.deter, state.stoch, self.cell.project_action(action))
        return State(deter, self.latent.sample(self.prior(deter), noise))

    def observe_step(self, state: State, action: Tensor, embed: Tensor, is_first: Tensor, noise: Tensor) -> State:
        """One step of the filter, as a running policy takes it; arguments as in `observe` without time."""
        keep = (~is_first).to(embed.dtype).unsqueeze(-1)
        deter = self.cell(state.deter * keep, state.stoch * keep, self.cell.project_action(action * keep))
        stats = self.posterior(deter, self.posterior_embed(embed))
        return State(deter, self.latent.sample(stats, noise))


class GaussianLatent:
    """Diagonal normal; std = softplus(raw) + min_std. stats = [..., mean | std], sample [..., size]."""

    def __init__(self, size: int, min_std: float):
        self.size = size
        self.raw_size = 2 * size
        self.min_std = min_std

    def stats(self, raw: Tensor) -> Tensor:
        mean, std = widened(raw).split(self.size, -1)
        return torch.cat([mean, F.softplus(std) + self.min_std], -1)

    def noise(self, *shape: int, device=None) -> Tensor:
        """Standard normal noise [*shape, size]."""
        return torch.randn(*shape, self.size, device=device)

    def noise_from_normal(self, normal: Tensor) -> Tensor:
        return normal

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        mean, std = stats.split(self.size, -1)
        return mean + std * noise

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL[left ‖ right], summed over the latent: [...]."""
        (m1, s1), (m2, s2) = left.split(self.size, -1), right.split(self.size, -1)
        terms = torch.log(s2) - torch.log(s1) + (s1.square() + (m1 - m2).square()) / (2 * s2.square()) - 0.5
        return terms.sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        _, std = stats.split(self.size, -1)
        return (0.5 + 0.5 * math.log(2 * math.pi) + torch.log(std)).sum(-1)


class CategoricalLatent:
    """`variables` one-hot variables of `classes` classes with straight-through gradients.

    stats are log-probabilities [..., classes, variables] after mixing in `unimix` of the uniform distribution;
    a sample is flat, [..., classes · variables]. Classes come before variables, because a CPU reduces a short last
    dimension 20 times more slowly than the one before it.
    """

    def __init__(self, variables: int, classes: int, unimix: float):
        self.variables, self.classes, self.unimix = variables, classes, unimix
        self.size = self.raw_size = variables * classes

    def stats(self, raw: Tensor) -> Tensor:
        return mixed_log_probs(raw.unflatten(-1, (self.classes, self.variables)), self.unimix, -2)

    def noise(self, *shape: int, device=None) -> Tensor:
        """Gumbel noise [*shape, classes, variables]: argmax(log p + noise) is a sample of p."""
        uniform = torch.rand(*shape, self.classes, self.variables, device=device)
        return -torch.log(-torch.log(uniform.clamp_(min=1e-20)))

    def noise_from_normal(self, normal: Tensor) -> Tensor:
        """Gumbel noise from flat standard normal noise; equal inputs give equal outputs, so zeros give the mode."""
        return gumbel_from_normal(normal).unflatten(-1, (self.classes, self.variables))

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        return one_hot_sample(stats, noise, -2).flatten(-2)

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL[left ‖ right], summed over the variables: [...]."""
        return (left.exp() * (left - right)).sum((-2, -1))

    def entropy(self, stats: Tensor) -> Tensor:
        return -(stats.exp() * stats).sum((-2, -1))


class Cell(nn.Module):
    """One recurrent step: deter [B, deter], stoch [B, stoch] and a projected action to the next deter."""

    action: nn.Module

    def project_action(self, action: Tensor) -> Tensor:
        """What `forward` takes as the action [..., A]; a scan projects all of its actions at once."""
        return self.action(action)

    def gated(self, reset: Tensor, candidate: Tensor, update: Tensor, deter: Tensor) -> Tensor:
        """The next deter from the gates of DreamerV2 and V3: reset inside the candidate, update bias −1."""
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        gate = torch.sigmoid(update - 1.0)
        return gate * candidate + (1.0 - gate) * deter


class GRU(Cell):
    """Plain GRU on a dense layer of [stoch, action] (PlaNet, Dreamer). Gates are written out for ONNX."""

    def __init__(self, config: RssmConfig, stoch: int, action: int):
        super().__init__()
        self.deter = config.deter  # a split of known size is one node in ONNX, a chunk is a dozen
        # Two layers, so that actions are projected outside the scan.
        self.stoch = nn.Linear(stoch, config.hidden)
        self.action = nn.Linear(action, config.hidden, bias=False)
        glorot_jointly(self.stoch, self.action)
        nn.init.zeros_(self.stoch.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.input = nn.Linear(config.hidden, 3 * config.deter)
        self.recurrent = nn.Linear(config.deter, 3 * config.deter)
        initialise(self.input, 'none')
        nn.init.zeros_(self.recurrent.bias)
        for gate in self.recurrent.weight.chunk(3):
            nn.init.orthogonal_(gate)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        x = self.activation(self.stoch(stoch) + action)
        xr, xz, xn = self.input(x).split(self.deter, -1)
        hr, hz, hn = self.recurrent(deter).split(self.deter, -1)
        candidate = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
        gate = torch.sigmoid(xz + hz)
        return gate * deter + (1.0 - gate) * candidate


def glorot_jointly(*layers: nn.Linear) -> None:
    """Weights of layers whose outputs are added: they are one layer, so one Glorot draw (V1, V2)."""
    joint = torch.empty(layers[0].out_features, sum(layer.in_features for layer in layers))
    nn.init.xavier_uniform_(joint)
    with torch.no_grad():
        for layer, part in zip(layers, joint.split([layer.in_features for layer in layers], 1)):
            layer.weight.copy_(part)


class LayerNormGRU(Cell):
    """GRU with one normalisation over all three gates and update bias −1 (DreamerV2)."""

    def __init__(self, config: RssmConfig, stoch: int, action: int):
        super().__init__()
        self.stoch = nn.Linear(stoch, config.hidden, bias=False)
        self.action = nn.Linear(action, config.hidden)
        self.input = nn.Sequential(norm_layer(config.norm, config.hidden), ACTIVATIONS[config.activation]())
        self.hidden = nn.Linear(config.hidden, 3 * config.deter, bias=False)
        self.recurrent = nn.Linear(config.deter, 3 * config.deter, bias=False)
        for pair in ((self.stoch, self.action), (self.hidden, self.recurrent)):
            for layer in pair:
                initialise(layer, config.norm)
            if config.norm == 'none':
                glorot_jointly(*pair)
        self.norm = nn.LayerNorm(3 * config.deter, eps=1e-3)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        x = self.input(self.stoch(stoch) + action)
        reset, candidate, update = self.norm(self.hidden(x) + self.recurrent(deter)).chunk(3, -1)
        return self.gated(reset, candidate, update, deter)


class BlockGRU(Cell):
    """GRU with block-diagonal recurrence (DreamerV3)."""

    def __init__(self, config: RssmConfig, stoch: int, action: int):
        super().__init__()
        self.blocks = config.blocks
        self.deter_in, self.stoch_in, self.action_in = (
            dense(size, config.hidden, config.activation, config.norm) for size in (config.deter, stoch, action)
        )
        self.hidden = BlockLinear(config.deter + 3 * config.hidden * config.blocks, config.deter, config.blocks)
        self.norm = norm_layer(config.norm, config.deter)
        self.activation = ACTIVATIONS[config.activation]()
        self.gates = BlockLinear(config.deter, 3 * config.deter, config.blocks)

    def project_action(self, action: Tensor) -> Tensor:
        scale = torch.clamp(action.abs(), min=1.0).detach()
        return self.action_in(action / scale)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        shared = torch.cat([self.deter_in(deter), self.stoch_in(stoch), action], -1)
        grouped = to_blocks(deter, self.blocks)
        x = torch.cat([grouped, shared.expand(self.blocks, -1, -1)], -1)
        x = self.activation(self.norm(from_blocks(self.hidden(x))))
        reset, candidate, update = self.gates(to_blocks(x, self.blocks)).chunk(3, -1)
        return from_blocks(self.gated(reset, candidate, update, grouped))


CELLS = {'gru': GRU, 'layernorm_gru': LayerNormGRU, 'block_gru': BlockGRU}
