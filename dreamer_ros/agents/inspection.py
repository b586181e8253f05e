"""What can be looked at when a trained agent watches a recorded sequence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from dreamer_ros.frames import side_by_side


class Inspection(NamedTuple):
    """Filtered: from the posterior, which sees every observation. Predicted: the first `context` steps are
    filtered, the rest follows from the actions alone; the two agree on the context.
    """

    reconstruction: Tensor | None  # uint8 [B, T, H, W, 3 per camera]; None without cameras
    prediction: Tensor | None  # the same, predicted
    reward: Tensor  # [B, T], filtered: expected on arriving at each step
    predicted_reward: Tensor  # [B, T]
    value: Tensor | None  # [B, T], of the filtered states; None for systems that learn none

    def film(self, image: Tensor) -> np.ndarray:
        """Truth | reconstruction | prediction of a robot with cameras, uint8 [B, T, H, 3·cameras·W, 3].

        Args:
            image: what was recorded, uint8 [B, T, H, W, 3 per camera].
        """
        columns = (image, self.reconstruction, self.prediction)
        return np.concatenate([side_by_side(column.cpu().numpy()) for column in columns], 3)
