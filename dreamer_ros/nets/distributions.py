"""Distributions of scalar predictions and of actions, as functions on raw network outputs."""
from __future__ import annotations

import math
from typing import Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamer_ros.nets.layers import softplus_inverse, symexp

TWOHOT_BINS = 255


class Normal:
    """Unit-variance normal of a scalar; raw size 1. The loss leaves out the constant ½ ln 2π."""

    raw_size = 1

    def mean(self, raw: Tensor) -> Tensor:
        return raw.squeeze(-1)

    def loss(self, raw: Tensor, *targets: Tensor) -> Tensor:
        """½(prediction − target)², summed over the targets."""
        return sum(0.5 * (raw.squeeze(-1) - target).square() for target in targets)


class TwoHot:
    """A categorical over 255 bins at symexp(linspace(−20, 20)) (DreamerV3); raw values are logits."""

    raw_size = TWOHOT_BINS

    def __init__(self):
        half = symexp(torch.linspace(-20.0, 0.0, TWOHOT_BINS // 2 + 1, dtype=torch.float64))
        self._bins = torch.cat([half, -half[:-1].flip(0)]).float()

    def bins(self, device) -> Tensor:
        """Bin values [255], exactly antisymmetric."""
        if self._bins.device != torch.device(device):
            self._bins = self._bins.to(device)
        return self._bins

    def mean(self, raw: Tensor) -> Tensor:
        """Expected value [...]. Each positive bin is first set against its mirror image, so that equal logits
        give exactly 0 instead of the rounding error of sums near 5e8."""
        middle = TWOHOT_BINS // 2
        probs = F.softmax(raw.float(), -1)
        surplus = probs[..., middle + 1:] - probs[..., :middle].flip(-1)
        with torch.autocast(raw.device.type, enabled=False):
            return surplus @ self.bins(raw.device)[middle + 1:]

    def target(self, value: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Lower bin index, upper bin index and the weight of the upper one, [...]."""
        bins = self.bins(value.device)
        above = torch.searchsorted(bins, value.contiguous(), right=True).clamp(1, TWOHOT_BINS - 1)
        below = above - 1
        weight = (value - bins[below]) / (bins[above] - bins[below])
        return below, above, weight.clamp(0.0, 1.0)

    def loss(self, raw: Tensor, *targets: Tensor) -> Tensor:
        """Cross-entropy against the two-hot targets, summed over them: [...]."""
        entries = [self.target(target) for target in targets]
        bins = torch.stack([bin for below, above, _ in entries for bin in (below, above)], -1)
        shares = torch.stack([share for _, _, weight in entries for share in (1.0 - weight, weight)], -1)
        return SparseCrossEntropy.apply(raw, bins, shares)


class SparseCrossEntropy(torch.autograd.Function):
    """−Σ_k shares_k · log_softmax(raw)[bins_k], whose gradient is one softmax and a few corrections.

    Autograd would make and add a zero-filled gradient of all bins for every k. Takes raw [..., bins],
    bins int64 [..., K] and shares [..., K]; the loss and the softmax are float32.
    """

    @staticmethod
    def forward(ctx, raw: Tensor, bins: Tensor, shares: Tensor) -> Tensor:
        logp = F.log_softmax(raw.float(), -1)
        ctx.save_for_backward(logp, bins, shares)
        ctx.dtype = raw.dtype
        return -(logp.gather(-1, bins) * shares).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        logp, bins, shares = ctx.saved_tensors
        shares = shares * grad.unsqueeze(-1)
        gradient = logp.exp().mul_(shares.sum(-1, keepdim=True)).scatter_add_(-1, bins, -shares)
        return gradient.to(ctx.dtype), None, None


SCALARS = {'normal': Normal, 'twohot': TwoHot}


class TanhNormal:
    """tanh of Normal(5·tanh(μ/5), softplus(s + ln(e⁵ − 1)) + 1e-4) (Dreamer)."""

    def parameters(self, raw: Tensor) -> Tuple[Tensor, Tensor]:
        mean, std = raw.chunk(2, -1)
        return 5.0 * torch.tanh(mean / 5.0), F.softplus(std + softplus_inverse(5.0)) + 1e-4

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised action in (−1, 1); zero noise gives the mode tanh(mean)."""
        mean, std = self.parameters(raw)
        return torch.tanh(mean + std * noise)

    def log_prob(self, raw: Tensor, action: Tensor) -> Tensor:
        """ln p(action) summed over dimensions; actions at ±1 are clipped in float32."""
        mean, std = self.parameters(raw.float())
        x = torch.atanh(action.float().clamp(-0.999999, 0.999999))
        # ln(1 − tanh²x) = 2(ln 2 − x − softplus(−2x)), exact for large x
        jacobian = 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))
        return (normal_log_prob(mean, std, x) - jacobian).sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        """Entropy of the normal before tanh, summed over dimensions: tanh-normals have no closed form."""
        _, std = self.parameters(raw)
        return normal_entropy(std).sum(-1)


class BoundedNormal:
    """Normal with tanh-bounded mean. Samples are unbounded, so that `log_prob` is theirs; see `bounded`.

    Args:
        std: raw value to standard deviation.
    """

    def __init__(self, std):
        self._std = std

    def parameters(self, raw: Tensor) -> Tuple[Tensor, Tensor]:
        mean, std = raw.chunk(2, -1)
        return torch.tanh(mean), self._std(std)

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised action; zero noise gives the mode tanh(mean)."""
        mean, std = self.parameters(raw)
        return mean + std * noise

    def log_prob(self, raw: Tensor, action: Tensor) -> Tensor:
        mean, std = self.parameters(raw)
        return normal_log_prob(mean, std, action).sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        _, std = self.parameters(raw)
        return normal_entropy(std).sum(-1)


def bounded(action: Tensor) -> Tensor:
    """The action as the environment takes it, clipped to [−1, 1], with a straight-through gradient."""
    return action + (action.clamp(-1.0, 1.0) - action).detach()


def normal_log_prob(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    """ln N(x; mean, std²), elementwise."""
    return -0.5 * ((x - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)


def normal_entropy(std: Tensor) -> Tensor:
    """Entropy of a normal, elementwise."""
    return torch.log(std) + 0.5 * math.log(2 * math.pi * math.e)


ACTIONS = {
    'tanh_normal': TanhNormal,
    'truncated_normal': lambda: BoundedNormal(lambda s: 2.0 * torch.sigmoid(s / 2.0) + 0.1),  # DreamerV2
    'normal': lambda: BoundedNormal(lambda s: 0.9 * torch.sigmoid(s + 2.0) + 0.1),  # DreamerV3
}
