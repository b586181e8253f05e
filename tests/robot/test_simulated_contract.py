"""The contract that a simulated robot gets fits its spec."""

from __future__ import annotations

import pytest

from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.simulated_contract import simulated_contract
from dreamer_ros.simulation.environment import make


@pytest.mark.parametrize('inputs', ['image', 'both', 'vector'])
def test_a_policy_without_a_contract_gets_that_of_its_simulation(inputs):
    environment = make('cartpole_swingup', image_size=(32, 32), action_repeat=4, inputs=inputs)
    environment.close()
    contract = RobotContract.from_text(simulated_contract(environment.spec, rewarded=True), 'robot.yaml')
    contract.check(environment.spec)
    assert contract.reward.sources
    # Nobody but the stand-in publishes it.
    assert RobotContract.from_text(simulated_contract(environment.spec, rewarded=False), 'robot.yaml').reward is None
    assert contract.name == 'cartpole_swingup' and contract.rate == 25
