"""Image encoders and decoders: shapes for every size, equality with the plain definition of each layer."""

import pytest
import torch
from torch.nn import functional as F

from dreamer_ros.config import ConvConfig
from dreamer_ros.nets.encoders import ImageDecoder, ImageEncoder, MaxPool, UpsampleConv

SIZES = [(32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (32, 64), (96, 48)]


def conv(kind, norm=None):
    return ConvConfig(kind=kind, depth=2, activation='silu', norm=norm or ('rms' if kind == 'pool' else 'none'))


@pytest.mark.parametrize('size', SIZES, ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('kind', ['stride', 'patch', 'pool'])
def test_shapes(kind, size):
    encoder = ImageEncoder(conv(kind), size)
    image = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    embed = encoder(image)
    width = 8 if kind == 'pool' else 16  # depth 2 times 4 (pool) or 8 (the others)
    assert embed.shape == (2, encoder.output_size) == (2, width * size[0] // 16 * (size[1] // 16))
    decoder = ImageDecoder(conv(kind), 16, 5, size, 8)
    assert decoder(torch.randn(2, 16), torch.randn(2, 5)).shape == (2, 3, *size)


def test_world_models_network_is_1024_wide():
    config = ConvConfig(kind='valid', depth=32, activation='relu', norm='none')
    encoder = ImageEncoder(config, (64, 64))
    assert encoder.output_size == 1024
    assert encoder(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape == (1, 1024)
    decoder = ImageDecoder(config, 200, 30, (64, 64), 400)
    assert decoder(torch.zeros(1, 200), torch.zeros(1, 30)).shape == (1, 3, 64, 64)
    convolutions = [tuple(p.shape) for p in decoder.net.net.parameters() if p.ndim == 4]
    assert convolutions == [(1024, 128, 5, 5), (128, 64, 5, 5), (64, 32, 6, 6), (32, 3, 6, 6)]


@pytest.mark.parametrize('kind', ['valid', 'stride', 'patch', 'pool'])
def test_encoder_is_its_convolutions_on_images_around_zero(kind, seed):
    """Channel order, scaling to ±½ and the order conv, pool, norm, activation, against torch.nn.functional."""
    torch.manual_seed(seed)
    encoder = ImageEncoder(conv(kind), (64, 64))
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    x = torch.stack([image[..., c] for c in range(3)], 1).double() / 255.0 - 0.5
    layers = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    scales = [p for name, p in encoder.named_parameters() if name.endswith('scale')]
    assert len(layers) == (3 if kind == 'patch' else 4)
    for index, layer in enumerate(layers):
        weight, bias = layer.weight.double(), layer.bias.double()
        if kind == 'pool':
            x = F.max_pool2d(F.conv2d(x, weight, bias, padding=2), 2)
            x = x / (x.square().mean(1, keepdim=True) + 1e-4).sqrt() * scales[index].double()[None, :, None, None]
        else:
            first = kind == 'patch' and index == 0
            padding = 0 if kind == 'valid' or first else 1
            x = F.conv2d(x, weight, bias, stride=4 if first else 2, padding=padding)
        x = x * torch.sigmoid(x)
    torch.testing.assert_close(encoder(image).double(), x.flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('channels_last', [False, True])
def test_max_pool_of_bfloat16_is_torchs(channels_last, seed):
    torch.manual_seed(seed)
    x = torch.randperm(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).to(torch.bfloat16)  # none is equal to another: below 256
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    pull = torch.randn(2, 3, 2, 3).to(torch.bfloat16)
    taken, expected = MaxPool()(x), F.max_pool2d(x, 2)
    assert torch.equal(taken, expected)
    assert torch.equal(*(torch.autograd.grad((y * pull).sum(), x)[0] for y in (taken, expected)))


def test_equal_pixels_share_no_gradient():
    x = torch.ones(1, 2, 2, 4, dtype=torch.bfloat16, requires_grad=True)
    MaxPool()(x).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0] * 4]).expand(1, 2, 2, 4).to(x.dtype))


@pytest.mark.parametrize('shape', [(1, 1), (4, 4), (3, 5)])
def test_upsample_conv_is_upsample_then_conv(shape, seed):
    torch.manual_seed(seed)
    layer = UpsampleConv(3, 5).double()
    x = torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(2, 5, 2 * shape[0], 2 * shape[1], dtype=torch.float64)
    parameters = (x, layer.weight, layer.bias)
    taken = layer(x)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode='nearest'), layer.weight, layer.bias, padding=2)
    torch.testing.assert_close(taken, expected)
    for a, b in zip(
        torch.autograd.grad((taken * pull).sum(), parameters), torch.autograd.grad((expected * pull).sum(), parameters)
    ):
        torch.testing.assert_close(a, b)


def test_upsample_decoder_keeps_pixels_apart(seed):
    """Each grid cell of the first layer paints its own corner of the image."""
    torch.manual_seed(seed)
    decoder = ImageDecoder(conv('pool'), 16, 5, (64, 64), 8)
    with torch.no_grad():
        deter, stoch = torch.randn(1, 16), torch.randn(1, 5)
        before = decoder(deter, stoch)
        row = decoder.net.from_stoch.bias.view(4, 4, -1)
        row[0, 0] += 1.0
        change = (decoder(deter, stoch) - before).abs().amax((0, 1))
    assert change[:16, :16].max() > 0 and (change[48:, :] == 0).all() and (change[:, 48:] == 0).all()


def test_gradients_reach_every_parameter():
    for kind in ('valid', 'stride', 'patch', 'pool'):
        encoder, decoder = ImageEncoder(conv(kind), (64, 64)), ImageDecoder(conv(kind), 16, 5, (64, 64), 8)
        embed = encoder(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
        embed.square().sum().backward()
        decoder(torch.randn(2, 16), torch.randn(2, 5)).square().sum().backward()
        for module in (encoder, decoder):
            still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
            assert still == [], (kind, still)
