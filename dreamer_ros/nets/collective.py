"""Statistics of a batch that several learners share equally. One learner alone gets its input back."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def learners() -> int:
    """Processes that share every batch."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def average(x: Tensor) -> Tensor:
    """The mean of x over all learners: a statistic of the batch from those of its shares.

    For what enters a loss otherwise than as its mean. The loss is that of the batch, of which each learner has a
    share that is averaged later; so x gets the mean of the gradients that the learners have for it.
    """
    return _Average.apply(x) if learners() > 1 else x


def gather(x: Tensor) -> Tensor:
    """X [N, ...] of all learners one after the other, without gradients."""
    if learners() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(learners())]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def _mean(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total.div_(learners())
