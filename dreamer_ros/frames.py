"""Images of several cameras: along the channels for networks, side by side for people."""

from __future__ import annotations

import numpy as np


def side_by_side(images: np.ndarray) -> np.ndarray:
    """[..., H, W, 3 per camera] to [..., H, cameras * W, 3]."""
    *leading, height, width, channels = images.shape
    cameras = images.reshape(*leading, height, width, channels // 3, 3)
    return np.moveaxis(cameras, -2, -3).reshape(*leading, height, channels // 3 * width, 3)
