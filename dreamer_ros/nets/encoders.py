"""Encoders and decoders of images and vectors, and the images that losses compare predictions with.

Images come and go channels-last, as cameras and rosbags hold them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.config import Config, ConvConfig, MlpConfig
from dreamer_ros.nets.collective import average
from dreamer_ros.nets.layers import ACTIVATIONS, BlockLinear, ChannelNorm, dense, initialise, mlp, symlog, to_blocks
from dreamer_ros.spec import RobotSpec

VECTOR_LAYERS = 3  # of the MLPs that read and predict vectors (DreamerV3)
THUMBNAIL_STEP = 4  # pixels of the image from one pixel of the thumbnail to the next
PROBED_SHARE = 8  # a decoder that is a probe learns from every eighth image


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
        self.output_size: int = sum(encoder.output_size for encoder in self.encoders.values())  # type: ignore[misc]

    def forward(self, *observation: Tensor) -> Tensor:
        """Embeddings [N, output_size] of the `inputs`: image uint8 [N, H, W, channels], vector float32 [N, size]."""
        embeddings = [encoder(x) for encoder, x in zip(self.encoders.values(), observation)]
        return embeddings[0] if len(embeddings) == 1 else torch.cat(embeddings, -1)


class VectorEncoder(nn.Module):
    """Scalars of any magnitude float32 [N, size] to embeddings [N, output_size]: symlog, then an MLP."""

    def __init__(self, config: MlpConfig, size: int):
        super().__init__()
        self.net = mlp(size, config.units, VECTOR_LAYERS, config.activation, config.norm)
        self.output_size = config.units

    def forward(self, vector: Tensor) -> Tensor:
        return self.net(symlog(vector))


class ImageEncoder(nn.Module):
    """uint8 images [N, H, W, channels] to embeddings [N, output_size]; every camera has three channels."""

    def __init__(self, config: ConvConfig, image_size: tuple[int, int], channels: int = 3):
        super().__init__()
        kind = PoolEncoder if config.kind == 'pool' else StrideEncoder
        self.net = kind(config, image_size, channels)
        self.bits, self.output_size = config.bits, self.net.output_size

    def forward(self, image: Tensor) -> Tensor:
        # The permuted view of a channels-last image is exactly torch's channels_last memory format.
        return self.net(unit_image(image.permute(0, 3, 1, 2), self.bits) - 0.5).flatten(1)


class StrideEncoder(nn.Sequential):
    """4x4 convolutions whose strides multiply to 16; see `_stride_plan`."""

    def __init__(self, config: ConvConfig, image_size: tuple[int, int], channels: int):
        layers, grid = [], image_size
        for width, stride, pad in zip(*_stride_plan(config)):
            conv = nn.Conv2d(channels, width, 4, stride, pad)
            initialise(conv, config.norm)
            layers += [conv, *_norm(config.norm, width), ACTIVATIONS[config.activation]()]
            channels, grid = width, [(n + 2 * pad - 4) // stride + 1 for n in grid]
        super().__init__(*layers)
        self.output_size = channels * math.prod(grid)


class MaxPool(nn.MaxPool2d):
    """2x2 max-pooling. With bfloat16 on a CPU it works on whole rows, and takes 0.7 of torch's time.

    Of equal pixels one gets the gradient, not always the one that torch picks.
    """

    def __init__(self):
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu' or x.dtype != torch.bfloat16:
            return super().forward(x)
        return _MaxPool.apply(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _MaxPool(torch.autograd.Function):
    """[N, H, W, C] to [N, H/2, W/2, C]: of every two rows the larger, then of every two columns.

    Comparisons give zeros and ones in the type of x: those that give booleans are not vectorised.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        upper, lower = _rows(x.contiguous()).unbind(2)
        pairs = torch.maximum(upper, lower)
        ctx.save_for_backward(x, pairs)
        return torch.maximum(*pairs.chunk(2, -1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, pairs = ctx.saved_tensors
        of_pairs, of_x = torch.empty_like(pairs), torch.empty_like(x, memory_format=torch.contiguous_format)
        _split(gradient, pairs.chunk(2, -1), of_pairs.chunk(2, -1))
        _split(of_pairs, _rows(x.contiguous()).unbind(2), _rows(of_x).unbind(2))
        return of_x


def _rows(x: Tensor) -> Tensor:
    """[N, H, W, C] as [N, H/2, 2, W/2, 2·C]."""
    images, height, width, channels = x.shape
    return x.view(images, height // 2, 2, width // 2, 2 * channels)


def _split(gradient: Tensor, values: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    """Give the gradient to the larger of two values, to the first of equal ones."""
    first = torch.ge(*values, out=torch.empty_like(gradient))
    torch.mul(gradient, first, out=gradients[0])
    torch.sub(gradient, gradients[0], out=gradients[1])


class PoolEncoder(nn.Sequential):
    """Four 5x5 convolutions, each followed by 2x2 max-pooling, widths depth·(2, 3, 4, 4) (DreamerV3)."""

    def __init__(self, config: ConvConfig, image_size: tuple[int, int], channels: int):
        layers = []
        for width in (config.depth * n for n in (2, 3, 4, 4)):
            conv = nn.Conv2d(channels, width, 5, 1, 2)
            initialise(conv, config.norm)
            layers += [conv, MaxPool(), ChannelNorm(config.norm, width), ACTIVATIONS[config.activation]()]
            channels = width
        super().__init__(*layers)
        self.output_size = channels * image_size[0] * image_size[1] // 256


class ImageDecoder(nn.Module):
    """Latent states to images [N, channels, H, W] before the output nonlinearity of the loss."""

    def __init__(
        self, config: ConvConfig, deter: int, stoch: int, image_size: tuple[int, int], units: int, channels: int = 3
    ):
        super().__init__()
        if config.kind == 'pool':
            self.net = UpsampleDecoder(config, deter, stoch, image_size, units, channels)
        else:
            self.net = StrideDecoder(config, deter, stoch, image_size, channels)

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        return self.net(deter, stoch)


class StrideDecoder(nn.Module):
    """Transposed convolutions that mirror the encoder; `valid` is World Models' 1x1 -> 64x64, kernels 5, 5, 6, 6."""

    def __init__(self, config: ConvConfig, deter: int, stoch: int, image_size: tuple[int, int], outputs: int):
        super().__init__()
        widths, strides, padding = _stride_plan(config)
        if config.kind == 'valid':
            self.shape = (32 * config.depth, 1, 1)
            kernels = (5, 5, 6, 6)
        else:
            self.shape = (widths[-1], image_size[0] // 16, image_size[1] // 16)
            kernels = (4,) * len(widths)
        self.input = nn.Linear(deter + stoch, math.prod(self.shape))
        initialise(self.input, config.norm)
        layers, channels = [], self.shape[0]
        plan = zip([*widths[-2::-1], outputs], kernels, strides[::-1], padding[::-1])
        for width, kernel, stride, pad in plan:
            conv = nn.ConvTranspose2d(channels, width, kernel, stride, pad)
            initialise(conv, config.norm)
            layers += [conv, *_norm(config.norm, width), ACTIVATIONS[config.activation]()]
            channels = width
        # the image itself gets no norm and no activation
        self.net = nn.Sequential(*layers[: -1 if config.norm == 'none' else -2])

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        channels, height, width = self.shape
        x = self.input(torch.cat([deter, stoch], -1)).view(-1, height, width, channels)
        return self.net(x.permute(0, 3, 1, 2))


def _stride_plan(config: ConvConfig):
    """Widths, strides and paddings of the 4x4 convolutions. World Models and Dreamer pad nothing: `valid`."""
    if config.kind == 'patch':
        return [config.depth * n for n in (2, 4, 8)], (4, 2, 2), (0, 1, 1)
    padding = 0 if config.kind == 'valid' else 1
    return [config.depth * n for n in (1, 2, 4, 8)], (2,) * 4, (padding,) * 4


def _norm(name: str, width: int) -> list:
    return [] if name == 'none' else [ChannelNorm(name, width)]


class UpsampleConv(nn.Conv2d):
    """5x5 convolution of a nearest-upsampled image, computed at the low resolution.

    Each of the four output phases sees only 3x3 distinct low-resolution pixels, so the 5x5 kernel folds into
    four 3x3 kernels: 36 instead of 100 products per input pixel, and no upsampled image in memory.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, 1, 2)
        # fold[p, u, k] = 1 where tap k of phase p falls on low-resolution offset u (1D, both axes alike)
        fold = torch.zeros(2, 3, 5)
        for phase in range(2):
            for tap in range(5):
                fold[phase, (phase + tap - 2) // 2 + 1, tap] = 1.0
        self.register_buffer('fold', fold, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum('pua,qvb,oiab->pqoiuv', self.fold, self.fold, self.weight)
        outputs, (height, width) = self.weight.shape[0], x.shape[-2:]
        y = F.conv2d(x, weight.reshape(4 * outputs, -1, 3, 3), self.bias.repeat(4), padding=1)
        # Channels-last, a pixel holds its phases as [row][column][channel]: each row phase is already a whole row
        # of the result. Interleaving these rows takes a third of the time of a pixel shuffle.
        rows = [row.reshape(-1, height, 2 * width, outputs) for row in y.permute(0, 2, 3, 1).chunk(2, -1)]
        return torch.stack(rows, 2).view(-1, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)


class UpsampleDecoder(nn.Module):
    """DreamerV3's decoder: block-linear from deter plus an MLP from stoch, then four upsample-and-convolve stages."""

    BLOCKS = 8

    def __init__(
        self, config: ConvConfig, deter: int, stoch: int, image_size: tuple[int, int], units: int, outputs: int
    ):
        super().__init__()
        widths = [config.depth * n for n in (2, 3, 4, 4)]
        self.grid = (image_size[0] // 16, image_size[1] // 16)
        self.channels = widths[-1]
        size = math.prod(self.grid) * self.channels
        self.from_deter = BlockLinear(deter, size, self.BLOCKS)
        self.stoch_hidden = dense(stoch, 2 * units, config.activation, config.norm)
        self.from_stoch = nn.Linear(2 * units, size)
        initialise(self.from_stoch, config.norm)
        self.input = nn.Sequential(ChannelNorm(config.norm, self.channels), ACTIVATIONS[config.activation]())
        layers, channels = [], self.channels
        for width in reversed(widths[:-1]):
            layers += [UpsampleConv(channels, width), ChannelNorm(config.norm, width), ACTIVATIONS[config.activation]()]
            channels = width
        layers.append(UpsampleConv(channels, outputs))
        for layer in layers:
            if isinstance(layer, UpsampleConv):
                initialise(layer, config.norm)
        self.net = nn.Sequential(*layers)

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        height, width = self.grid
        blocks = self.from_deter(to_blocks(deter, self.BLOCKS))
        # each block owns a slice of the channels at every pixel
        x = blocks.view(self.BLOCKS, -1, height, width, self.channels // self.BLOCKS)
        x = x.permute(1, 2, 3, 0, 4).reshape(-1, height, width, self.channels)
        x = x + self.from_stoch(self.stoch_hidden(stoch)).view(-1, height, width, self.channels)
        return self.net(self.input(x.permute(0, 3, 1, 2)))


def unit_image(image: Tensor, bits: int = 8, spread: float | Tensor = 0.5) -> Tensor:
    """uint8 images as float32 in [0, 1]; float images already are.

    Args:
        bits: kept per colour. Below 8, each of the 2^bits levels covers a range of values.
        spread: where in its range a value lies, in [0, 1): noise dequantises it, 0.5 is the middle.
    """
    if image.is_floating_point():
        return image
    if bits == 8:
        return image.float().div_(255.0)
    return (image.float().div_(2 ** (8 - bits)).floor_() + spread) / 2**bits


def thumbnail_size(image_size: tuple[int, int], channels: int) -> int:
    """Values of a thumbnail."""
    return channels * (image_size[0] // THUMBNAIL_STEP) * (image_size[1] // THUMBNAIL_STEP)


def thumbnails(image: Tensor, blur: int = THUMBNAIL_STEP) -> Tensor:
    """Images at a quarter of their size as float32 [N, thumbnail_size] in [0, 1].

    Args:
        image: uint8 [N, H, W, channels].
        blur: side of the pixels that are averaged into one.
    """
    return F.avg_pool2d(
        unit_image(image).permute(0, 3, 1, 2),
        blur,
        THUMBNAIL_STEP,
        padding=(blur - THUMBNAIL_STEP) // 2,
        count_include_pad=False,
    ).flatten(1)


@torch.no_grad()
def standardise(x: Tensor, mean: Tensor, variance: Tensor, batches: Tensor) -> Tensor:
    """X [N, D] standardised by running statistics [D], after these were updated with x.

    The statistics are plain averages over the first hundred batches, and exponential ones after. They start at zero.
    """
    batches += 1
    rate = torch.clamp(1.0 / batches, min=0.01)
    mean.lerp_(average(x.mean(0)), rate)
    variance.lerp_(average((x - mean).square().mean(0)), rate)
    # 0.01 keeps the noise of a pixel that never changes small
    return (x - mean) / (variance.sqrt() + 0.01)
