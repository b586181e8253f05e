"""One-hot categorical variables, shared by latents and discrete actions; the classes are any dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


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
