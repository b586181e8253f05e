"""Runs a classifier that tells success from the camera, with numpy and onnxruntime alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.policy.digest import check_digest
from dreamer_ros.policy.loader import open_in_time
from dreamer_ros.policy.runner import (
    LARGEST,
    LARGEST_TENSOR,
    Cancellation,
    check_self_contained,
    open_session,
    read_file,
)


class Classifier:
    """A file of `dreamer reward train`, warmed up. Not thread-safe.

    Args:
        path: the ONNX file.
        image_shape: of the robot's images, (height, width, 3 per camera).

    Raises:
        InputError: the file is missing, damaged, or for other images.
    """

    def __init__(self, path: str | Path, image_shape: tuple[int, int, int]):
        self.path = str(path)
        data = read_file(self.path, LARGEST)
        check_digest(data, self.path)
        check_self_contained(data, self.path)
        self._shape = (1, *image_shape)
        open_in_time(self.path, lambda cancellation: self._open(data, cancellation))

    def _open(self, data: bytes, cancellation: Cancellation) -> None:
        self._session = open_session(self.path, data, cancellation.load_options)
        self._options = cancellation.run_options
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(node.name, node.type, *node.shape[1:]) for node in (*inputs, *outputs)]
        expected = [('image', 'tensor(uint8)', *self._shape[1:]), ('success', 'tensor(float)')]
        if found != expected or np.prod(self._shape) > LARGEST_TENSOR:
            raise InputError(f'classifier {self.path}: expected inputs and outputs {expected}, got {found}')
        self(np.zeros(self._shape[1:], np.uint8))

    def __call__(self, image: np.ndarray) -> float:
        """The probability that an image uint8 [H, W, 3 per camera] shows success.

        Raises:
            InputError: onnxruntime refuses, or it is no probability.
        """
        try:
            [success] = self._session.run(['success'], {'image': image[None]}, self._options)
        except Exception as error:  # onnxruntime's exception classes share no public base
            reason = str(error).strip().splitlines()[0]
            raise InputError(f'classifier {self.path}: onnxruntime said: {reason}') from error
        if success.shape != (1,) or not 0.0 <= success[0] <= 1.0:
            raise InputError(f'classifier {self.path}: expected a probability, got {success.tolist()}')
        return float(success[0])


class Hysteresis:
    """Makes a decision of probabilities that flicker.

    Args:
        above, below: success begins at `above` or more, `steps` times in a row, and ends below `below`.
    """

    def __init__(self, above: float, below: float, steps: int):
        self._above, self._below, self._steps = above, below, steps
        self._count = 0
        self._success = False

    def __call__(self, probability: float) -> bool:
        """Whether it is a success after one more probability."""
        self._count = self._count + 1 if probability >= self._above else 0
        self._success = self._count >= self._steps or self._success and probability >= self._below
        return self._success
