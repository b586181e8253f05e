"""Two lanes against one: equal results and gradients, whatever is differentiated, in every mode of torch."""

import pytest
import torch
from torch import nn

from dreamer_ros.nets import lanes


@pytest.fixture
def opened():
    lanes.open_lanes()
    yield
    lanes.close_lanes()


@pytest.mark.parametrize('dim', [0, 1])
@pytest.mark.parametrize('rows', [1, 2, 7])
def test_gradients_of_inputs_and_parameters(opened, dim, rows, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh()).double()
    shape = (rows, 4, 3) if dim == 0 else (4, rows, 3)
    x, y = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    still = torch.randn(shape, dtype=torch.float64)
    pull = torch.randn(*shape[:2], 5, dtype=torch.float64)

    def function(x, y, still):
        return net(x * y + still), (x + y).detach(), x.square().sum(-1, keepdim=True)

    def gradients(run):
        net.zero_grad()
        product, constant, square = run()
        assert not constant.requires_grad
        (product * pull + square).sum().backward()
        found = [product.detach(), constant, square.detach(), x.grad, y.grad, *(p.grad for p in net.parameters())]
        x.grad = y.grad = None
        return found

    for taken, expected in zip(
        gradients(lambda: lanes.by_rows(function, x, y, still, modules=[net], dim=dim)),
        gradients(lambda: function(x, y, still)),
    ):
        torch.testing.assert_close(taken, expected)


def test_outputs_that_nobody_differentiates(opened):
    net = nn.Linear(3, 2)
    x = torch.ones(4, 3)
    used, unused = lanes.by_rows(lambda x: (net(x), net(2 * x)), x, modules=[net])
    used.sum().backward()
    torch.testing.assert_close(net.weight.grad, torch.full((2, 3), 4.0))
    assert unused.requires_grad


def test_modes_reach_both_lanes(opened):
    x = torch.randn(6, 8)
    net = nn.Linear(8, 2)
    seen = []

    def function(x):
        seen.append((torch.is_grad_enabled(), net(x).dtype))
        return (net(x),)

    with torch.no_grad():
        assert not lanes.by_rows(function, x)[0].requires_grad
    with torch.autocast('cpu', torch.bfloat16):
        assert lanes.by_rows(function, x)[0].dtype == torch.bfloat16
    assert seen == [(False, torch.float32)] * 2 + [(True, torch.bfloat16)] * 2


def test_lanes_within_lanes_and_errors_do_not_hang(opened):
    inner = lambda x: lanes.by_rows(lambda x: (2 * x,), x)
    assert torch.equal(lanes.by_rows(inner, torch.arange(4))[0], 2 * torch.arange(4))

    def second_half_fails(x):
        if x[0] == 2:
            raise ValueError('row 2')
        return (x,)

    with pytest.raises(ValueError, match='row 2'):
        lanes.by_rows(second_half_fails, torch.arange(4))
    assert torch.equal(lanes.by_rows(inner, torch.arange(4))[0], 2 * torch.arange(4))
