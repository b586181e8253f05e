"""Planning by the cross-entropy method (CEM; PlaNet, arXiv 1811.04551, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MINIMUM_VARIANCE = 1e-6


def cross_entropy_method(score: Callable[[Tensor, int], Tensor], noise: Tensor, elites: int) -> Tensor:
    """Search the sequence of actions in [−1, 1] with the highest score.

    Starts at N(0, 1); every iteration draws candidates, clips them, scores them and refits mean and variance of a
    diagonal normal to the best. Written without control flow on values, so that it exports to ONNX unrolled.

    Args:
        score: of candidates [B, N, H, A] in one iteration (counted from 0), [B, N].
        noise: standard normal [I, B, N, H, A] for I iterations. All zeros leave every candidate at the mean, 0.
        elites: how many of the N candidates are refitted to.

    Returns:
        The mean of the last iteration, [B, H, A].
    """
    mean = torch.zeros_like(noise[0, :, :1])
    std = mean + 1.0
    for iteration, drawn in enumerate(noise.unbind(0)):
        candidates = (mean + std * drawn).clamp(-1.0, 1.0)
        best = score(candidates, iteration).topk(elites, -1, sorted=False).indices
        rows = best[:, :, None, None].expand(-1, -1, *candidates.shape[2:])
        chosen = candidates.gather(1, rows)
        mean = chosen.mean(1, keepdim=True)
        std = ((chosen - mean).square().mean(1, keepdim=True) + MINIMUM_VARIANCE).sqrt()
    return mean.squeeze(1)
