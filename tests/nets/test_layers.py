"""The RMS norm with its own backward pass against autograd's."""

import pytest
import torch

from dreamer_ros.nets.layers import RMSNorm, rms_norm


@pytest.mark.parametrize('shape', [(5, 7), (3, 2, 4, 8), (1, 1)])
def test_rms_norm_gradients_by_finite_differences(shape, seed):
    torch.manual_seed(seed)
    norm = RMSNorm(shape[-1]).double()
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        norm.scale.uniform_(-1.5, 1.5)
    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.scale))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_rms_norm_is_the_same_with_and_without_gradients(dtype, seed):
    torch.manual_seed(seed)
    norm = RMSNorm(64)
    x = (torch.randn(50, 64) * 0.01).to(dtype).requires_grad_()
    taken = norm(x)
    with torch.no_grad():
        assert taken.dtype == dtype and torch.equal(norm(x), taken)
    pull = torch.randn(50, 64).to(dtype)
    expected = torch.autograd.grad(rms_norm(x, norm.scale, norm.eps)[0], (x, norm.scale), pull)
    for a, b in zip(torch.autograd.grad(taken, (x, norm.scale), pull), expected):
        torch.testing.assert_close(a, b)


def test_rms_norm_of_frozen_scale_passes_the_gradient_on():
    norm = RMSNorm(8).requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad.abs().sum() > 0 and norm.scale.grad is None
