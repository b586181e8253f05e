"""Beyond a limit of its state a robot is led back or stopped, whatever the policy says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.robot.limits import StateLimits, nearest
from dreamer_ros.robot.safety import Safety
from tests.robot.robots import contract, joint_state, message

JOINTS = {'topic': 'joint_states', 'type': 'sensor_msgs/msg/JointState'}
ODOM = {'topic': 'odom', 'type': 'nav_msgs/msg/Odometry'}
SCAN = {'topic': 'scan', 'type': 'sensor_msgs/msg/LaserScan', 'angles': [-30, 30], 'low': 0.3}
BOX = {'x': [-2, 2], 'y': [-1, 1]}
ROVER = {
    'topic': 'cmd_vel',
    'type': 'geometry_msgs/msg/Twist',
    'stop': 'zero',
    'axes': [
        {'name': 'forward', 'field': 'linear.x', 'limits': [-2, 2], 'rate_limit': 5},
        {'name': 'aside', 'field': 'linear.y', 'limits': [-1, 1]},
        {'name': 'turn', 'field': 'angular.z', 'limits': [-3, 3]},
    ],
}


def rover(**limits):
    return contract(command=ROVER, limits=limits)


def odometry(x=0.0, y=0.0, yaw=0.0, z=0.0):
    pose = {'position__x': x, 'position__y': y, 'position__z': z}
    pose |= {'orientation__z': math.sin(yaw / 2), 'orientation__w': math.cos(yaw / 2)}
    return message(ODOM['type'], **{f'pose__pose__{key}': value for key, value in pose.items()})


def scan(ranges, low=-180.0, high=180.0):
    """Rays from `low` to `high` degrees."""
    step = math.radians(high - low) / max(1, len(ranges) - 1)
    made = message(SCAN['type'], angle_min=math.radians(low), angle_increment=step, range_min=0.1, range_max=10.0)
    made.ranges = np.array(ranges, np.float32)
    return made


def judged(robot, topic, content, now=5.0, measured=5.0):
    limits = StateLimits(robot)
    limits.receive(topic, content, measured)
    return limits.judge(now)


def test_a_velocity_never_leads_further_out_of_the_box(rng):
    """Whatever a policy and a rover's momentum-free wheels do, a step from outside does not go further outside."""
    robot = rover(yard={**ODOM, 'box': BOX, 'forward': {'forward': 1}, 'left': {'aside': 1}})
    limits, safety = StateLimits(robot), Safety(robot)
    safety.start(np.zeros(3))
    exceeded = 0
    for number in range(5_000):
        x, y, yaw = rng.uniform(-3, 3), rng.uniform(-2, 2), rng.uniform(-4, 4)
        limits.receive('odom', odometry(x, y, yaw), number)
        judgement = limits.judge(number)
        at_once = safety.block(judgement.down, judgement.up)
        asked = rng.normal(0, 2, 3)
        for values in (at_once, safety.limit(asked, number * 0.1).values):
            if values is None:
                continue
            ahead, aside, _ = values
            there = math.cos(yaw) * ahead - math.sin(yaw) * aside, math.sin(yaw) * ahead + math.cos(yaw) * aside
            for place, speed, (low, high) in zip((x, y), there, BOX.values()):
                assert place <= high or speed <= 1e-9
                assert place >= low or speed >= -1e-9
        assert values[2] == np.clip(asked[2], -3, 3), 'turning is never limited'
        outside = abs(x) > 2 or abs(y) > 1
        assert bool(judgement.limited) == outside and not judgement.stop
        exceeded += outside
    assert 1000 < exceeded < 4900


def test_the_way_back_is_open():
    robot = rover(yard={**ODOM, 'box': BOX, 'forward': {'forward': 1}})
    safety = Safety(robot)
    judgement = judged(robot, 'odom', odometry(2.5, 0.0, math.pi))  # beyond x, looking back
    safety.start(np.zeros(3))
    assert safety.block(judgement.down, judgement.up) is None, 'it stands'
    limited = safety.limit(np.array([0.4, 0.5, 0.0]), 0.0)
    assert limited.values.tolist() == [0.4, 0.5, 0] and not limited.blocked
    limited = safety.limit(np.array([-2.0, 0.5, 0.0]), 0.1)
    assert limited.values.tolist() == [0, 0.5, 0] and limited.blocked, 'and not out, whatever the rate limit'
    assert 'limit yard: x 2.5, expected at most 2' in judgement.limited
    safety.block(*StateLimits(robot).judge(0.0)[2:])
    assert safety.limit(np.array([-0.3, 0, 0]), 0.2).values[0] == -0.3


def test_what_moves_on_is_stopped_between_two_ticks():
    robot = rover(wall={**SCAN, 'axes': {'forward': -1}})
    safety = Safety(robot)
    safety.start(np.zeros(3))
    for number in range(5):
        safety.limit(np.array([2.0, -0.5, 1.0]), number * 0.1)
    judgement = judged(robot, 'scan', scan([5.0] * 180 + [0.2] + [5.0] * 180))
    assert safety.block(judgement.down, judgement.up).tolist() == [0, -0.5, 1]
    assert safety.block(judgement.down, judgement.up) is None, 'told once'


def test_a_position_goes_no_further_than_the_last_command(rng):
    limit = {**JOINTS, 'field': 'velocity[elbow]', 'low': -1, 'high': 1, 'axes': {'elbow': 1, 'shoulder': -1}}
    robot = contract(limits={'load': limit})
    limits, safety = StateLimits(robot), Safety(robot)
    last = np.array([0.5, 1.0])
    safety.start(last)
    for number in range(5_000):
        load = rng.uniform(-2, 2)
        limits.receive('joint_states', joint_state(0, shoulder=(0, 0), elbow=(0, load)), number)
        judgement = limits.judge(number)
        assert safety.block(judgement.down, judgement.up) is None, 'the last command stands'
        values = safety.limit(rng.uniform([-2, -1], [3, 3]), number).values
        shoulder, elbow = values - last
        assert load <= 1 or (elbow <= 0 and shoulder >= 0)
        assert load >= -1 or (elbow >= 0 and shoulder <= 0)
        assert (values >= [-1.5, 0]).all() and (values <= [2.5, 2]).all()
        last = values


def test_a_limit_without_axes_stops():
    robot = contract(limits={'tilt': {**ODOM, 'field': 'pose.pose.position.z', 'high': 0.5}})
    assert judged(robot, 'odom', odometry(z=0.4)).stop == ''
    judgement = judged(robot, 'odom', odometry(z=0.6))
    assert judgement.stop == 'limit tilt: pose.pose.position.z 0.6, expected at most 0.5'
    assert not (judgement.limited or judgement.up.any() or judgement.down.any())
    flying = rover(yard={**ODOM, 'box': {**BOX, 'z': [0, 1]}, 'forward': {'forward': 1}})
    assert 'limit yard: z 2, expected at most 1' in judged(flying, 'odom', odometry(z=2)).stop, 'nothing leads down'


def test_what_is_not_measured_stops():
    robot = contract(limits={'elbow': {**JOINTS, 'field': 'position[elbow]', 'high': 1, 'axes': {'elbow': 1}}})
    assert StateLimits(robot).judge(0.0).stop == 'limit elbow: joint_states: nothing came yet'
    lacking = judged(robot, 'joint_states', joint_state(0, shoulder=(0, 0)))
    assert 'nothing came yet (position[elbow]: expected elbow among the names, got shoulder)' in lacking.stop
    judgement = judged(robot, 'joint_states', joint_state(0, elbow=(0, 0)), now=6.0)
    assert judgement.stop == 'limit elbow: joint_states: 1.000 s old, expected at most 0.5 s'
    for number in (math.nan, math.inf):
        judgement = judged(robot, 'joint_states', joint_state(0, elbow=(number, 0)))
        assert bool(judgement.stop) == math.isnan(number) and bool(judgement.limited) == math.isinf(number)
    yard = rover(yard={**ODOM, 'box': BOX, 'forward': {'forward': 1}})
    unturned = message(ODOM['type'], pose__pose__position__x=5.0, pose__pose__orientation__w=0.0)
    assert 'limit yard: x 5' in judged(yard, 'odom', unturned).stop, 'no orientation says which way leads back'


def test_the_nearest_of_a_scan(rng):
    for _ in range(300):
        size = int(rng.integers(1, 400))
        low, width = rng.uniform(-180, 180), rng.uniform(5, 360)
        ranges = rng.choice([0.0, 0.05, math.inf, math.nan, 12.0, 1.0, 2.0, 3.0], size)
        ranges = np.where(rng.random(size) < 0.5, ranges, rng.uniform(0.1, 10, size)).astype(np.float32)
        first, last = rng.uniform(-360, 0), rng.uniform(0, 359)
        made = scan(ranges, first, last)
        inside, far = [], False
        for number, distance in enumerate(ranges):
            angle = math.degrees(made.angle_min + number * made.angle_increment)
            turns = (angle - low) % 360
            if min(turns, 360 - turns) < 0.01 or abs(turns - width) < 0.01:
                continue  # too near the edge to tell
            if turns <= width:
                far |= distance > 10
                inside += [distance] if 0 < distance <= 10 else []
        found = nearest(made, low, low + width)
        if inside:
            assert found <= min(inside) and found in ranges
        else:
            assert not found < math.inf or found in ranges
            assert math.isinf(found) or not far
    assert nearest(scan([1.0, -math.inf, 2.0]), -180, 180) == 0.0, 'too near to measure'
    assert nearest(scan([1.0, 2.0, 3.0], -90, 90), -10, 10) == 2.0
    assert nearest(scan([1.0] * 3 + [4.0] * 3, 0, 359), 180, 370) == 1.0, 'across the back'
    assert math.isnan(nearest(scan([]), -180, 180)) and math.isnan(nearest(scan([0.0, math.nan]), -180, 180))


@pytest.mark.parametrize(
    'limit, sentence',
    [
        ({**JOINTS, 'field': 'position[elbow]'}, 'limits.it.low: expected low, high or both, got '),
        ({**JOINTS, 'field': 'position[elbow]', 'low': 1, 'high': 1}, 'limits.it.high: expected more than low, 1'),
        ({**JOINTS, 'field': 'position[elbow]', 'low': 1, 'axes': {'wrist': 1}}, 'limits.it: expected axes of the com'),
        ({**JOINTS, 'field': 'position[elbow]', 'low': 1, 'axes': {'elbow': 2}}, 'axes.elbow: expected 1 or -1, got 2'),
        ({**JOINTS, 'field': 'place[elbow]', 'low': 1}, 'place[elbow]: expected a field of sensor_msgs/msg/JointState'),
        ({**SCAN, 'type': 'sensor_msgs/msg/Range'}, 'limits.it.type: expected sensor_msgs/msg/LaserScan, got'),
        ({**ODOM, 'box': {}}, 'limits.it.box.x: expected x, y or z'),
        ({**JOINTS, 'topic': 'odom', 'field': 'position[elbow]', 'low': 1}, 'limits.it.type: expected nav_msgs'),
        ({'topic': 'odom'}, 'limits.it.'),
    ],
)
def test_limits_that_make_no_sense(limit, sentence):
    with pytest.raises(InputError) as error:
        contract(limits={'it': limit})
    assert sentence in str(error.value)
