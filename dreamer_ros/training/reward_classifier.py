"""Trains a small convolutional network that tells from the camera whether a step shows success."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.policy.digest import with_digest
from dreamer_ros.policy.export import OPSET

BATCH = 64
SHIFT = 3  # pixels by which training images are moved
LIGHT = 0.15  # by how much their brightness and contrast differ


class Labelled(NamedTuple):
    """The labelled steps of an episode.

    Attributes:
        name: of the bag.
        image: uint8 [T, H, W, C].
        success: bool [T].
    """

    name: str
    image: np.ndarray
    success: np.ndarray


class Confusion(NamedTuple):
    """How often success was told, of images that the network has not been trained on."""

    hits: int
    misses: int
    false_alarms: int
    rejections: int

    @classmethod
    def of(cls, told: np.ndarray, success: np.ndarray) -> Confusion:
        """Counts of bool [T] against bool [T]."""
        pairs = ((told, success), (~told, success), (told, ~success), (~told, ~success))
        return cls(*(int((one & other).sum()) for one, other in pairs))

    def __str__(self) -> str:
        """For people."""
        right = (self.hits + self.rejections) / max(1, sum(self))
        return (
            f'{right:.1%} of {sum(self)} images right; success told in {self.hits} of {self.hits + self.misses} that '
            f'show it, and in {self.false_alarms} of {self.false_alarms + self.rejections} that do not'
        )


class SuccessNetwork(nn.Module):
    """uint8 [B, H, W, C] to the probability of success [B]."""

    def __init__(self, image_shape: tuple[int, ...]):
        super().__init__()
        height, width, channels = image_shape
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)),
            nn.Linear(32 * (height // 8) * (width // 8), 1),
        )

    def logits(self, image: Tensor) -> Tensor:
        """Of images in [0, 1], float [B, C, H, W]."""
        return self.layers(image - 0.5).squeeze(-1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(image.permute(0, 3, 1, 2).float() / 255.0))


def split(episodes: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Episodes to train on, and held-out ones: whole episodes, since neighbouring images are nearly the same.

    Raises:
        InputError: either part would lack images of success, or of none.
    """
    shuffled = np.random.default_rng(seed).permutation(len(episodes)).tolist()
    # Both kinds of episodes are held out, those with a success first.
    order = sorted(shuffled, key=lambda number: not episodes[number].success.any())
    every = max(2, round(1 / share))
    held = [episodes[number] for number in order[::every]]
    kept = [episodes[number] for place, number in enumerate(order) if place % every]
    for part, name in ((kept, 'training'), (held, 'the held-out part')):
        success = np.concatenate([episode.success for episode in part] or [np.zeros(0, bool)])
        if not success.any() or success.all():
            raise InputError(
                f'labels: expected images of success and of no success in several episodes, but {name} has '
                f'{int(success.sum())} of success among {len(success)} in {len(part)} episodes; label more episodes'
            )
    return kept, held


def train(episodes: Sequence[Labelled], updates: int, seed: int) -> SuccessNetwork:
    """A network trained on all images of the episodes, both classes alike often."""
    torch.manual_seed(seed)
    image = torch.from_numpy(np.concatenate([episode.image for episode in episodes]))
    success = torch.from_numpy(np.concatenate([episode.success for episode in episodes])).float()
    network = SuccessNetwork(episodes[0].image.shape[1:])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    weights = torch.where(success > 0, 1 / success.sum(), 1 / (1 - success).sum())
    for _ in range(updates):
        rows = torch.multinomial(weights, BATCH, replacement=True)
        loss = F.binary_cross_entropy_with_logits(network.logits(_varied(image[rows])), success[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def _varied(image: Tensor) -> Tensor:
    """Images moved by a few pixels and in another light, float [B, C, H, W]."""
    batch, height, width, _ = image.shape
    padded = F.pad(image.permute(0, 3, 1, 2).float() / 255.0, (SHIFT,) * 4, mode='replicate')
    x, y = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
    light, contrast = LIGHT * (2 * torch.rand(2, batch, 1, 1, 1) - 1)
    return (padded[:, :, y : y + height, x : x + width] * (1 + contrast) + light).clamp(0, 1)


def evaluate(network: SuccessNetwork, episodes: Sequence[Labelled]) -> Confusion:
    """What it tells of episodes that it was not trained on."""
    with torch.no_grad():
        told = [network(torch.from_numpy(episode.image)).numpy() > 0.5 for episode in episodes]
    return Confusion.of(np.concatenate(told), np.concatenate([episode.success for episode in episodes]))


def export(network: SuccessNetwork, image_shape: tuple[int, ...], path: Path, facts: dict[str, str]) -> None:
    """Write the file that `policy.classifier.Classifier` runs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            network,
            (torch.zeros(2, *image_shape, dtype=torch.uint8),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=['image'],
            output_names=['success'],
            dynamic_axes={'image': {0: 'batch'}, 'success': {0: 'batch'}},
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, facts)
    write_file(path, with_digest(model.SerializeToString()))
