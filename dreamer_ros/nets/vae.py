"""V of World Models (arXiv 1803.10122): a variational autoencoder of single camera images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.config import Config
from dreamer_ros.nets.encoders import (
    PROBED_SHARE,
    ImageDecoder,
    ImageEncoder,
    standardise,
    thumbnail_size,
    thumbnails,
    unit_image,
)
from dreamer_ros.nets.layers import head, initialise

BLUR = 12  # side of the pixels that are averaged into one: wider, so that what moves changes them smoothly


class Code(NamedTuple):
    """The normal N(mean, exp(log_variance)) over latents of an image, each [N, Z]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Z [N, Z] for standard normal noise; zero noise gives the mean."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """KL to the standard normal, summed over dimensions [N]: −½ Σ(1 + ln σ² − μ² − σ²)."""
        variance = self.log_variance.exp()
        return -0.5 * (1.0 + self.log_variance - self.mean.square() - variance).sum(-1)


class VAE(nn.Module):
    """Images to latents z and back.

    The paper's network is `conv` {kind: valid, depth: 32, activation: relu, norm: none}; other sizes of images
    take other kinds. What z must predict is `vae.target`:

    image: all pixels, Σ(x − x̂)² of a sigmoid, as in the paper.
    thumbnail: the blurred image at a quarter of its size, every pixel standardised by its own history, by
        one hidden layer. The paper's robots fill the image; where the robot is a thin pole, sharp pixels do
        not tell a small autoencoder where it is. Blur makes pixels, and so z, change smoothly as it moves,
        which M can predict and C, being linear, can use. The image decoder then learns from a share of the
        images, without gradient into z: it only shows what z holds.

    Args:
        config: the run's config (sections vae, conv, mlp, loss).
        image_size: (height, width) in pixels.
        channels: of an image.
    """

    def __init__(self, config: Config, image_size: tuple[int, int], channels: int):
        super().__init__()
        self.config, self.image_scale = config.vae, config.loss.image_scale
        latent, heads = config.vae.latent, config.mlp
        self.encoder = ImageEncoder(config.conv, image_size, channels)
        self.code = nn.Linear(self.encoder.output_size, 2 * latent)
        initialise(self.code, config.conv.norm)
        self.decoder = ImageDecoder(config.conv, latent, 0, image_size, heads.units, channels)
        if config.vae.target == 'thumbnail':
            pixels = thumbnail_size(image_size, channels)
            self.thumbnail = head(latent, heads, 1, pixels)
            self.register_buffer('pixel_mean', torch.zeros(pixels))
            self.register_buffer('pixel_variance', torch.zeros(pixels))
            self.register_buffer('batches', torch.zeros(()))

    def encode(self, image: Tensor) -> Code:
        """Codes of uint8 images [N, H, W, channels]."""
        return Code(*self.code(self.encoder(image)).float().chunk(2, -1))

    def loss(self, image: Tensor, code: Code) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction plus max(KL, free nats · Z), both summed within an image, averaged over images.

        Args:
            image: uint8 [N, H, W, channels].
            code: of these images.

        Returns:
            the loss (scalar) and metrics.
        """
        z = code.sample(torch.randn_like(code.mean))
        if self.config.target == 'image':
            reconstruction = pixels = self.image_loss(z, image)
        else:
            reconstruction = self.thumbnail_loss(z, image)
            pixels = self.image_loss(z[::PROBED_SHARE].detach(), image[::PROBED_SHARE])
        kl = code.kl()
        free = self.config.free_nats * self.config.latent
        total = self.image_scale * reconstruction + kl.clamp(min=free).mean()
        metrics = {'image_loss': pixels, 'kl': kl.mean(), 'vae_loss': total}
        if self.config.target != 'image':
            metrics['representation_loss'] = reconstruction
            total = total + pixels
        return total, {key: value.detach() for key, value in metrics.items()}

    def image_loss(self, z: Tensor, image: Tensor) -> Tensor:
        """Σ(x − x̂)² with pixels in [0, 1], averaged over images."""
        decoded = torch.sigmoid(self.decoder(z, z[:, :0]))
        return F.mse_loss(decoded, unit_image(image).permute(0, 3, 1, 2), reduction='sum') / len(image)

    def thumbnail_loss(self, z: Tensor, image: Tensor) -> Tensor:
        """Squared error of standardised thumbnails, summed over their pixels, averaged over images."""
        target = standardise(thumbnails(image, BLUR), self.pixel_mean, self.pixel_variance, self.batches)
        return (self.thumbnail(z) - target).square().sum(-1).mean()

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents [N, Z] as uint8 [N, H, W, channels]."""
        image = torch.sigmoid(self.decoder(z, z[:, :0])).permute(0, 2, 3, 1)
        return (image * 255.0).round().to(torch.uint8)
