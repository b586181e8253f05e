"""Distributions of scalar predictions and of actions, as functions on raw network outputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamer_ros.nets.layers import softplus_inverse, symexp, widened

TWOHOT_BINS = 255


class Normal:
    """Unit-variance normal of a scalar; raw size 1. The loss leaves out the constant ½ ln 2π."""

    raw_size = 1

    def mean(self, raw: Tensor) -> Tensor:
        return widened(raw.squeeze(-1))  # returns and plans sum it

    def loss(self, raw: Tensor, *targets: Tensor) -> Tensor:
        """½(prediction − target)², summed over the targets."""
        return sum((0.5 * (raw.squeeze(-1) - target).square() for target in targets), torch.zeros_like(raw[..., 0]))


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
        """Expected value [...].

        The mirror image of each positive bin is subtracted first. So equal logits give exactly 0, and not the
        rounding error of sums near 5e8.
        """
        middle = TWOHOT_BINS // 2
        probs = F.softmax(raw.float(), -1)
        surplus = probs[..., middle + 1 :] - probs[..., :middle].flip(-1)
        with torch.autocast(raw.device.type, enabled=False):
            return surplus @ self.bins(raw.device)[middle + 1 :]

    def target(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


SCALARS: dict[str, Any] = {'normal': Normal, 'twohot': TwoHot}


class BoundedNormal:
    """Normal(tanh μ, 0.9·σ(s + 2) + 0.1) (DreamerV3). Samples stay unclipped, which `log_prob` needs; see `bounded`."""

    raw_per_action = 2

    def parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = raw.chunk(2, -1)
        return torch.tanh(mean), 0.9 * torch.sigmoid(std + 2.0) + 0.1

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised action; zero noise gives the mode tanh(mean)."""
        mean, std = self.parameters(raw)
        return mean + std * noise

    def log_prob(self, raw: Tensor, action: Tensor) -> Tensor:
        mean, std = self.parameters(raw)
        return normal_log_prob(mean, std, action).sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        """Entropy of the normal, summed over dimensions. A subclass that bends its samples has no closed form."""
        _, std = self.parameters(raw)
        return normal_entropy(std).sum(-1)


class TanhNormal(BoundedNormal):
    """tanh of Normal(5·tanh(μ/5), softplus(s + ln(e⁵ − 1)) + 1e-4) (Dreamer)."""

    def parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = raw.chunk(2, -1)
        return 5.0 * torch.tanh(mean / 5.0), F.softplus(std + softplus_inverse(5.0)) + 1e-4

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised action in (−1, 1); zero noise gives the median tanh(mean).

        The median stands in for the mode, which has no closed form and is near ±1 for a wide distribution.
        """
        return torch.tanh(super().sample(raw, noise))

    def log_prob(self, raw: Tensor, action: Tensor) -> Tensor:
        """Ln p(action) summed over dimensions; actions at ±1 are clipped in float32."""
        mean, std = self.parameters(raw.float())
        x = torch.atanh(action.float().clamp(-0.999999, 0.999999))
        # ln(1 − tanh²x) = 2(ln 2 − x − softplus(−2x)), exact for large x
        jacobian = 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))
        return (normal_log_prob(mean, std, x) - jacobian).sum(-1)


class TruncatedNormal:
    """Normal(tanh μ, 2·σ(s/2) + 0.1) truncated to [−1, 1] (DreamerV2)."""

    raw_per_action = 2

    def parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = widened(raw).chunk(2, -1)
        return torch.tanh(mean), 2.0 * torch.sigmoid(std / 2.0) + 0.1

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Action in [−1, 1] by the inverse distribution function; zero noise gives the mode tanh(mean).

        Zero noise would give the median, which is not the mode. So the quantile follows a triangle wave of one period
        through [0, 1], which leaves it uniform, shifted so that zero noise gives the quantile of the mode.
        """
        mean, std = self.parameters(raw)
        low, high = (torch.erf((bound - mean) / (math.sqrt(2.0) * std)) for bound in (-1.0, 1.0))
        with torch.no_grad():  # uniform whatever the parameters are: no gradient is lost
            quantile = self.quantile(noise, mode=-low / (high - low))
        return mean + math.sqrt(2.0) * std * erfinv(low + quantile * (high - low))

    def quantile(self, noise: Tensor, mode: Tensor) -> Tensor:
        """Uniform on [0, 1] from standard normal noise; `mode` where the noise is zero."""
        phase = 1.0 + torch.erf(noise / math.sqrt(2.0)) + mode
        return (phase - 2.0 * torch.floor(phase / 2.0) - 1.0).abs()

    def log_prob(self, raw: Tensor, action: Tensor) -> Tensor:
        """Ln p(action) of actions in [−1, 1], summed over dimensions."""
        mean, std = self.parameters(raw)
        return (normal_log_prob(mean, std, action) - torch.log(self._mass(mean, std))).sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        mean, std = self.parameters(raw)
        low, high = (-1.0 - mean) / std, (1.0 - mean) / std
        mass = self._mass(mean, std)
        edges = (low * normal_density(low) - high * normal_density(high)) / (2.0 * mass)
        return (normal_entropy(std) + torch.log(mass) + edges).sum(-1)

    def _mass(self, mean: Tensor, std: Tensor) -> Tensor:
        """Share of the untruncated normal that lies in [−1, 1]; at least 0.3."""
        scale = math.sqrt(2.0) * std
        return 0.5 * (torch.erf((1.0 - mean) / scale) + torch.erf((1.0 + mean) / scale))


class OneHot:
    """One of several choices as a one-hot vector; raw values are logits.

    Args:
        unimix: uniform share of the probabilities.
    """

    raw_per_action = 1

    def __init__(self, unimix: float):
        self.unimix = unimix

    def parameters(self, raw: Tensor) -> Tensor:
        """Log-probabilities [..., A]."""
        return mixed_log_probs(raw, self.unimix, -1)

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """One-hot action with the gradient of the probabilities; zero noise gives the likeliest choice."""
        return one_hot_sample(self.parameters(raw), gumbel_from_normal(noise), -1)

    def log_prob(self, raw: Tensor, action: Tensor) -> Tensor:
        return (self.parameters(raw) * action).sum(-1)

    def entropy(self, raw: Tensor) -> Tensor:
        log_probs = self.parameters(raw)
        return -(log_probs.exp() * log_probs).sum(-1)


ACTIONS: dict[str, Any] = {'tanh_normal': TanhNormal, 'truncated_normal': TruncatedNormal, 'normal': BoundedNormal}


def bounded(action: Tensor) -> Tensor:
    """The action as the environment takes it, clipped to [−1, 1], with a straight-through gradient."""
    return action + (action.clamp(-1.0, 1.0) - action).detach()


def mixed_log_probs(logits: Tensor, unimix: float, dim: int) -> Tensor:
    """Log-probabilities over `dim` with a share `unimix` of the uniform distribution, at least float32."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not unimix:
        return F.log_softmax(logits, dim)
    return torch.log((1 - unimix) * F.softmax(logits, dim) + unimix / logits.shape[dim])


def gumbel_from_normal(normal: Tensor) -> Tensor:
    """Gumbel noise from standard normal noise; equal inputs give equal outputs, so zeros give the mode."""
    uniform = 0.5 * (1.0 + torch.erf(normal / math.sqrt(2.0)))
    return -torch.log(-torch.log(uniform.clamp(1e-6, 1.0 - 1e-6)))


def one_hot_sample(log_probs: Tensor, gumbel: Tensor, dim: int) -> Tensor:
    """One-hot argmax of log p + noise over `dim`, the first class of a tie; gradients are those of p."""
    score = log_probs.detach() + gumbel
    # torch's argmax takes several times longer than max on a dimension that is not the last
    onehot = torch.zeros_like(score).scatter_(dim, score.max(dim, keepdim=True).indices, 1.0)
    if log_probs.requires_grad:
        probs = log_probs.exp()
        onehot = onehot + (probs - probs.detach())
    return onehot


def normal_log_prob(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    """Ln N(x; mean, std²), elementwise."""
    return -0.5 * ((x - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)


def normal_density(x: Tensor) -> Tensor:
    """Density of the standard normal, elementwise."""
    return torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)


def normal_entropy(std: Tensor) -> Tensor:
    """Entropy of a normal, elementwise."""
    return torch.log(std) + 0.5 * math.log(2 * math.pi * math.e)


# Polynomials for erfinv(x)/x in w = −ln(1 − x²), highest power first (M. Giles, "Approximating the erfinv function",
# GPU Computing Gems, 2010): for w < 5 in w − 2.5, beyond in √w − 3.
ERFINV_CENTRE = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    2.1858087e-04,
    -1.25372503e-03,
    -4.17768164e-03,
    0.246640727,
    1.50140941,
)
ERFINV_TAIL = (
    -2.00214257e-04,
    1.00950558e-04,
    1.34934322e-03,
    -3.67342844e-03,
    5.73950773e-03,
    -7.6224613e-03,
    9.43887047e-03,
    1.00167406,
    2.83297682,
)


def erfinv(x: Tensor) -> Tensor:
    """Inverse of erf to float32 precision, from operations that ONNX has; |x| beyond 1 − 1e-6 is clipped."""
    x = x.clamp(-1.0 + 1e-6, 1.0 - 1e-6)
    w = -torch.log((1.0 - x) * (1.0 + x))
    centre, tail = w - 2.5, torch.sqrt(w.clamp(min=5.0)) - 3.0
    return x * torch.where(w < 5.0, _polynomial(ERFINV_CENTRE, centre), _polynomial(ERFINV_TAIL, tail))


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
