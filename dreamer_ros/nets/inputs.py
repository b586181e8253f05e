"""What a robot perceives as one embedding: camera images, a vector of scalars, or both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamer_ros.config import Config, MlpConfig
from dreamer_ros.nets.conv import ImageEncoder
from dreamer_ros.nets.layers import mlp, symlog
from dreamer_ros.spec import RobotSpec

VECTOR_LAYERS = 3  # of the MLPs that read and predict vectors (DreamerV3)


class VectorEncoder(nn.Module):
    """Scalars of any magnitude float32 [N, size] to embeddings [N, output_size]: symlog, then an MLP."""

    def __init__(self, config: MlpConfig, size: int):
        super().__init__()
        self.net = mlp(size, config.units, VECTOR_LAYERS, config.activation, config.norm)
        self.output_size = config.units

    def forward(self, vector: Tensor) -> Tensor:
        return self.net(symlog(vector))


class ObservationEncoder(nn.Module):
    """One encoder per input of the robot; their embeddings are concatenated.

    Args:
        config: the run's config.
        spec: the robot: it has cameras, vector inputs or both.

    Attributes:
        inputs: names of the inputs, `image` before `vector`.
        output_size: length of an embedding.
    """

    def __init__(self, config: Config, spec: RobotSpec):
        super().__init__()
        self.encoders = nn.ModuleDict()
        if spec.cameras:
            self.encoders['image'] = ImageEncoder(config.conv, spec.image_size, spec.channels)
        if spec.vector:
            self.encoders['vector'] = VectorEncoder(config.mlp, len(spec.vector))
        self.inputs: tuple[str, ...] = tuple(self.encoders)
        self.output_size = sum(encoder.output_size for encoder in self.encoders.values())

    def forward(self, *observation: Tensor) -> Tensor:
        """Embeddings [N, output_size] of image uint8 [N, H, W, channels] and vector float32 [N, size], those of
        them that are named in `inputs`.
        """
        embeddings = [encoder(x) for encoder, x in zip(self.encoders.values(), observation)]
        return embeddings[0] if len(embeddings) == 1 else torch.cat(embeddings, -1)
