"""Small standardised images: what a model learns to predict where the robot is thin and the background large."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dreamer_ros.nets.collective import average
from dreamer_ros.nets.conv import unit_image

STEP = 4  # pixels of the image from one pixel of the thumbnail to the next
WATCHED_SHARE = 8  # without a loss on whole images, their decoder learns from every eighth one


def thumbnail_size(image_size: tuple[int, int], channels: int) -> int:
    """Values of a thumbnail."""
    return channels * (image_size[0] // STEP) * (image_size[1] // STEP)


def thumbnails(image: Tensor, blur: int = STEP) -> Tensor:
    """Images at a quarter of their size as float32 [N, thumbnail_size] in [0, 1].

    Args:
        image: uint8 [N, H, W, channels].
        blur: side of the pixels that are averaged into one.
    """
    return F.avg_pool2d(
        unit_image(image).permute(0, 3, 1, 2), blur, STEP, padding=(blur - STEP) // 2, count_include_pad=False
    ).flatten(1)


@torch.no_grad()
def standardise(x: Tensor, mean: Tensor, variance: Tensor, batches: Tensor) -> Tensor:
    """X [N, D] standardised by its history: running statistics [D] and batches [], which take x in.

    They start at zero, and are the plain averages of the first hundred batches, exponential ones after.
    """
    batches += 1
    rate = torch.clamp(1.0 / batches, min=0.01)
    mean.lerp_(average(x.mean(0)), rate)
    variance.lerp_(average((x - mean).square().mean(0)), rate)
    # a pixel that never changes has only noise to standardise
    return (x - mean) / (variance.sqrt() + 0.01)
