"""The contract of a robot that exists only in simulation, derived from its spec."""

from __future__ import annotations

import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec

MAX_AGE_PERIODS = 3
MIN_MAX_AGE = 0.1  # seconds


def simulated_contract(spec: RobotSpec, rewarded: bool) -> str:
    """Write the contract of a simulated robot: images, joint states, and a controller that takes physical units.

    Args:
        rewarded: whether the simulator publishes the reward of its task.

    Raises:
        InputError: the actions are discrete, and a spec does not say what each does.
    """
    if spec.discrete:
        raise InputError(
            f'deploy: {spec.name} has discrete actions, and only a contract says what they do: '
            'expected robot:=<contract>'
        )
    topics = [f'{"camera" if number == 0 else name}/image_raw' for number, name in enumerate(spec.cameras)]
    middle = [(low + high) / 2 for low, high in zip(spec.action_low, spec.action_high)]
    centred = not any(middle)
    contract = {
        'name': spec.name,
        'rate': 1 / spec.control_period,
        'max_age': max(MAX_AGE_PERIODS * spec.control_period, MIN_MAX_AGE),
        **({'image_size': list(spec.image_size)} if spec.cameras else {}),
        'cameras': {
            name: {'topic': topic, 'type': 'sensor_msgs/msg/Image'} for name, topic in zip(spec.cameras, topics)
        },
        'vector': [_joint(name) for name in spec.vector],
        'command': {
            'topic': 'commands',
            'type': 'std_msgs/msg/Float64MultiArray',
            'axes': [
                {'name': name, 'field': f'data[{number}]', 'limits': [low, high]}
                for number, (name, low, high) in enumerate(zip(spec.action, spec.action_low, spec.action_high))
            ],
            'stop': 'zero' if centred else dict(zip(spec.action, middle)),
        },
        **({'reward': {'topic': 'reward', 'type': 'std_msgs/msg/Float64', 'field': 'data'}} if rewarded else {}),
    }
    return yaml.safe_dump(
        {key: value for key, value in contract.items() if value != {} and value != []}, sort_keys=False
    )


def _joint(name: str) -> dict:
    """The input called `<joint>/position` or `<joint>/velocity`."""
    joint, _, quantity = name.rpartition('/')
    return {
        'name': name,
        'topic': 'joint_states',
        'type': 'sensor_msgs/msg/JointState',
        'field': f'{quantity}[{joint}]',
    }
