"""A contract written from what was heard: what is chosen, what is left out, what a person must decide."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.drafting import Heard, Obeyed, Surroundings, draft
from dreamer_ros.robot.urdf import JointLimits

TWIST, ARRAY = 'geometry_msgs/msg/Twist', 'std_msgs/msg/Float64MultiArray'
IMAGE, STATES = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/JointState'


def image(encoding='rgb8', **changes) -> SimpleNamespace:
    fields = {'height': 4, 'width': 6, 'step': 18, 'encoding': encoding, 'is_bigendian': 0, 'data': bytes(72)}
    return SimpleNamespace(**{**fields, **changes})


def joints(*names, position=(), velocity=()) -> SimpleNamespace:
    return SimpleNamespace(name=list(names), position=list(position), velocity=list(velocity), effort=[])


def heard(topic='/image', kind=IMAGE, message=None, rate=30.0, age=0.02) -> Heard:
    return Heard(topic, kind, ('/node',), rate, message or image(), age)


def obeyed(topic='/cmd_vel', kind=TWIST, publishers=(), **parameters) -> Obeyed:
    return Obeyed(topic, kind, ('/base',), publishers, parameters)


def drafted(*entries, wanted='', limits=None, simulated=False) -> tuple[RobotContract, str]:
    found = [entry for entry in entries if isinstance(entry, Heard)]
    commands = [entry for entry in entries if isinstance(entry, Obeyed)]
    text = draft('mine', Surroundings(tuple(found), tuple(commands), limits or {}, simulated), wanted)
    return RobotContract.from_text(text, 'mine.yaml'), text


def test_an_input_of_a_mux_goes_before_its_output():
    topics = [
        obeyed('/base/cmd_vel', publishers=('/mux',)),
        obeyed('/policy/cmd_vel'),
        obeyed('/joy', publishers=('/t',)),
    ]
    contract, text = drafted(heard(), *topics)
    assert contract.command.topic == '/policy/cmd_vel'
    assert '/base/cmd_vel (geometry_msgs/msg/Twist, published by /mux)' in text
    assert drafted(heard(), *topics, wanted='/base/cmd_vel')[0].command.topic == '/base/cmd_vel'
    with pytest.raises(InputError, match='^/nothing: expected a topic that something obeys'):
        drafted(heard(), *topics, wanted='/nothing')


def test_what_a_controller_says_needs_no_decision():
    told = {'linear.x.max_velocity': 2.0, 'angular.z.max_velocity': 4.0, 'linear.x.max_acceleration': 1.5}
    contract, text = drafted(heard(), obeyed(cmd_vel_timeout=0.4, **told))
    assert [axis.limits for axis in contract.command.axes] == [(-2.0, 2.0), (-4.0, 4.0)]
    assert [axis.rate_limit for axis in contract.command.axes] == [1.5, None]
    assert contract.command.controller_timeout == 0.4
    assert 'how fast' in drafted(heard(), obeyed())[1] and 'how fast' not in text


def test_rate_and_age_follow_the_slowest_input():
    contract, _ = drafted(heard(rate=6.1), heard('/joints', STATES, joints('a', velocity=[0.0]), rate=100.0), obeyed())
    assert (contract.rate, contract.max_age, contract.stamps) == (5, 0.6, 'header')
    assert drafted(heard(age=0.25), obeyed())[0].max_age == 0.5
    strange, text = drafted(heard(age=1e9), obeyed())
    assert strange.stamps == 'receive' and 'another clock' in text
    assert 'use_sim_time' in drafted(heard(), obeyed(), simulated=True)[1]


def test_what_cannot_be_read_is_left_out():
    contract, text = drafted(heard(), heard('/depth', message=image('32FC1')), heard('/slow', rate=0.0), obeyed())
    assert [camera.topic for camera in contract.cameras.values()] == ['/image']
    assert '# left out: /depth (32FC1; a depth camera needs `depth`)' in text and '/slow' not in text


def test_joints_of_an_arm():
    """Positions within the URDF, velocities at a tenth and with limits of the state, wheels without their angles."""
    states = heard('/joints', STATES, joints('b', 'a', 'w', position=[0.5, 0.1, 9.0], velocity=[0.0, 0.0, 1.0]))
    limits = {'a': JointLimits(-1.0, 1.0, 2.0), 'b': JointLimits(-2.0, 2.0, 4.0), 'w': JointLimits()}
    both = {'joints': ['a', 'b']}
    contract, _ = drafted(states, obeyed('/p', ARRAY, interface_name='position', **both), limits=limits)
    assert [entry.name for entry in contract.vector if entry.name.startswith('w')] == ['w/velocity']
    assert [axis.limits for axis in contract.command.axes] == [(-1.0, 1.0), (-2.0, 2.0)]
    assert contract.command.stop_rule == 'hold' and not contract.limits
    contract, _ = drafted(states, obeyed('/v', ARRAY, interface_name='velocity', **both), limits=limits)
    assert [axis.limits for axis in contract.command.axes] == [(-0.2, 0.2), (-0.4, 0.4)]
    assert (contract.limits['b'].low, contract.limits['b'].high) == (-1.8, 1.8)
    unmeasured = heard('/joints', STATES, joints('a', 'b', position=[0.5, 0.1]))
    contract, _ = drafted(unmeasured, obeyed('/v', ARRAY, interface_name='velocity', **both), limits=limits)
    assert {axis.feedback for axis in contract.command.axes} == {None}, 'velocities that nobody publishes'


def test_nothing_to_command_or_to_observe_is_told():
    with pytest.raises(InputError, match='expected a node that subscribes one of'):
        drafted(heard())
    with pytest.raises(InputError, match='expected a camera, joint states or odometry'):
        drafted(obeyed())


def test_what_strangers_publish_gives_a_contract_or_a_sentence(rng):
    """Names, encodings and numbers that nobody would expect, in all combinations."""
    picks = random.Random(int(rng.integers(1 << 31)))
    texts = ['', 'a: b\nrate: 99', '"', "'", '#', 'x' * 500, '\ud7ff\0', '[0]', '{a: 1}', '1', 'null', 'joint 1', '*a']
    numbers = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 1e-320, 3.0]

    def some(values):
        return [picks.choice(values) for _ in range(picks.randint(0, 3))]

    for _ in range(100):
        found = (
            heard(message=image(picks.choice(texts)), rate=picks.choice([0.0, 1e-9, 1e9, 30.0])),
            heard('/joints', STATES, joints(*some(texts), position=some(numbers), velocity=some(numbers))),
            heard(
                '/scan',
                'sensor_msgs/msg/LaserScan',
                SimpleNamespace(ranges=[1.0] * 20, range_max=picks.choice(numbers)),
            ),
        )
        commands = (
            obeyed(**{name: picks.choice(numbers) for name in ('linear.x.max_velocity', 'cmd_vel_timeout')}),
            obeyed('/array', ARRAY, joints=some(texts), interface_name=picks.choice(texts)),
        )
        limits = {picks.choice(texts): JointLimits(*(picks.choice(numbers) for _ in range(3)))}
        try:
            text = draft('mine', Surroundings(found, commands, limits, False), picks.choice(['/cmd_vel', '/array']))
        except InputError:
            continue
        assert yaml.safe_load(text)['rate'] != 99
        assert np.isfinite(yaml.safe_load(text)['rate'])
