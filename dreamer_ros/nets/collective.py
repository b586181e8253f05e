"""Averages over the learners that share every batch. A single learner gets its input back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed


def learners() -> int:
    """Processes that share every batch."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def average(x: Tensor) -> Tensor:
    """The mean of x over all learners: a statistic of the whole batch from those of its shares.

    Needed where a statistic enters a loss other than by a mean. Gradients are averaged over learners later, so x gets
    the mean of the learners' gradients.
    """
    return _Average.apply(x) if learners() > 1 else x


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over all learners."""
    if learners() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    means = _mean_(torch.cat([x.flatten() for x in gradients])).split([x.numel() for x in gradients])
    torch._foreach_copy_(gradients, [mean.view_as(x) for mean, x in zip(means, gradients)])


def average_metrics(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of scalar metrics over all learners."""
    if learners() == 1:
        return metrics
    device = next(iter(metrics.values())).device
    values = torch.stack([value.detach().float().to(device) for value in metrics.values()])
    return dict(zip(metrics, _mean_(values).unbind(0)))


def gather(x: Tensor) -> Tensor:
    """X [N, ...] of all learners, concatenated, without gradients."""
    if learners() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(learners())]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _mean_(x.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _mean_(gradient.clone(memory_format=torch.contiguous_format))


def _mean_(x: Tensor) -> Tensor:
    distributed.all_reduce(x)
    return x.div_(learners())
