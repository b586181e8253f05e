from __future__ import annotations

import math

import numpy as np
import pytest

from dreamer_ros.robot.sensing import Sensing
from dreamer_ros.wire.definitions import blank_message
from dreamer_ros.wire.images import fill_compressed
from tests.robot.robots import contract, image, joint_state, message

SECOND = 1_000_000_000
T = 1_800_000_000 * SECOND


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def fill(pixels):
    """fill(sensing, stamp, left out…) gives every topic a message of that stamp."""

    def fill(sensing: Sensing, stamp: int, *without: str) -> None:
        room = blank_message('sensor_msgs/msg/CompressedImage')
        fill_compressed(room, pixels, stamp)
        messages = {
            'wrist/image_raw': image(stamp, pixels),
            '/room/compressed': room,
            'joint_states': joint_state(stamp, elbow=(0.5, -1.5), shoulder=(0.25, 9.0)),
            'odom': message('nav_msgs/msg/Odometry', stamp, pose__pose__position__x=4.0),
            'imu': message('sensor_msgs/msg/Imu', stamp, angular_velocity__z=-2.0),
            'distance': message('std_msgs/msg/Float64', data=0.5),
        }
        for topic, each in messages.items():
            if topic not in without:
                assert sensing.receive(topic, each, stamp + 5) == stamp + 5 * (topic == 'distance')

    return fill


def test_an_observation(fill, pixels):
    sensing = Sensing(contract())
    fill(sensing, T)
    seen = sensing.observe(T + SECOND // 10)
    assert not seen.problems and not seen.reward_problems
    assert seen.image.shape == (16, 24, 6)
    halved = pixels[2:34, 4:52].reshape(16, 2, 24, 2, 3).mean((1, 3))  # a crop of 48x32
    assert np.abs(seen.image[:, :, :3] - halved).max() <= 1
    np.testing.assert_array_equal(seen.vector, np.array([0.25, -2.0, 4.0, -2.0, 0.0], np.float32))
    assert seen.vector.dtype == np.float32
    np.testing.assert_array_equal(seen.feedback, [0.25, 0.5])
    assert seen.reward == pytest.approx(math.exp(-0.5) - 0.2) and not seen.is_terminal
    assert seen.ages == {
        topic.name: SECOND // 10 - 5 * (topic.name == 'distance') for topic in sensing.topics if topic.name != 'bumper'
    }


def test_the_newest_message_counts(fill):
    sensing = Sensing(contract())
    fill(sensing, T)
    sensing.receive('joint_states', joint_state(T + 7, elbow=(0.0, 10.0), shoulder=(1.0, 0.0)), 0)
    sensing.receive('bumper', message('std_msgs/msg/Bool', data=True), T + 8)
    seen = sensing.observe(T + 10)
    assert seen.vector[:2].tolist() == [1.0, 5.0]  # 2 * 10 + 1 is clipped to 5
    assert seen.is_terminal and seen.reward == pytest.approx(math.exp(-0.5) - 0.2 - 5)
    assert seen.ages['joint_states'] == 3 and seen.ages['odom'] == 10 and seen.ages['bumper'] == 2
    assert sensing.observe(T + SECOND // 2).is_terminal
    assert not sensing.observe(T + 9 + SECOND // 2).is_terminal  # an old bump is none: the default counts


def test_what_is_missing_old_ahead_or_bad(fill):
    sensing = Sensing(contract())
    assert {problem.kind for problem in sensing.observe(T).problems} == {'missing'}
    assert {problem.topic for problem in sensing.observe(T).problems} == {
        'wrist/image_raw',
        '/room/compressed',
        'joint_states',
        'odom',
        'imu',
    }
    fill(sensing, T, 'odom')
    [problem] = sensing.observe(T).problems
    assert str(problem) == 'odom: nothing came yet'
    fill(sensing, T)
    assert not sensing.observe(T + SECOND // 2).problems
    seen = sensing.observe(T + SECOND // 2 + 1)
    assert seen.image is seen.vector is seen.feedback is None and seen.ages['odom'] == SECOND // 2 + 1
    assert {(problem.topic, problem.kind) for problem in seen.problems} == {
        (topic, 'old') for topic in ('wrist/image_raw', 'joint_states', 'odom', 'imu')
    }  # the room may be 1 s old
    assert '0.500 s old, expected at most 0.5 s' in str(seen.problems[0])
    fill(sensing, T + 2 * SECOND, 'imu')
    assert [(p.topic, p.kind) for p in sensing.observe(T + 2 * SECOND).problems] == [('imu', 'old')]
    seen = sensing.observe(T)
    assert {p.kind for p in seen.problems} == {'ahead'} and 'clocks' in str(seen.problems[0])


def test_numbers_that_are_not_finite(fill):
    for value in (math.nan, math.inf, 1e39):
        sensing = Sensing(contract())
        fill(sensing, T)
        sensing.receive('imu', message('sensor_msgs/msg/Imu', T, angular_velocity__z=value), 0)
        seen = sensing.observe(T)
        assert [(p.topic, p.kind) for p in seen.problems] == [('imu', 'bad')] and seen.vector is None
        assert seen.reward is None and [p.topic for p in seen.reward_problems] == ['imu']


def test_a_bad_image(fill, pixels):
    sensing = Sensing(contract())
    fill(sensing, T)
    sensing.receive('wrist/image_raw', image(T, pixels[:30]), 0)
    [problem] = sensing.observe(T).problems
    assert problem.kind == 'bad' and 'because of crop' in problem.detail
    sensing.receive('wrist/image_raw', image(T, pixels), 0)
    assert not sensing.observe(T).problems


def test_a_message_without_some_joints_is_left_out(fill):
    sensing = Sensing(contract())
    fill(sensing, T)
    assert sensing.receive('joint_states', joint_state(T + 9, gripper=(1.0, 0.0)), 0) == T + 9
    seen = sensing.observe(T + 9)
    assert not seen.problems and seen.ages['joint_states'] == 9
    [problem] = [p for p in sensing.observe(T + SECOND).problems if p.topic == 'joint_states']
    assert problem.kind == 'old' and 'expected shoulder among the names, got gripper' in problem.detail


def test_receive_stamps(fill, pixels):
    sensing = Sensing(contract())
    sensing.receive('wrist/image_raw', image(0, pixels), T)
    assert 'stamps: receive' in str(sensing.observe(T).problems[0])
    sensing = Sensing(contract(stamps='receive'))
    assert sensing.receive('wrist/image_raw', image(3, pixels), T) == T
    assert sensing.observe(T + 1).ages == {'wrist/image_raw': 1}


def test_reward_problems_do_not_stop_the_robot(fill):
    sensing = Sensing(contract())
    fill(sensing, T, 'distance')
    seen = sensing.observe(T)
    assert not seen.problems and seen.reward is None and not seen.is_terminal
    assert [str(problem) for problem in seen.reward_problems] == ['distance: nothing came yet']
    sensing.receive('distance', message('std_msgs/msg/Float64', data=-1e4), T)
    seen = sensing.observe(T)
    assert seen.reward is None and 'has no value' in str(seen.reward_problems[0])
    sensing = Sensing(contract(reward=None, terminal=None))
    assert 'distance' not in {topic.name for topic in sensing.topics} and sensing.observe(T).reward == 0.0


def test_no_cameras():
    sensing = Sensing(contract(cameras=None, image_size=None, reward=None, terminal=None))
    sensing.receive('joint_states', joint_state(T, shoulder=(1.0, 0.0), elbow=(0.0, 0.0)), 0)
    sensing.receive('odom', message('nav_msgs/msg/Odometry', T), 0)
    sensing.receive('imu', message('sensor_msgs/msg/Imu', T), 0)
    seen = sensing.observe(T)
    assert not seen.problems and seen.image.shape == (0, 0, 0) and seen.vector.tolist() == [1, 1, 0, 0, 0]


SCAN = 'sensor_msgs/msg/LaserScan'


def entry(name: str, topic: str, type_name: str, field: str, **further) -> dict:
    return {'name': name, 'topic': topic, 'type': type_name, 'field': field, **further}


def sensed(vector: list[dict], *messages: tuple, tick: int = T, **changes):
    """The observation of a robot with nothing but numbers."""
    robot = contract(
        cameras=None, image_size=None, reward=None, terminal=None, vector=vector, command__stop='zero', **changes
    )
    for axis in robot.command.axes:
        assert axis.feedback
    sensing = Sensing(robot)
    sensing.receive('joint_states', joint_state(T, shoulder=(0, 0), elbow=(0, 0)), T)
    for topic, each in messages:
        sensing.receive(topic, each, T)
    return sensing.observe(tick)


def test_a_scan_in_bins():
    """The least of each bin; what is not seen is as far as the scanner sees, what is too near is not."""
    ranges = [9.0, 3.0, np.inf, np.nan, 0.0, -np.inf, 12.5, 0.05, 2.0, 7.0]
    scan = message(SCAN, T, ranges=ranges, range_min=0.1, range_max=12.0)
    vector = [
        entry('front', 'scan', SCAN, 'ranges[:]', bins=4),
        entry('left', 'scan', SCAN, 'ranges[-2:]', bins=2, scale=0.5),
        entry('rays', 'scan', SCAN, 'ranges[5:7]'),
        entry('one', 'scan', SCAN, 'ranges[2]'),
    ]
    seen = sensed(vector, ('scan', scan))
    assert not seen.problems
    expected = [3.0, 12.0, 0.1, 0.05, 1.0, 3.5, 0.1, 12.0, 12.0]
    np.testing.assert_allclose(seen.vector, expected, rtol=1e-6)
    names = contract(vector=vector).spec.vector
    assert names[:5] == ('front/0', 'front/1', 'front/2', 'front/3', 'left/0') and names[-2:] == ('rays/1', 'one')
    short = message(SCAN, T, ranges=ranges[:3], range_min=0.1, range_max=12.0)
    (problem,) = sensed(vector, ('scan', short)).problems
    assert 'ranges[:]: expected at least 4 elements, got 3' in str(problem)


def test_imu_and_range():
    imu = message('sensor_msgs/msg/Imu', T, orientation__w=0.5, linear_acceleration__z=9.8)
    vector = [
        entry('w', 'imu', 'sensor_msgs/msg/Imu', 'orientation.w'),
        entry('up', 'imu', 'sensor_msgs/msg/Imu', 'linear_acceleration.z'),
        entry('gap', 'sonar', 'sensor_msgs/msg/Range', 'range'),
    ]
    for came, read in ((1.5, 1.5), (np.inf, 4.0), (np.nan, 4.0), (-np.inf, 0.2)):
        sonar = message('sensor_msgs/msg/Range', T, range=came, min_range=0.2, max_range=4.0)
        np.testing.assert_allclose(sensed(vector, ('imu', imu), ('sonar', sonar)).vector, [0.5, 9.8, read], rtol=1e-6)


def test_defaults_of_numbers_that_are_missing():
    """A silent topic, an old message, a joint that the message lacks, no number: each counts as missing."""
    joints = 'sensor_msgs/msg/JointState'
    vector = [
        entry('elbow', 'joints', joints, 'position[elbow]'),
        entry('grip', 'joints', joints, 'position[grip]', default=0.5, scale=2),
        entry('wind', 'wind', 'std_msgs/msg/Float64', 'data', default=-1),
        entry('scan', 'scan', SCAN, 'ranges[0:2]', default=3),
    ]
    both = joint_state(T, elbow=(1.0, 0), grip=(0.25, 0))
    wind = message('std_msgs/msg/Float64', data=7.0)
    assert sensed(vector, ('joints', both), ('wind', wind)).vector.tolist() == [1.0, 0.5, 7.0, 3.0, 3.0]
    seen = sensed(
        vector, ('joints', joint_state(T, elbow=(1.0, 0))), ('wind', message('std_msgs/msg/Float64', data=np.nan))
    )
    assert seen.vector.tolist() == [1.0, 1.0, -1.0, 3.0, 3.0]
    # A message with none of the joints is another publisher's, and one without elbow is not used at all.
    lone = joint_state(T, grip=(0.75, 0))
    assert sensed(vector, ('joints', both), ('joints', lone)).vector.tolist()[:2] == [1.0, 0.5]
    late = [{**each, 'max_age': 9.0} if each['name'] == 'elbow' else each for each in vector]
    changes = {f'command__axes__{k}__feedback__max_age': 9.0 for k in (0, 1)}
    seen = sensed(late, ('joints', both), ('wind', wind), tick=T + SECOND, **changes)
    assert not seen.problems and seen.vector.tolist() == [1.0, 1.0, -1.0, 3.0, 3.0], 'older than max_age'
    other = joint_state(T, wrist=(1.0, 0))
    seen = sensed(vector[1:2], ('joints', both), ('joints', other))
    assert seen.vector.tolist() == [0.5], 'of a message with none of the joints nothing is used'
