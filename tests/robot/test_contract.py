from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.schema import describe, load_yaml, reference
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.topics import QoS
from tests.robot.robots import ARM, contract

TWIST = {
    'topic': 'cmd_vel',
    'type': 'geometry_msgs/msg/Twist',
    'stop': 'zero',
    'axes': [
        {'name': 'left', 'fields': {'linear.x': 0.1, 'angular.z': -0.5}, 'limits': [-3, 3]},
        {'name': 'right', 'fields': {'linear.x': 0.1, 'angular.z': 0.5}, 'limits': [-3, 3]},
    ],
}


def test_what_a_contract_says():
    robot = contract()
    assert robot.spec == RobotSpec(
        name='arm',
        image_size=(16, 24),
        vector=['shoulder', 'elbow', 'x', 'turn', 'spread'],
        action=['shoulder', 'elbow'],
        action_low=[-1.5, 0],
        action_high=[2.5, 2],
        control_period=0.1,
        action_repeat=1,
        cameras=['wrist', 'room'],
    )
    assert {topic.name: topic.type for topic in robot.topics} == {
        'wrist/image_raw': 'sensor_msgs/msg/Image',
        '/room/compressed': 'sensor_msgs/msg/CompressedImage',
        'joint_states': 'sensor_msgs/msg/JointState',
        'odom': 'nav_msgs/msg/Odometry',
        'imu': 'sensor_msgs/msg/Imu',
        'distance': 'std_msgs/msg/Float64',
        'bumper': 'std_msgs/msg/Bool',
    }
    assert [robot.age_limit(camera) for camera in robot.cameras.values()] == [0.5, 1.0]
    assert robot.vector[1].clip == (-5, 5) and robot.vector[0].clip is None
    assert np.isnan(robot.command.stop).all() and robot.command.axes[1].rate_limit == 1
    [topic] = robot.command_topics
    assert topic.name == 'command' and topic.qos == QoS(depth=1)
    assert (robot.stamps, robot.estop, robot.public_key, robot.episode_length) == ('header', 'estop', None, 100)
    assert robot.period_ns == 100_000_000
    again = RobotContract.from_text(robot.text, 'bag')
    assert again.spec == robot.spec and again.topics == robot.topics


def test_further_keys():
    robot = contract(
        stamps='receive',
        estop='/safety/estop',
        public_key='0f' * 32,
        reward=None,
        terminal=None,
        command__qos={'reliability': 'best_effort', 'depth': 3},
        command__controller_timeout=0.4,
        command__choices={'up': {'shoulder': 1, 'elbow': 0}, 'down': {'shoulder': -1, 'elbow': 2}},
    )
    assert robot.estop == '/safety/estop' and robot.public_key == '0f' * 32 and robot.reward is None
    assert robot.command_topics[0].qos == QoS(depth=3, reliable=False) and robot.command.controller_timeout == 0.4
    assert robot.spec.discrete and robot.spec.action == ('up', 'down') and robot.spec.action_high == (1, 1)
    assert contract(cameras=None, image_size=None).spec.image_size == (0, 0)
    assert contract(command=TWIST).command.parts[0].matrix.tolist() == [[0.1, 0.1], [-0.5, 0.5]]
    stick = contract(joystick={'axes': {'elbow': {'axes[1]': 0.5}}, 'release': 2}).joystick
    assert (stick.topic, stick.mode, stick.takeover, stick.release, stick.max_age) == ('joy', 'absolute', None, 2, 0.5)
    assert stick.axes == {'elbow': {'axes[1]': 0.5}}
    assert (
        contract(reward={'verdict': 2}).reward.failure == 0 and contract(reward={'verdict': 2}).measured_reward is None
    )
    steps = [{'command': {'shoulder': 0, 'elbow': 0}}, {'service': 'home'}, {'person': 'look'}]
    assert [type(step).__name__ for step in contract(reset={'steps': steps}).reset.steps] == ['Drive', 'Call', 'Ask']
    pose = contract(command__stop={'elbow': 0.5, 'shoulder': 0})
    assert pose.command.stop.tolist() == [0, 0.5]


@pytest.mark.parametrize(
    'changes, reason',
    [
        ({'name': None}, r'name \(a name\) is missing'),
        ({'rate': 0}, 'rate: expected a number from 0.01 to 1000, got 0'),
        ({'rate': 1e9}, 'rate: expected a number from 0.01 to 1000, got'),
        ({'rate': 1e-300}, 'rate: expected a number from 0.01 to 1000, got'),
        ({'rate': 10**400}, 'rate: expected a number from 0.01 to 1000, got 1000'),
        ({'max_age': None}, 'max_age .* is missing'),
        ({'stamps': 'now'}, "stamps: expected one of header, receive, got 'now'"),
        ({'speed': 1}, 'unknown key speed; expected one of name, rate'),
        ({'cameras': None, 'vector': None, 'image_size': None}, 'expected cameras or vector'),
        ({'image_size': None}, 'image_size: expected .* missing'),
        ({'image_size': [64]}, r'image_size: expected \[height, width\] in pixels, got \[64\]'),
        ({'image_size': [64, 0.5]}, r'image_size: expected'),
        ({'cameras__wrist__crop': {'x': 0, 'y': 0, 'width': 0, 'height': 9}}, 'cameras.wrist.crop.width: expected a'),
        ({'cameras__wrist__crop': {'left': 0}}, 'unknown key cameras.wrist.crop.left; expected one of x, '),
        (
            {'cameras__wrist__type': 'sensor_msgs/msg/JointState'},
            'cameras.wrist.type: expected one of sensor_msgs/msg/I',
        ),
        ({'cameras__wrist__topic': 'a b'}, "cameras.wrist.topic: expected the name of a topic, got 'a b'"),
        (
            {'cameras__wrist__topic': 'a__b'},
            'cameras.wrist.topic: expected the name of a topic',
        ),  # ROS has no such names
        ({'cameras__wrist__fps': 30}, 'unknown key cameras.wrist.fps; expected one of topic'),
        ({'cameras__7': {'topic': 'x', 'type': 'sensor_msgs/msg/Image'}}, 'cameras.7: expected a name'),
        ({'cameras__a-b': {'topic': 'x', 'type': 'sensor_msgs/msg/Image'}}, 'cameras must be different names'),
        ({'vector__0__field': 'position'}, r'vector\[0\].field: position: expected an element of a list'),
        ({'vector__0__type': 'sensor_msgs/msg/Joint'}, r'vector\[0\].type: message type sensor_msgs/msg/Joint'),
        ({'vector__0__topic': 'imu'}, r'vector\[3\].type: expected sensor_msgs/msg/JointState, as elsewhere for imu'),
        (
            {'vector__0__topic': 'command'},
            'command.type: expected sensor_msgs/msg/JointState, as elsewhere for command',
        ),
        ({'vector__1__clip': [5, -5]}, r'vector\[1\].clip: expected \[low, high\]'),
        ({'vector__1__scale': 'two'}, r'vector\[1\].scale: expected a number'),
        ({'vector__1__name': 'shoulder'}, 'vector: expected different names'),
        ({'vector__1__unit': 'rad'}, r'unknown key vector\[1\].unit; expected one of topic'),
        (
            {'vector__0__type': 'sensor_msgs/msg/PointCloud2'},
            r'vector\[0\].type: .* no point clouds: expected sensor_msgs/msg/LaserScan, which pointcloud_to_laserscan',
        ),
        ({'vector__0__bins': 4}, r'vector\[0\].field: expected several elements, such as ranges\[:\], because of bins'),
        ({'vector__4__field': 'pose.covariance[0:]'}, r'vector\[4\].field: expected bins, or the first and the last'),
        ({'vector__4__field': 'pose.covariance[3:3]'}, r'vector\[4\].field: expected bins, or the first and the last'),
        ({'vector__0__default': 'none'}, r'vector\[0\].default: expected a number'),
        (
            {'vector__0__qos': {'depth': 2}, 'vector__1__qos': {'depth': 3}},
            r'vector\[1\].qos: expected the same as elsewhere for joint_states',
        ),
        (
            {'command__axes__0__feedback__field': 'position[0:2]'},
            r"axes\[0\].feedback.field: expected the path of one number, got 'position\[0:2\]'",
        ),
        (
            {'cameras__wrist__depth': {'range': [2, 2], 'invalid': 'far'}},
            r'cameras.wrist.depth.range: expected \[near, far\] in m',
        ),
        ({'cameras__wrist__rotate': 45}, 'cameras.wrist.rotate: expected one of 0, 90, 180, 270, got 45'),
        ({'command': None}, 'command .* is missing'),
        ({'command__type': 'std_msgs/msg/String'}, r'command.axes\[0\].field: data\[0\]: expected no list at'),
        ({'command__axes': []}, 'command.axes: expected at least one'),
        ({'command__axes__1__name': 'shoulder'}, 'command.axes: expected different names'),
        (
            {'command__axes__0__field': 'linear.x'},
            r'axes\[0\].field: linear.x: expected a field of std_msgs/msg/Float64',
        ),
        ({'command__axes__1__field': 'data[0]'}, 'command.axes: expected axes that can be told apart'),
        ({'command__axes__1__field': 'data[2]'}, r'command.axes: expected the elements from data\[0\] to data\[1\]'),
        ({'command__axes__0__limits': [1, 1]}, r'command.axes\[0\].limits: expected \[low, high\] that differ'),
        ({'command__axes__0__limits': 1}, r'command.axes\[0\].limits: expected \[low, high\], got 1'),
        ({'command__axes__0__rate_limit': -1}, r'command.axes\[0\].rate_limit: expected a number above 0'),
        ({'command__axes__0__feedback__field': 'position[0].x'}, r'axes\[0\].feedback.field: '),
        ({'command__axes__0__feedback': None}, 'command.stop: expected feedback of shoulder'),
        ({'command__stop': 'brake'}, 'command.stop: expected one of zero, hold'),
        ({'command__stop': {'shoulder': 0}}, 'command.stop.elbow: expected a number, but it is missing'),
        ({'command__stop': {'shoulder': 3, 'elbow': 0}}, 'command.stop.shoulder: expected a value within its limits'),
        (
            {'command__stop': {'shoulder': 0, 'elbow': 0, 'x': 0}},
            "command.stop: expected the axes shoulder, elbow, got 'x'",
        ),
        ({'command__stop': 'zero', 'command__axes__1__limits': [1, 2]}, 'command.stop: .* 0 is not within .* elbow'),
        ({'command__choices': {'up': {'shoulder': 0, 'elbow': 0}}}, 'command.choices: expected at least 2'),
        ({'command__qos': {'reliability': 'maybe'}}, 'command.qos.reliability: expected one of reliable, best_effort'),
        ({'command__controller_timeout': 0}, 'command.controller_timeout: expected a number above 0'),
        ({'reward__expression': 'distanc'}, r"reward.expression: distanc: expected one of the names .*, got 'distanc'"),
        ({'reward__fields__a-b': {}}, 'reward.fields.a-b: expected a name of letters'),
        ({'reward__expression': None}, 'unknown key reward.fields; did'),
        ({'reward__weight': 1}, 'unknown key reward.weight; expected one of fields, expression'),
        ({'terminal__default': 'no'}, 'terminal.default: expected a number'),
        ({'public_key': 'secret'}, 'public_key: expected an ed25519 key of 64 hexadecimal digits'),
        ({'episode_length': 0}, 'episode_length: expected a whole number of at least 1'),
        ({'estop': 'e stop'}, 'estop: expected the name of a topic'),
        (
            {'estop': 'imu'},
            'estop: expected a topic of std_msgs/msg/Bool, but imu is one of sensor_msgs/msg/Imu elsewhere',
        ),
        ({'reward__expression': '9' * 400}, 'reward.expression: 9.*: expected numbers of at most'),
        ({'joystick': {}}, 'joystick: expected axes that it moves'),
        ({'reward': {'verdict': 'yes'}}, "reward.verdict: expected a number, got 'yes'"),
        ({'reset': {'steps': []}}, 'reset.steps: expected at least one'),
        ({'reset': {'steps': [{'wait': 1}]}}, r'unknown key reset.steps\[0\].wait; expected one of command, seconds'),
        ({'reset': {'steps': [{'pose': {'elbow': 1}}]}}, r'reset.steps\[0\].pose.shoulder: expected a number, but it'),
        (
            {'reset': {'steps': [{'command': {'shoulder': 9, 'elbow': 1}}]}},
            r'reset.steps\[0\].command.shoulder: expected a value within its limits',
        ),
        (
            {'command': TWIST, 'reset': {'steps': [{'pose': {'left': 0, 'right': 0}}]}},
            r'reset.steps\[0\].pose: expected feedback of left',
        ),
        (
            {'reset': {'steps': [{'service': 'home', 'type': 'Trigger'}]}},
            r"reset.steps\[0\].type: expected a type such as std_srvs/srv/Trigger, got 'Trigger'",
        ),
        ({'reset': {'steps': [{'action': 'home'}]}}, r'reset.steps\[0\].type .* is missing'),
        (
            {'joystick': {'axes': {'wrist': {'axes[0]': 1}}}},
            r'joystick.axes: expected axes of the command \(shoulder, ',
        ),
        (
            {'joystick': {'axes': {'elbow': {'axes': 1}}}},
            r'axes.elbow.axes: expected a stick or button such as axes\[1\]',
        ),
        ({'joystick': {'axes': {'elbow': {'axes[0]': 'x'}}}}, r'joystick.axes.elbow.axes\[0\]: expected a number'),
        (
            {'joystick': {'axes': {'elbow': {'axes[0]': 1}}, 'takeover': 4}},
            'joystick.takeover: expected a stick or button .*, got 4',
        ),
        (
            {'joystick': {'axes': {'elbow': {'axes[0]': 1}}, 'mode': 'fast'}},
            'joystick.mode: expected one of absolute, rel',
        ),
        (
            {'joystick': {'axes': {'elbow': {'axes[0]': 1}}, 'topic': 'imu'}},
            'joystick.topic: expected a topic of sensor_msgs/msg/Joy, but imu is one of sensor_msgs/msg/Imu, got',
        ),
    ],
)
def test_mistakes_are_told_by_file_and_key(changes, reason):
    with pytest.raises(InputError, match=reason) as caught:
        contract(**changes)
    assert str(caught.value).startswith('robot.yaml: ') and '\n' not in str(caught.value)


def test_joints_of_commands_must_be_complete():
    axes = [
        {'name': name, 'field': f'{field}[{name}]', 'limits': [-1, 1]}
        for name, field in (('a', 'position'), ('b', 'velocity'))
    ]
    command = {'topic': 'c', 'type': 'sensor_msgs/msg/JointState', 'axes': axes, 'stop': 'zero'}
    with pytest.raises(InputError, match='command.axes: expected the same joints in position and velocity'):
        contract(command=command)


@pytest.mark.parametrize(
    'text, reason',
    [
        ('rate: [1', 'robot.yaml: expected YAML, got '),
        ('', 'robot.yaml: expected a mapping'),
        ('- 1', 'robot.yaml: expected a mapping'),
        ('1: 2', 'robot.yaml: unknown key 1'),
        ('rate: 1\nrate: 9', "robot.yaml: expected YAML, got the key 'rate' twice in line 2"),
        ('axes: [{limits: [-1, 1], limits: [-9, 9]}]', "robot.yaml: expected YAML, got the key 'limits' twice"),
        ('name: 2026-13-45', 'robot.yaml: expected YAML, got month must be'),
        ('[' * 5000, 'robot.yaml: expected YAML, got more than 50 levels'),
    ],
)
def test_files_that_are_no_contract(text, reason):
    with pytest.raises(InputError, match=reason):
        RobotContract.from_text(text, 'robot.yaml')


def test_what_is_merged_in_may_be_overridden():
    """YAML's `<<` is no key that is there twice."""
    text = 'a: &a {limits: [-1, 1], unit: m}\nb: &b {<<: *a, unit: s}\nc: {<<: *b, limits: [0, 2]}'
    assert load_yaml(text, 'robot.yaml')['c'] == {'limits': [0, 2], 'unit': 's'}


def test_contracts_by_name_and_by_path(tmp_path):
    assert load_contract('rover').name == 'rover'
    path = tmp_path / 'mine.yaml'
    path.write_text(contract().text)
    assert load_contract(path).spec == contract().spec and load_contract(path).source == str(path)
    with pytest.raises(InputError, match='missing.yaml: expected a text file'):
        load_contract(tmp_path / 'missing.yaml')
    with pytest.raises(InputError, match=r'robot: expected a contract file \(.yaml\) or one of .*rover.*, got rovr'):
        load_contract('rovr')


@pytest.mark.parametrize(
    'changes, reason',
    [
        ({'cameras': ['room', 'wrist']}, 'cameras: expected room, wrist, as for reach, got wrist, room'),
        ({'image_size': (24, 16)}, r'image_size: expected \[24, 16\], as for reach, got \[16, 24\]'),
        ({'vector': ['shoulder', 'wrist', 'x', 'turn', 'spread']}, r'vector\[1\].name: expected wrist, .* got elbow'),
        ({'vector': ['shoulder']}, 'vector: expected shoulder, as for reach, got shoulder, elbow, x'),
        ({'vector': []}, 'vector: expected none'),
        ({'action': ['elbow', 'shoulder']}, r'command.axes\[0\].name: expected elbow, as for reach, got shoulder'),
        (
            {'action_low': (-1.5, -1)},
            r'command.axes\[1\].limits: expected \[-1.0, 2.0\], as for reach, got \[0.0, 2.0\]',
        ),
        ({'control_period': 0.05}, 'rate: expected 20, as for reach, got 10'),
        ({'discrete': True, 'action_low': (0, 0), 'action_high': (1, 1)}, 'command.choices: expected shoulder, elbow'),
    ],
)
def test_a_policy_for_another_robot_is_refused_by_the_key(changes, reason):
    robot = contract()
    policy = dataclasses.replace(robot.spec, name='reach', action_repeat=4)
    robot.check(policy)
    robot.check(dataclasses.replace(policy, control_period=0.1 * (1 + 1e-3)))
    with pytest.raises(InputError, match='^robot.yaml: ' + reason):
        robot.check(dataclasses.replace(policy, **changes))


def test_arm_of_the_tests_is_complete():
    """Every key of a contract is known to these tests."""
    assert set(ARM) | {'stamps', 'estop', 'joystick', 'limits', 'public_key', 'reset'} == set(
        RobotContract.model_fields
    )


def test_every_key_is_described():
    for row in describe(RobotContract):
        assert row.help, row.key
    assert '| `command.axes[].limits` | [low, high] |  | required |' in reference(RobotContract)
