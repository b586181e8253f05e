from __future__ import annotations

import importlib
import sys
import threading

import numpy as np
import pytest
from rclpy.serialization import deserialize_message

from dreamer_ros.errors import InputError
from dreamer_ros.robot.commands import Commands
from dreamer_ros.wire.definitions import decode
from tests.robot.robots import contract
from tests.robot.test_contract import TWIST

STAMP = 1_800_000_000_123_456_789


def command(type_name: str, *fields: str, **further) -> Commands:
    """Axes `a0`, `a1`, … from -1 - n to 2 + n, each on its field."""
    axes = [{'name': f'a{n}', 'field': field, 'limits': [-1 - n, 2 + n]} for n, field in enumerate(fields)]
    return Commands(contract(command={'topic': 'command', 'type': type_name, 'axes': axes, 'stop': 'zero', **further}))


def live(cdr: bytes, type_name: str):
    """The message as rclpy takes it from the wire."""
    package, _, name = type_name.split('/')
    return deserialize_message(cdr, getattr(importlib.import_module(f'{package}.msg'), name))


TYPES = {
    'geometry_msgs/msg/Twist': ('linear.x', 'angular.z', 'linear.y'),
    'geometry_msgs/msg/TwistStamped': ('twist.linear.x', 'twist.angular.z', 'twist.angular.x'),
    'std_msgs/msg/Float64MultiArray': ('data[0]', 'data[2]', 'data[1]'),
    'trajectory_msgs/msg/JointTrajectory': tuple(f'points[0].positions[{joint}]' for joint in 'cab'),
    'sensor_msgs/msg/JointState': tuple(f'velocity[{joint}]' for joint in 'cab'),
    'sensor_msgs/msg/Joy': ('axes[0]', 'axes[4]', 'axes[1]'),
}


@pytest.mark.parametrize('type_name', TYPES)
def test_there_and_back(type_name, rng):
    commands = command(type_name, *TYPES[type_name])
    [part] = commands.parts
    for action in (*rng.uniform(-1, 1, (20, 3)), np.ones(3), -np.ones(3)):
        values = commands.values(action.astype(np.float32))
        np.testing.assert_allclose(values, np.array([1.5, 2.5, 3.5]) * action + 0.5, atol=1e-6)
        [cdr] = commands.encode(values, STAMP)
        for message in (decode(cdr, type_name), live(cdr, type_name)):
            np.testing.assert_allclose(part.decode(message), values, rtol=1e-6)  # Joy has float32
            np.testing.assert_allclose(commands.action(part.decode(message)), action, atol=1e-6)


def test_messages_as_controllers_want_them():
    values = np.array([0.5, -0.25, 1.0])
    twist = live(
        command(
            'geometry_msgs/msg/TwistStamped',
            'twist.linear.x',
            'twist.angular.z',
            'twist.linear.z',
            frame_id='base_link',
        ).encode(values, STAMP)[0],
        'geometry_msgs/msg/TwistStamped',
    )
    assert (twist.header.stamp.sec, twist.header.stamp.nanosec) == (1_800_000_000, 123_456_789)
    assert twist.header.frame_id == 'base_link'
    assert (twist.twist.linear.x, twist.twist.angular.z, twist.twist.linear.z) == (0.5, -0.25, 1.0)

    array = live(
        command('std_msgs/msg/Float64MultiArray', 'data[1]', 'data[0]', 'data[2]').encode(values, 0)[0],
        'std_msgs/msg/Float64MultiArray',
    )
    assert list(array.data) == [-0.25, 0.5, 1.0] and not array.layout.dim

    trajectory = live(
        command(
            'trajectory_msgs/msg/JointTrajectory',
            'points[0].positions[b]',
            'points[0].positions[a]',
            'points[0].positions[c]',
        ).encode(values, STAMP)[0],
        'trajectory_msgs/msg/JointTrajectory',
    )
    assert trajectory.joint_names == ['b', 'a', 'c']
    [point] = trajectory.points
    assert list(point.positions) == [0.5, -0.25, 1.0] and not len(point.velocities)
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 100_000_000)  # one control period
    assert trajectory.header.stamp.sec == 0  # starts on arrival

    joints = live(
        command('sensor_msgs/msg/JointState', 'position[b]', 'velocity[b]').encode(values[:2], STAMP)[0],
        'sensor_msgs/msg/JointState',
    )
    assert joints.name == ['b'] and list(joints.position) == [0.5] and list(joints.velocity) == [-0.25]
    assert not len(joints.effort) and joints.header.stamp.sec == 1_800_000_000

    joy = live(command('sensor_msgs/msg/Joy', 'axes[0]', 'axes[3]').encode(values[:2], STAMP)[0], 'sensor_msgs/msg/Joy')
    assert list(joy.axes) == [0.5, 0.0, 0.0, -0.25]


def test_wheels_of_a_twist():
    """A differential drive: both wheels move it ahead, their difference turns it."""
    commands = Commands(contract(command=TWIST))
    [part] = commands.parts
    for left, right, ahead, turn in ((3, 3, 0.6, 0), (-3, 3, 0, 3), (1, 0, 0.1, -0.5)):
        message = decode(commands.encode(np.array([left, right]), 0)[0], 'geometry_msgs/msg/Twist')
        assert (message.linear.x, message.angular.z) == pytest.approx((ahead, turn))
        np.testing.assert_allclose(part.decode(message), [left, right], atol=1e-12)
    message.linear.x = 99.0  # driven by hand, faster than the policy may
    np.testing.assert_array_equal(commands.action(part.decode(message)), [1, 1])


def test_choices():
    pose = {'ahead': {'left': 3, 'right': 3}, 'stop': {'left': 0, 'right': 0}, 'turn': {'left': -3, 'right': 3}}
    commands = Commands(contract(command={**TWIST, 'choices': pose}))
    np.testing.assert_array_equal(commands.values(np.array([0, 0, 1])), [-3, 3])
    np.testing.assert_array_equal(commands.action(np.array([2.0, 2.5])), [1, 0, 0])
    np.testing.assert_array_equal(commands.action(np.array([0.0, 0.0])), [0, 1, 0])
    assert commands.action(np.array([0.0, 0.0])).dtype == np.float32


def test_recorded_commands_that_cannot_be_used():
    commands = command('std_msgs/msg/Float64MultiArray', 'data[0]', 'data[1]')
    short = command('std_msgs/msg/Float64MultiArray', 'data[0]').encode(np.zeros(1), 0)[0]
    with pytest.raises(InputError, match='expected more than 1 elements, got 1'):
        commands.parts[0].decode(decode(short, 'std_msgs/msg/Float64MultiArray'))
    bad = commands.parts[0].encode(np.array([np.nan, 0.0]), 0)
    with pytest.raises(InputError, match='command: expected finite numbers'):
        commands.parts[0].decode(decode(bad, 'std_msgs/msg/Float64MultiArray'))


def test_threads_do_not_mix_their_commands():
    commands = command('std_msgs/msg/Float64MultiArray', *(f'data[{n}]' for n in range(20)))
    mixed = []

    def encode(value):
        for _ in range(300):
            message = decode(commands.encode(np.full(20, value), 0)[0], 'std_msgs/msg/Float64MultiArray')
            if set(message.data.tolist()) != {value}:
                mixed.append(message.data)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=encode, args=(float(value),)) for value in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not mixed
