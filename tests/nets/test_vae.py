"""The eye of World Models: the paper's network, its KL and its free nats."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from dreamer_ros.config import load_preset
from dreamer_ros.nets.vae import VAE, Code

SMALL = ('env.image_size=32', 'conv.depth=2', 'mlp.units=16')


def images(count, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def test_kl_is_the_integral(rng):
    mean, log_variance = rng.normal(size=2), rng.normal(size=2)
    expected = 0.0
    for m, v in zip(mean, log_variance):
        own, prior = scipy.stats.norm(m, float(torch.tensor(v / 2).exp())), scipy.stats.norm()
        expected += scipy.integrate.quad(
            lambda x: own.pdf(x) * (own.logpdf(x) - prior.logpdf(x)), m - 30, m + 30, points=[m]
        )[0]
    code = Code(torch.from_numpy(mean)[None], torch.from_numpy(log_variance)[None])
    assert float(code.kl()) == pytest.approx(expected, rel=1e-6)


def test_samples_have_the_codes_moments(seed):
    torch.manual_seed(seed)
    code = Code(torch.tensor([[2.0, -1.0]]), torch.tensor([[0.0, -2.0]]))
    z = code.sample(torch.randn(100_000, 2))
    torch.testing.assert_close(z.mean(0), code.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0).log(), code.log_variance[0], atol=0.03, rtol=0)
    assert torch.equal(code.sample(torch.zeros(1, 2)), code.mean)


def test_the_papers_network():
    """4,348,547 parameters in the authors' own VAE of CarRacing."""
    config = load_preset('world_models')
    made = VAE(config, (64, 64), 3)
    assert made.encoder.output_size == 1024
    assert sum(p.numel() for p in made.parameters()) == 4_348_547
    assert made.decode(torch.zeros(2, 32)).shape == (2, 64, 64, 3)


def test_loss_is_squared_error_plus_free_nats(seed):
    torch.manual_seed(seed)
    made, image = VAE(load_preset('world_models'), (64, 64), 3), images(3, 64, seed)
    with torch.no_grad():
        code = made.encode(image)
        torch.manual_seed(seed)
        total, metrics = made.loss(image, code)
        torch.manual_seed(seed)
        z = code.sample(torch.randn(3, 32))
        decoded = torch.sigmoid(made.decoder(z, z[:, :0]))
    error = sum(float((d - x.permute(2, 0, 1) / 255.0).square().sum()) for d, x in zip(decoded, image)) / 3
    kl = sum(max(float(k), 16.0) for k in code.kl()) / 3
    assert float(total) == pytest.approx(error + kl, rel=1e-5)
    assert float(metrics['image_loss']) == pytest.approx(error, rel=1e-5)


def test_free_kl_has_no_gradient():
    config = load_preset('world_models', ('vae.free_nats=1e6', 'loss.image_scale=0', 'conv.depth=2'))
    made = VAE(config, (64, 64), 3)
    image = images(2, 64)
    made.loss(image, made.encode(image))[0].backward()
    assert all(not p.grad.any() for p in made.code.parameters())


def test_thumbnails_leave_the_image_decoder_a_spectator(seed):
    torch.manual_seed(seed)
    made, image = VAE(load_preset('world_models_cpu', SMALL), (32, 32), 3), images(16, 32, seed)
    code = made.encode(image)
    made.image_loss(code.mean.detach(), image).backward()
    assert all(p.grad is None for p in made.encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in made.decoder.parameters())
    total, metrics = made.loss(image, code)
    total.backward()
    assert all(p.grad is not None and p.grad.any() for p in made.thumbnail.parameters())
    assert {'image_loss', 'representation_loss', 'kl'} <= set(metrics)


def test_thumbnails_are_standardised():
    made = VAE(load_preset('world_models_cpu', SMALL), (32, 32), 3)
    made.thumbnail = torch.nn.Identity()
    plain = torch.zeros(64, 3 * 8 * 8)
    for seed in range(30):
        image = images(64, 32, seed).float()
        image[:, :16] = 99.0  # never changes: three rows of the thumbnail lie within
        value = float(made.thumbnail_loss(plain, image.to(torch.uint8)))
    # the squared error of predicting 0 for standardised pixels is their count, less what ε takes from the std
    std = made.pixel_variance.sqrt()
    assert value == pytest.approx(float((std / (std + 0.01)).square().sum()), rel=0.05)
    assert made.pixel_variance.view(3, 8, 8)[:, :3].abs().max() < 1e-6


def test_thumbnails_are_means_of_overlapping_squares(rng):
    made = VAE(load_preset('world_models_cpu', SMALL), (32, 32), 3)
    made.thumbnail = torch.nn.Identity()
    image = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    made.thumbnail_loss(torch.zeros(1, 3 * 8 * 8), torch.from_numpy(image))
    means = made.pixel_mean.view(3, 8, 8)  # after one image
    for row, column in ((0, 0), (3, 5), (7, 4)):  # 12 x 12 pixels, less what lies outside of the image
        square = image[0, max(4 * row - 4, 0) : 4 * row + 8, max(4 * column - 4, 0) : 4 * column + 8]
        expected = torch.from_numpy(square.mean((0, 1)) / 255.0).float()
        torch.testing.assert_close(means[:, row, column], expected)
