"""Training sequences as the agents take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Training sequences on the learner's device; the action is the one BEFORE each observation."""

    image: Tensor  # uint8 [B, T, H, W, 3 per camera]; [B, T, 0, 0, 0] without cameras
    vector: Tensor  # float32 [B, T, N], N = 0 without vector inputs
    previous_action: Tensor  # float32 [B, T, A]
    reward: Tensor  # float32 [B, T]
    is_first: Tensor  # bool [B, T]
    is_last: Tensor  # bool [B, T]
    is_terminal: Tensor  # bool [B, T]
