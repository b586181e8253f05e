"""Encoders of images, vectors and both, against their definition."""

import pytest
import torch
from torch import nn

from dreamer_ros.nets.encoders import VECTOR_LAYERS, ImageDecoder, ImageEncoder, ObservationEncoder, VectorEncoder
from tests.agents.small import config, robot


def test_vectors_are_squashed_and_read_by_three_layers(seed):
    torch.manual_seed(seed)
    settings = config('v1').mlp
    encoder = VectorEncoder(settings, 4)
    vector = torch.tensor([[0.0, 1e6, -3.0, 0.2], [-1e-3, 7.0, 1e3, -1e9]])
    x = vector.double().sign() * (1.0 + vector.double().abs()).log()
    layers = [module for module in encoder.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == VECTOR_LAYERS and encoder.output_size == settings.units
    for layer in layers:
        x = nn.functional.elu(x @ layer.weight.double().T + layer.bias.double())
    torch.testing.assert_close(encoder(vector).double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('system', ['v1', 'v2', 'v3'])
def test_embeddings_stand_side_by_side(system, seed):
    torch.manual_seed(seed)
    spec = robot(cameras=('camera', 'wrist'), vector=('a/position', 'a/velocity'))
    encoder = ObservationEncoder(config(system), spec)
    image, vector = torch.randint(0, 256, (5, 32, 32, 6), dtype=torch.uint8), torch.randn(5, 2)
    embed = encoder(image, vector)
    assert encoder.inputs == ('image', 'vector') and embed.shape == (5, encoder.output_size)
    parts = encoder.encoders['image'](image), encoder.encoders['vector'](vector)
    assert torch.equal(embed, torch.cat(parts, -1))
    # both cameras are seen
    for half in (slice(0, 3), slice(3, 6)):
        other = image.clone()
        other[..., half] = 255 - other[..., half]
        assert not torch.allclose(encoder(other, vector), embed)


@pytest.mark.parametrize('kind', ['stride', 'patch', 'pool'])
def test_each_camera_has_three_channels(kind, seed):
    """A network whose second camera has no weight is the network of one camera."""
    torch.manual_seed(seed)
    settings = config('v3', f'conv.kind={kind}').conv
    two, one = ImageEncoder(settings, (32, 48), 6), ImageEncoder(settings, (32, 48))
    state = two.state_dict()
    first = next(name for name, value in state.items() if value.ndim == 4)
    with torch.no_grad():
        state[first][:, 3:] = 0.0
        one.load_state_dict({**state, first: state[first][:, :3]})
    image = torch.randint(0, 256, (2, 32, 48, 6), dtype=torch.uint8)
    torch.testing.assert_close(two(image), one(image[..., :3]), rtol=1e-4, atol=1e-5)
    decoder = ImageDecoder(settings, 16, 5, (32, 48), 8, 6)
    assert decoder(torch.randn(2, 16), torch.randn(2, 5)).shape == (2, 6, 32, 48)
