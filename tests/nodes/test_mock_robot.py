"""The mock robot, as a robot agent meets it: the contract's topics in real time, and nothing else."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from dreamer_ros.errors import InputError
from dreamer_ros.nodes.mock_robot import MockRobot
from dreamer_ros.paths import share
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.robot.sensing import Sensing
from dreamer_ros.ros import qos
from dreamer_ros.simulation import make
from tests.nodes.conftest import NAMESPACE
from tests.nodes.test_live_and_bag import DEEP


class Driver:
    """Observes a robot through its contract and commands it."""

    def __init__(self, peer, robot):
        self.contract = load_contract(robot)
        self._peer = peer
        self._sensing = Sensing(self.contract)
        self._commands = Commands(self.contract)
        self.received = {topic.name: [] for topic in self.contract.topics}  # (time of receipt, message)
        self._subscriptions = [
            peer.node.create_subscription(
                qos.message_type(topic), topic.name, self._taker(topic.name), qos.profile(DEEP)
            )
            for topic in self.contract.topics
        ]
        self._publisher = qos.publisher(peer.node, self.contract.command_topics[0])

    def _taker(self, name):
        def take(message):
            received = time.time_ns()
            self.received[name].append((received, message))
            self._sensing.receive(name, message, received)

        return take

    def observe(self):
        """An observation in which nothing is missing."""

        def complete():
            seen = self._sensing.observe(time.time_ns())
            return None if seen.problems or seen.reward_problems else seen

        return self._peer.until(complete, 'a complete observation')

    def drive(self, action, seconds):
        """Command an action at the contract's rate; the observation after it."""
        values = self._commands.values(np.array(action, np.float32))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._publisher.publish(*self._commands.encode(values, time.time_ns()))
            self._peer.spin(1 / self.contract.rate)
        return self.observe()

    def newest(self, topic):
        return self.received[topic][-1][1]


def altered(folder, robot, **changes):
    """A contract of sim/ with some of its keys changed, as a file."""
    content = yaml.safe_load(share('sim', robot, 'robot.yaml').read_text())
    content.update(changes)
    path = folder / 'robot.yaml'
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.races_clock('wheels are at their speed after 1.2 s of commands, none of which may be 0.5 s late')
def test_a_twist_drives_the_rover(start, peer, tmp_path):
    """Images at their rate with the system's time; it drives, and stops when commands stay away."""
    joints = [
        {
            'name': f'{wheel}_wheel/velocity',
            'topic': 'joint_states',
            'type': 'sensor_msgs/msg/JointState',
            'field': f'velocity[{wheel}_wheel]',
        }
        for wheel in ('left', 'right')
    ]
    # The agent's own contract has the wheels' speeds to look at; the robot only knows topics.
    reading = altered(tmp_path, 'rover', vector=joints)
    folder = tmp_path / 'mock_robot'
    folder.mkdir()
    everything = altered(
        folder,
        'rover',
        reward={
            'fields': {
                'earned': {'topic': 'reward', 'type': 'std_msgs/msg/Float64', 'field': 'data'},
                'speed': {k: v for k, v in joints[0].items() if k != 'name'},
            },
            'expression': 'earned + speed',
        },
    )
    process = start('mock_robot', robot=everything, task='rover_target', camera_rate=10, seed=3)
    driver = Driver(peer, reading)
    first = driver.observe()
    assert first.image.shape == (48, 48, 3) and first.image.std() > 5
    assert 0 < first.ages['camera/image_raw'] < 300e6
    assert 0.0 <= first.reward <= 4.0 and not first.is_terminal  # four control steps of at most 1 each
    moving = driver.drive([0.5, 0.5], 1.2)  # 6 rad/s
    np.testing.assert_allclose(moving.vector, [6, 6], atol=1.5)
    turning = driver.drive([-0.25, 0.25], 1.2)
    np.testing.assert_allclose(turning.vector, [-3, 3], atol=1.0)
    assert np.abs(turning.image.astype(int) - moving.image).mean() > 2

    driver.received['camera/image_raw'].clear()
    began = time.monotonic()
    peer.spin(2.0)
    rate = len(driver.received['camera/image_raw']) / (time.monotonic() - began)
    assert 4 < rate < 11
    assert np.abs(driver.observe().vector).max() < 1.0  # controller_timeout is 0.5 s

    for received, message in driver.received['camera/image_raw']:
        assert 0 < received - (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec) < 1e9
    assert process.stop() == 0


@pytest.mark.races_clock('the arm is there after 2 s of commands')
def test_the_arm_follows_and_holds(start, peer):
    """Joint positions in rad; without commands it holds its pose: before the first one, and after the last."""
    start('mock_robot', robot='arm', task='arm_reach', seed=4)
    driver = Driver(peer, 'arm')
    first = driver.observe()
    peer.spin(0.6)
    np.testing.assert_allclose(driver.observe().feedback, first.feedback, atol=0.06)
    low, high = np.array([axis.limits for axis in driver.contract.command.axes]).T
    goal = np.array([0.5, -0.2, 0.3])
    there = driver.drive(goal, 2.0).feedback
    np.testing.assert_allclose(there, low + (goal + 1) / 2 * (high - low), atol=0.1)
    peer.spin(1.0)
    np.testing.assert_allclose(driver.observe().feedback, there, atol=0.05)


def test_the_quadruped_falls_and_is_set_up_again(start, peer):
    """Observed over ROS it has the simulator's spec. The end of its task is told on a topic; a second later it
    stands at a new start."""
    start('mock_robot', robot='quadruped', task='quadruped_beacon', seed=5, image_size='[96,96]')
    driver = Driver(peer, 'quadruped')
    standing = driver.drive([0] * 12, 1.0)
    spec = make('quadruped_beacon', image_size=(48, 48), inputs='both', action_repeat=4).spec
    assert dataclasses.replace(driver.contract.spec, name=spec.name, action_repeat=4).hash == spec.hash
    assert driver.newest('camera/image_raw').height == 96 and standing.image.shape == spec.image_shape
    assert standing.vector.shape == (len(spec.vector),) and not standing.is_terminal
    for number in range(100):
        driver.drive([1, -1, 1, -1, 1, -1] * 2 if number % 2 else [-1, 1, 1, 1, -1, -1] * 2, 0.2)
        if any(message.data for _, message in driver.received['over']):
            break
    peer.until(lambda: not driver.newest('over').data, 'a new start')
    assert np.abs(driver.drive([0] * 12, 1.0).vector[:12] - standing.vector[:12]).max() < 0.3

    client = peer.node.create_client(Trigger, f'{NAMESPACE}/mock_robot/reset')
    assert client.wait_for_service(30)
    before = driver.observe().image
    future = client.call_async(Trigger.Request())
    peer.until(future.done, 'the reset')
    assert future.result().success
    peer.until(lambda: np.abs(driver.observe().image.astype(int) - before).mean() > 1, 'another view')


@pytest.mark.parametrize(
    'parameters, changes, reason',
    [
        ({'robot': 'rover', 'task': ''}, {}, "parameters of /mock_robot: task: expected a task, got ''"),
        ({'task': 'cartpole_swingup'}, {}, r'axes\[0\].name: expected slide, as for cartpole_swingup, got left_wheel'),
        (
            {},
            {
                'vector': [
                    {'name': 'x', 'topic': 'odom', 'type': 'nav_msgs/msg/Odometry', 'field': 'pose.pose.position.x'}
                ]
            },
            r'robot.yaml: vector\[0\].name: expected left_wheel/position',
        ),
        (
            {},
            {'terminal': {'topic': 'bumper', 'type': 'sensor_msgs/msg/Range', 'field': 'range'}},
            'robot.yaml: bumper: expected images, joint states, a std_msgs/msg/Float64 as reward',
        ),
    ],
)
def test_what_it_cannot_imitate(ros_domain, tmp_path, parameters, changes, reason):
    values = {'robot': str(altered(tmp_path, 'rover', **changes)), 'task': 'rover_target', **parameters}
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = Node(
        'mock_robot',
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
    )
    try:
        with pytest.raises(InputError, match=reason):
            MockRobot(node, threading.Event())
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
