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


class GaussianLatent:
    """Diagonal normal; std = softplus(raw) + min_std. stats = [..., mean | std], sample [..., size]."""

    def __init__(self, size: int, min_std: float):
        self.size = size
        self.raw_size = 2 * size
        self.min_std = min_std

    def stats(self, raw: Tensor) -> Tensor:
        mean, std = raw.chunk(2, -1)
        return torch.cat([mean, F.softplus(std) + self.min_std], -1)

    def noise(self, *shape: int, device=None) -> Tensor:
        """Standard normal noise [*shape, size]."""
        return torch.randn(*shape, self.size, device=device)

    def noise_from_normal(self, normal: Tensor) -> Tensor:
        return normal

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        mean, std = stats.chunk(2, -1)
        return mean + std * noise

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL[left ‖ right], summed over the latent: [...]."""
        (m1, s1), (m2, s2) = left.chunk(2, -1), right.chunk(2, -1)
        terms = torch.log(s2) - torch.log(s1) + (s1.square() + (m1 - m2).square()) / (2 * s2.square()) - 0.5
        return terms.sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        _, std = stats.chunk(2, -1)
        return (0.5 + 0.5 * math.log(2 * math.pi) + torch.log(std)).sum(-1)


class CategoricalLatent:
    """`variables` one-hot variables of `classes` classes with straight-through gradients.

    stats are log-probabilities [..., variables, classes] after mixing in `unimix` of the uniform distribution;
    a sample is flat, [..., variables · classes].
    """

    def __init__(self, variables: int, classes: int, unimix: float):
        self.variables, self.classes, self.unimix = variables, classes, unimix
        self.size = self.raw_size = variables * classes

    def stats(self, raw: Tensor) -> Tensor:
        logits = raw.float().unflatten(-1, (self.variables, self.classes))
        if not self.unimix:
            return F.log_softmax(logits, -1)
        probs = F.softmax(logits, -1)
        return torch.log((1 - self.unimix) * probs + self.unimix / self.classes)

    def noise(self, *shape: int, device=None) -> Tensor:
        """Gumbel noise [*shape, variables, classes]: argmax(log p + noise) is a sample of p."""
        exponential = torch.empty(*shape, self.variables, self.classes, device=device).exponential_()
        return -torch.log(exponential)

    def noise_from_normal(self, normal: Tensor) -> Tensor:
        """Gumbel noise from flat standard normal noise; equal inputs give equal outputs, so zeros give the mode."""
        uniform = 0.5 * (1.0 + torch.erf(normal / math.sqrt(2.0)))
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-6, 1.0 - 1e-6)))
        return gumbel.unflatten(-1, (self.variables, self.classes))

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        index = (stats.detach() + noise).argmax(-1, keepdim=True)
        onehot = torch.zeros_like(stats).scatter_(-1, index, 1.0)
        if stats.requires_grad:
            probs = stats.exp()
            onehot = onehot + (probs - probs.detach())
        return onehot.flatten(-2)

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL[left ‖ right], summed over the variables: [...]."""
        return (left.exp() * (left - right)).sum((-2, -1))

    def entropy(self, stats: Tensor) -> Tensor:
        return -(stats.exp() * stats).sum((-2, -1))
