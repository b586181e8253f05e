"""A whole update in two lanes is the update in one."""

import pytest
import torch

from dreamer_ros.nets import lanes
from tests.agents.small import agent, batch


@pytest.mark.parametrize('system', ['v1', 'v2', 'v3'])
def test_loss_and_gradients_of_an_agent(system, seed):
    made, data = agent(system, seed=seed), batch(3, 6, seed)

    def run():
        torch.manual_seed(seed)
        made.zero_grad()
        made.behaviour.return_range.low.zero_()
        made.behaviour.return_range.high.zero_()
        loss, metrics = made.loss(data)
        loss.backward()
        return {**metrics, **{name: p.grad for name, p in made.named_parameters()}}

    expected = run()
    lanes.open_lanes()
    try:
        taken, again = run(), run()
    finally:
        lanes.close_lanes()
    assert taken.keys() == expected.keys()
    for name, value in expected.items():
        if value is not None:
            torch.testing.assert_close(taken[name], value, rtol=1e-3, atol=1e-5, msg=lambda text: f'{name}: {text}')
            assert torch.equal(taken[name], again[name]), name
