"""The stochastic part of an RSSM state: Gaussian (PlaNet, Dreamer) or categorical (DreamerV2, V3).

A latent turns raw network outputs into `stats` (one tensor), draws reparameterised samples from outside noise
and measures divergences. Noise comes from outside so that a scan draws it once for all steps and an exported
policy takes it as an input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamer_ros.nets.categorical import gumbel_from_normal, mixed_log_probs, one_hot_sample
from dreamer_ros.nets.layers import widened


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
    a sample is flat, [..., classes · variables]. Classes come before variables because a CPU reduces over a short
    last dimension 20 times more slowly than over the one before it.
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
