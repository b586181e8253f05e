"""Strangers on the topics of a simulation: what they say does not count, and they are named once."""

from __future__ import annotations

import contextlib
import time
import types

import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node
from std_msgs.msg import String

from dreamer_ros.errors import InputError
from dreamer_ros.nodes.trainer import RosRobots
from dreamer_ros.ros import first_publisher, qos
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.ros.ownership import announcement
from dreamer_ros.wire import codecs, topics
from tests.nodes.test_inbox import wait_for
from tests.policy.tiny import spec

FAR = codecs.LATEST - 1  # seconds: the last stamp that can be read


@pytest.fixture
def node(ros_domain):
    """node('name') is one in a context of its own, which ends as a process does."""
    with contextlib.ExitStack() as stack:

        def make(name, namespace='/sim0'):
            context = rclpy.Context()
            rclpy.init(context=context, domain_id=ros_domain)
            made = Node(name, namespace=namespace, context=context)
            stack.callback(lambda: context.ok() and rclpy.shutdown(context=context))
            stack.callback(made.destroy_node)
            return made

        yield make


def speaker(node, topic, subscription_count=1):
    publisher = qos.publisher(node, topic)
    wait_for(lambda: publisher.get_subscription_count() >= subscription_count)
    return publisher


def heard(subscription, publisher, message, expected, seconds=5.0):
    """Whether what is published again and again is taken within a while; nothing else is waited for otherwise."""
    end = time.monotonic() + (20.0 if expected else seconds)
    while time.monotonic() < end:
        publisher.publish(message)
        time.sleep(0.05)
        if subscription.take() is not None:
            return True
    return False


def test_one_publisher_owns_a_topic(node, capfd):
    listener, trainer, rogue = node('simulator'), node('trainer', '/'), node('rogue', '/')
    paces = PolledSubscription(listener, topics.PACE, topics.LATCHED, single=True)
    topic = topics.PACE.within('sim0')
    right, wrong = speaker(trainer, topic), speaker(rogue, topic)
    assert heard(paces, right, Time(sec=1), True)
    assert not heard(paces, wrong, Time(sec=2), False, 1.5)
    assert heard(paces, right, Time(sec=3), True), 'the first one goes on'
    assert not heard(paces, wrong, Time(sec=4), False, 1.0)
    told = capfd.readouterr().err
    assert told.count('/sim0/pace: ignored what /rogue publishes, because /trainer was heard there first') == 1
    again = node('trainer', '/')
    assert heard(paces, speaker(again, topic), Time(sec=5), True), 'one that was killed and started again'
    again.destroy_node()
    trainer.destroy_node()
    assert heard(paces, wrong, Time(sec=6), True), 'nobody else is left'


@pytest.mark.parametrize('silence, expected', [(1.0, False), (3.0, True)])
def test_a_restarted_node_whose_name_is_not_known_yet_takes_over(monkeypatch, silence, expected):
    """As after kill -9: the graph remembers the old one, and does not tell the name of the new one at once."""
    now = [100.0]
    monkeypatch.setattr(first_publisher, 'time', types.SimpleNamespace(monotonic=lambda: now[0]))
    known = {b'old': ('agent', '/sim0'), b'new': (first_publisher.UNKNOWN, '_NODE_NAMESPACE_UNKNOWN_')}
    infos = [
        types.SimpleNamespace(endpoint_gid=gid, node_name=name, node_namespace=namespace)
        for gid, (name, namespace) in known.items()
    ]
    publisher = first_publisher.FirstPublisher(
        types.SimpleNamespace(get_publishers_info_by_topic=lambda topic: infos), '/sim0/action'
    )
    assert publisher.accepts({'publisher_gid': {'data': b'old'}})
    now[0] += silence
    assert publisher.accepts({'publisher_gid': {'data': b'new'}}) == expected


def test_a_rogue_step_counts_for_nothing(node, monkeypatch):
    """Neither one of a stranger nor one at the end of time, which would make every later step look old."""
    monkeypatch.setattr(first_publisher, 'LOOK_PERIOD', 0.0)
    robots = RosRobots(node('trainer', '/'), ('sim0',))
    robot = robots._robots['sim0']
    step = topics.STEP
    try:
        simulator, rogue = speaker(node('simulator'), step), speaker(node('rogue'), step)
        spec_publisher = speaker(node('simulator'), topics.SPEC)
        spec_publisher.publish(announcement(spec()))
        wait_for(lambda: robot.announcements.take() is not None)
        robot.spec, now = spec(), int(time.time())

        def publish(publisher, seconds, is_first=False):
            message = qos.message_type(step)()
            codecs.fill_step(message, codecs.Step(seconds * 10**9, 0.0, is_first, False, False))
            publisher.publish(message)
            end = time.monotonic() + 1.0
            while robot.stamp != seconds * 10**9 and time.monotonic() < end:
                robots._take_steps(robot)
                time.sleep(0.01)
            return robot.stamp == seconds * 10**9

        assert publish(simulator, now, is_first=True)
        assert not publish(rogue, now + 5) and not publish(rogue, FAR)
        assert not publish(simulator, FAR), 'not even of the simulator itself'
        assert publish(simulator, now + 1) and len(robot.live) == 1
    finally:
        robots.close()


def test_the_spec_of_a_stranger_ends_nobody(node):
    trainer = RosRobots(node('trainer', '/'), ('sim0',))
    announcements = trainer._robots['sim0'].announcements
    try:
        simulator, rogue = node('simulator'), node('rogue')
        speaker(simulator, topics.SPEC).publish(announcement(spec()))
        wait_for(lambda: announcements.take() is not None)
        wrong = speaker(rogue, topics.SPEC)
        for text in ('{}', 'x' * 100, announcement(spec(actions=3)).data):
            wrong.publish(String(data=text))
            time.sleep(0.2)
            assert announcements.take() is None
        with pytest.raises(InputError, match='topic /policy: expected no other trainer, but one of this computer'):
            RosRobots(node('trainer', '/'), ('sim1',))
    finally:
        trainer.close()
