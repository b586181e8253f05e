from __future__ import annotations

import importlib
import sys
import threading

import numpy as np
import pytest
from rclpy.serialization import deserialize_message

from dreamer_ros.errors import InputError
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.safety import Safety
from dreamer_ros.wire.definitions import decode
from tests.robot.robots import ARM, contract
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


DEFINITIONS = {
    'ackermann_msgs/msg/AckermannDrive.msg': 'float32 steering_angle\nfloat32 steering_angle_velocity\nfloat32 speed\n',
    'ackermann_msgs/msg/AckermannDriveStamped.msg': 'std_msgs/Header header\nackermann_msgs/AckermannDrive drive\n',
    'control_msgs/msg/JointJog.msg': 'std_msgs/Header header\nstring[] joint_names\nfloat64[] displacements\n'
    'float64[] velocities\nfloat64 duration\n',
    'control_msgs/msg/GripperCommand.msg': 'float64 position\nfloat64 max_effort\n',
    'control_msgs/action/GripperCommand.action': 'GripperCommand command\n---\nbool stalled\n---\nbool stalled\n',
    'control_msgs/action/FollowJointTrajectory.action': 'trajectory_msgs/JointTrajectory trajectory\n'
    'builtin_interfaces/Duration goal_time_tolerance\n---\nint32 error_code\n---\nstd_msgs/Header header\n',
    'motor_msgs/msg/Motor.msg': 'uint8 MODE=3\nuint8 mode\nint16 speed\nbool brake\n',
    'motor_msgs/msg/Motors.msg': 'std_msgs/Header header\nMotor[] motors\nfloat32[2] gains\n',
}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The definitions of a sourced workspace."""
    for name, text in DEFINITIONS.items():
        file = tmp_path / 'share' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))


def there_and_back(commands: Commands, values: list[float]):
    """The message of the only receiver."""
    [part] = commands.parts
    message = decode(commands.encode(np.array(values), STAMP)[0], part.receiver.message)
    np.testing.assert_allclose(part.decode(message), values, rtol=1e-6)
    return message


def test_types_of_a_workspace(workspace):
    drive = 'ackermann_msgs/msg/AckermannDriveStamped'
    message = there_and_back(command(drive, 'drive.speed', 'drive.steering_angle', frame_id='base'), [0.5, -0.25])
    assert (message.drive.speed, message.drive.steering_angle, message.header.frame_id) == (0.5, -0.25, 'base')
    assert message.header.stamp.sec == 1_800_000_000
    jog = command('control_msgs/msg/JointJog', 'velocities[b]', 'velocities[a]', constants={'duration': 0.1})
    message = there_and_back(jog, [0.5, -0.25])
    assert message.joint_names == ['b', 'a'] and message.velocities.tolist() == [0.5, -0.25]
    assert message.duration == 0.1 and not len(message.displacements)
    fields = 'motors[1].speed', 'motors[0].speed'
    constants = {'motors[0].mode': 3, 'motors[1].mode': 3, 'motors[0].brake': 1, 'gains[1]': 0.5, 'gains[0]': 1}
    message = there_and_back(command('motor_msgs/msg/Motors', *fields, constants=constants), [1, 2])
    assert [(motor.mode, motor.speed, motor.brake) for motor in message.motors] == [(3, 2, True), (3, 1, False)]
    assert message.gains.tolist() == [1.0, 0.5]


def test_goals_of_actions(workspace):
    axes = [{'name': 'grip', 'field': 'command.position', 'limits': [0, 1]}]
    gripper = {'action': 'grip', 'type': 'control_msgs/action/GripperCommand', 'axes': axes, 'stop': {'grip': 0}}
    commands = Commands(contract(command={**gripper, 'constants': {'command.max_effort': 40}}))
    goal = there_and_back(commands, [0.5])
    assert (goal.command.position, goal.command.max_effort) == (0.5, 40.0)
    axes = [
        {'name': joint, 'field': f'trajectory.points[0].positions[{joint}]', 'limits': [-1, 1]} for joint in ('b', 'a')
    ]
    arm = {'action': 'arm', 'type': 'control_msgs/action/FollowJointTrajectory', 'axes': axes, 'stop': 'zero'}
    goal = there_and_back(Commands(contract(command=arm)), [0.5, -0.25])
    assert goal.trajectory.joint_names == ['b', 'a'] and goal.trajectory.header.stamp.sec == 0
    assert goal.trajectory.points[0].time_from_start.nanosec == 100_000_000
    for changes, reason in (
        ({'type': 'control_msgs/msg/JointJog'}, 'command.type: expected the type of an action, such as'),
        ({'type': 'control_msgs/action/Gripper'}, 'command.type: message type control_msgs/action/Gripper_Goal'),
        ({'topic': 'grip'}, "command.topic: expected either topic or action, got 'both'"),
        ({'action': None}, "command.topic: expected either topic or action, got 'neither'"),
    ):
        with pytest.raises(InputError, match=reason):
            contract(command={**gripper, **changes})


FEEDBACK = {'topic': 'joint_states', 'type': 'sensor_msgs/msg/JointState', 'field': 'position[elbow]'}
MOBILE = {
    'receivers': {
        'base': {'topic': 'cmd_vel', 'type': 'geometry_msgs/msg/TwistStamped', 'stop': 'zero', 'controller_timeout': 1},
        'arm': {'topic': 'arm', 'type': 'trajectory_msgs/msg/JointTrajectory', 'stop': 'hold'},
        'lift': {'topic': 'lift', 'type': 'std_msgs/msg/Float64', 'stop': {'lift': 0.5}, 'qos': {'depth': 2}},
    },
    'axes': [
        {'name': 'elbow', 'to': 'arm', 'field': 'points[0].positions[elbow]', 'limits': [-1, 1], 'feedback': FEEDBACK},
        {'name': 'ahead', 'to': 'base', 'field': 'twist.linear.x', 'limits': [-2, 2], 'rate_limit': 1},
        {'name': 'lift', 'to': 'lift', 'field': 'data', 'limits': [0, 1], 'rate_limit': 1},
        {'name': 'turn', 'to': 'base', 'field': 'twist.angular.z', 'limits': [-2, 2]},
    ],
}


def test_one_command_for_several_receivers():
    robot = contract(command=MOBILE)
    assert [topic.name for topic in robot.command_topics] == ['cmd_vel', 'arm', 'lift']
    assert robot.command_topics[2].qos.depth == 2 and robot.spec.action == ('elbow', 'ahead', 'lift', 'turn')
    commands = Commands(robot)
    values = np.array([0.5, 1.5, 0.25, -1.0])
    found = np.empty(4)
    for part, cdr in zip(commands.parts, commands.encode(values, STAMP)):
        found[part.axes] = part.decode(decode(cdr, part.receiver.type))
    np.testing.assert_array_equal(found, values)
    base, arm, lift = commands.encode(np.array([np.nan, 0, 0, 0]), STAMP)
    assert arm is None and base and lift, 'where the arm stands is not known, which silence holds'


def test_each_receiver_stops_by_its_own_rule():
    safety = Safety(contract(command=MOBILE))
    np.testing.assert_array_equal(safety.stop(0.0), [np.nan, 0, 0.5, 0])
    safety.start(np.array([0.75, np.nan, np.nan, np.nan]))
    safety.limit(np.array([0.25, 2, 1, 2]), 1.0)
    np.testing.assert_allclose(safety.limit(np.array([0.25, 2, 1, 2]), 2.0).values, [0.25, 0.2, 0.7, 2])
    np.testing.assert_allclose(safety.stop(2.1), [0.25, 0, 0.6, 0], err_msg='held; at once; no faster than allowed')
    assert not safety.stopped
    np.testing.assert_allclose(safety.stop(2.2), [0.25, 0, 0.5, 0])
    assert safety.stopped


@pytest.mark.parametrize(
    'changes, reason',
    [
        ({'topic': 'cmd_vel'}, "command.receivers: expected them to say, got 'topic'"),
        ({'stop': 'zero'}, "command.receivers: expected them to say, got 'stop'"),
        ({'axes__0__to': None}, r'command.axes\[0\].to: expected one of the receivers base, arm, lift, got None'),
        ({'axes__2__to': 'base'}, r'command.axes\[2\].field: data: expected a field of geometry_msgs/msg/TwistStamped'),
        ({'receivers__arm__topic': 'lift'}, 'command.receivers: expected different topics and actions'),
        ({'receivers__arm__stop': None}, 'command.receivers.arm.stop: expected one of zero, hold, .* is missing'),
        ({'receivers__arm__type': None}, 'command.receivers.arm.type: expected a type of messages'),
        ({'receivers__lift__stop': {'elbow': 0}}, 'command.receivers.lift.stop.lift: expected a number'),
        ({'receivers__arm__constants': {'points': 1}}, 'command.receivers.arm.constants: points: expected an element'),
        ({'axes__0__feedback': None}, 'command.receivers.arm.stop: expected feedback of elbow'),
        (
            {'receivers__odd': {'topic': 'odd', 'type': 'std_msgs/msg/Float64', 'stop': 'zero'}},
            'command.receivers.odd.axes: expected at least one axis that goes there',
        ),
        (
            {'receivers__lift__topic': 'joint_states'},
            'command.receivers.lift.type: expected sensor_msgs/msg/JointState, as elsewhere for joint_states',
        ),
    ],
)
def test_mistakes_of_several_receivers(changes, reason):
    with pytest.raises(InputError, match=reason):
        contract({**ARM, 'command': MOBILE}, **{f'command__{key}': value for key, value in changes.items()})
