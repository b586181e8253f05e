"""The simulator node alone: the test plays its agent, and a rogue."""

from __future__ import annotations

import math
import signal
import threading
import time

import numpy as np
import pytest
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from dreamer_ros.errors import InputError
from dreamer_ros.nodes.simulator import Simulator, SimulatorParameters
from dreamer_ros.ros import qos
from dreamer_ros.schema import check
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import stamp_to_ns
from dreamer_ros.wire.images import decode_image
from tests.nodes.conftest import NAMESPACE

PERIOD = 80_000_000  # nanoseconds: eight control steps of cartpole


@pytest.fixture
def simulator(start):
    """Cartpole, 5 actions per episode."""
    return start('simulator', task='cartpole_swingup', action_repeat=8, episode_length=40, wait_for_subscribers=1)


def test_episodes_and_messages(simulator, peer):
    """Two episodes: flags, rewards, stamps, /clock before the observation, all messages of one stamp."""
    seen = {topic: [] for topic in (topics.IMAGE, topics.CAMERA_INFO, topics.JOINT_STATES)}
    kept = [peer.listen(topic, messages.append) for topic, messages in seen.items()]
    specs = []
    kept.append(peer.listen(topics.SPEC, specs.append))
    first = peer.next_step()
    last = peer.play(first, 11)
    peer.spin(0.2)

    steps = unique(peer.steps)
    assert [step.is_first for step in steps] == [True, *[False] * 5] * 2
    assert [step.is_last for step in steps] == [*[False] * 5, True] * 2
    assert not any(step.is_terminal for step in steps)
    assert steps[0].reward == steps[6].reward == 0.0 and all(step.reward > 0 for step in steps[1:6])
    stamps = [step.stamp for step in steps]
    assert set(np.diff(stamps)) == {PERIOD}
    assert abs(stamps[0] - time.time_ns()) < 60e9
    assert sorted(set(peer.clock) & set(stamps)) == stamps and 0 not in peer.clock
    assert peer.clock == sorted(peer.clock)
    for messages in seen.values():
        assert {stamp_to_ns(message.header.stamp) for message in messages} == set(stamps)
    spec = RobotSpec.from_json(specs[-1].data, topics.SPEC.name)
    assert spec.name == 'cartpole_swingup' and spec.control_period == 0.08 and spec.action_repeat == 8
    images = [decode_image(message, topics.IMAGE.type) for message in seen[topics.IMAGE]]
    assert images[0].shape == (64, 64, 3) and images[0].std() > 10
    assert not np.array_equal(images[0], images[-1])
    info = seen[topics.CAMERA_INFO][-1]
    assert (info.width, info.height) == (64, 64)
    assert info.k[0] == pytest.approx(info.k[4]) and info.k[0] > 10 and info.k[8] == 1.0
    joints = seen[topics.JOINT_STATES][-1]
    assert list(joints.name) == ['slider', 'hinge_1'] and len(joints.position) == len(joints.velocity) == 2
    assert last.is_last
    assert simulator.stop() == 0


def test_refuses_bad_actions_and_asks_again(simulator, peer):
    step = peer.next_step()
    for axes, _what in (((math.nan,), 'finite'), ((math.inf,), 'finite'), ((0.1, 0.2), '1 axes'), ((), '1 axes')):
        peer.answer(step.stamp, axes)
    peer.answer(step.stamp + 12345)
    peer.answer(step.stamp - PERIOD)
    peer.spin(0.5)
    assert {s.stamp for s in peer.steps} == {step.stamp}, 'a bad action moved the simulation'
    assert 'ignored: action: expected finite axes, got [nan]' in simulator.output
    assert simulator.output.count('ignored: action') == 1, 'the warning is throttled'
    assert 'no observation had it' in simulator.output

    # The right action is lost: the simulator asks again with the same stamp, and says what it waits for.
    peer.until(lambda: [s.stamp for s in peer.steps].count(step.stamp) >= 3, 'asking again')
    assert 'waiting for the action of observation' in simulator.output
    after = peer.play(step, 1)
    assert after.stamp == step.stamp + PERIOD
    # A late answer to an observation of the past is no error and moves nothing.
    warnings = simulator.output.count('WARN')
    peer.answer(step.stamp)
    peer.spin(0.3)
    assert peer.steps[-1].stamp == after.stamp and simulator.output.count('WARN') == warnings


def test_reset_and_pause(simulator, peer):
    step = peer.play(peer.next_step(), 2)
    assert peer.call(Trigger, 'reset', Trigger.Request()).success
    ended = peer.play(step, 1)
    assert ended.is_last and not ended.is_first and not ended.is_terminal
    begun = peer.play(ended, 1)
    assert begun.is_first and begun.reward == 0.0
    step = peer.play(begun, 1)
    assert not step.is_last

    assert peer.call(SetBool, 'pause', SetBool.Request(data=True)).success
    count = len(peer.steps)
    peer.answer(step.stamp)
    peer.spin(1.5)
    assert len(peer.steps) == count, 'a paused simulator neither advances nor asks again'
    assert peer.call(SetBool, 'pause', SetBool.Request(data=False)).success
    step = peer.play(step, 1)
    stamps = [s.stamp for s in unique(peer.steps)]
    assert set(np.diff(stamps)) == {PERIOD}
    assert peer.clock == sorted(peer.clock)


def test_services_answer_however_fast_the_agent(peer, ros_domain):
    """An action that is always there already leaves the simulator no moment of waiting."""
    rclpy.init(domain_id=ros_domain)
    node, stop = Node('simulator', namespace=NAMESPACE), threading.Event()

    def simulate():  # all of it in one thread: a GL context belongs to the thread that made it
        simulator = Simulator(node, stop)
        take = simulator._actions.take

        def take_at_once():
            if simulator._paused:
                return take()
            joy = Joy()
            codecs.fill_action(joy, np.zeros(1), simulator._sent[-1], codecs.Mode('random'))
            return serialize_message(joy)

        simulator._actions.take = take_at_once
        simulator.run()

    running = threading.Thread(target=simulate)
    running.start()
    try:
        first = peer.next_step()
        peer.until(lambda: peer.steps[-1].stamp > first.stamp, 'a step')
        assert peer.call(SetBool, 'pause', SetBool.Request(data=True), timeout=10.0).success
    finally:
        stop.set()
        running.join()
        node.destroy_node()
        rclpy.shutdown()


def test_waits_for_the_learner(start, peer):
    simulator = start('simulator', task='cartpole_swingup', action_repeat=8, wait_for_learner='true')
    first = peer.next_step()
    for _ in range(3):
        peer.answer(first.stamp)
        peer.spin(0.2)
    assert unique(peer.steps) == [first]
    peer.allow(first.stamp + 2 * PERIOD)
    second = peer.next_step(first)
    third = peer.play(second, 1)
    peer.answer(third.stamp)
    peer.spin(0.5)
    assert peer.steps[-1] == third, 'went further than the learner allowed'

    # A simulator that starts while a trainer's pace is ahead of the wall clock begins after it.
    ahead = time.time_ns() + 3600 * 10**9
    peer.allow(ahead)
    simulator.send(signal.SIGKILL)
    simulator.wait()
    peer.steps.clear()
    start('simulator', task='cartpole_swingup', action_repeat=8, wait_for_learner='true')
    assert peer.until(lambda: next((s for s in peer.steps if s.is_first), None), 'restart').stamp >= ahead + 10**9


def test_a_pace_near_the_end_of_time_is_ignored(start, peer):
    peer.allow((codecs.LATEST - 1) * 10**9)
    simulator = start('simulator', task='cartpole_swingup', action_repeat=8, wait_for_learner='true')
    assert peer.next_step().stamp < time.time_ns() + 3600 * 10**9
    peer.until(lambda: 'pace: ignored: stamp: expected at most a year from now' in simulator.output, 'a warning')


def test_second_simulator_is_refused(simulator, start, peer):
    step = peer.next_step()
    second = start('simulator', task='cartpole_swingup')
    assert second.wait() == 2
    [line] = second.output.splitlines()
    assert line.startswith('error: topic /sim0/spec: expected no other publisher')
    assert {seen.stamp for seen in peer.steps} == {step.stamp}, 'it published nothing'
    assert peer.play(step, 3).stamp == step.stamp + 3 * PERIOD, 'the first one goes on'


def test_a_simulator_of_another_computer(start, peer):
    """It is known by its `spec` alone: the younger one of two ends."""
    publisher = qos.publisher(peer.node, topics.SPEC)
    publisher.publish(String(data='{}'))
    second = start('simulator', task='cartpole_swingup')
    assert second.wait() == 2
    assert 'expected no other publisher, but a simulator publishes there since' in second.output.splitlines()[-1]

    peer.node.destroy_publisher(publisher)
    began = time.time_ns()
    start('simulator', task='cartpole_swingup', action_repeat=8)
    # The one that ended may have published a step before it heard of the other.
    step = peer.until(lambda: next((step for step in peer.steps if step.stamp >= began), None), 'a step of its own')
    publisher = qos.publisher(peer.node, topics.SPEC)
    publisher.publish(String(data='{}'))
    peer.spin(2.5)
    assert peer.play(step, 3).stamp == step.stamp + 3 * PERIOD, 'the older one goes on'


@pytest.mark.races_clock('10 to 30 steps have to come in each second')
def test_real_time(start, peer):
    start('simulator', task='cartpole_swingup', action_repeat=4, mode='realtime', episode_length=100)
    peer.next_step()
    began, count = time.monotonic(), len(peer.steps)
    peer.spin(2.0)
    rate = (len(peer.steps) - count) / (time.monotonic() - began)
    # A busy machine may skip some; one that does not wait makes hundreds.
    assert 10 < rate < 30, 'one step per 40 ms of wall time, without any action'
    assert set(np.diff([step.stamp for step in peer.steps])) == {40_000_000}
    peer.until(lambda: any(step.is_last for step in peer.steps), 'the end of an episode')
    peer.until(lambda: peer.steps[-1].is_first, 'the next episode')


@pytest.mark.parametrize(
    'parameters, says',
    [
        ({'tusk': 'walker'}, 'parameters of /sim0/simulator: unknown key tusk; did you mean task?'),
        ({'task': 'walker_wlak'}, 'walker_walk'),
    ],
)
def test_bad_parameters(start, parameters, says):
    process = start('simulator', **parameters)
    assert process.wait() == 2
    [line] = process.output.splitlines()
    assert line.startswith('error: ') and says in line


def test_parameters_out_of_range():
    with pytest.raises(InputError, match='from 1 to 100'):
        check(SimulatorParameters, {'action_repeat': 0}, 'test')
    with pytest.raises(InputError, match='expected a list of 2'):
        check(SimulatorParameters, {'image_size': [64]}, 'test')


def unique(steps):
    """Without the repeats."""
    return list({step.stamp: step for step in steps}.values())
