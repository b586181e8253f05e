"""Who else publishes a robot's command, and who obeys it, told from the ROS graph.

Real nodes are in test_robot_agent.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dreamer_ros.deploy import command_topic
from dreamer_ros.deploy.command_topic import CommandTopic
from dreamer_ros.wire.topics import QoS, Topic

OURS = ['/rover/agent', '/rover/agent', '/rover/agent_guard']


class Graph:
    """A node that sees publishers of the nodes it is told."""

    def __init__(self):
        self.names = []
        self.subscribers = []  # name, type, profile

    def get_subscriptions_info_by_topic(self, topic):
        assert topic == '/rover/cmd_vel'
        for name, kind, profile in self.subscribers:
            place, _, leaf = name.rpartition('/')
            yield SimpleNamespace(node_namespace=place or '/', node_name=leaf, topic_type=kind, qos_profile=profile)

    def get_publishers_info_by_topic(self, topic):
        assert topic == '/rover/cmd_vel'
        parts = [name.rpartition('/') for name in self.names]
        return [SimpleNamespace(node_namespace=place or '/', node_name=name) for place, _, name in parts]


def command(graph, matched=1, reliable=True):
    topic = Topic('/rover/cmd_vel', 'geometry_msgs/msg/Twist', QoS(depth=1, reliable=reliable))
    outlet = SimpleNamespace(matched=matched)
    return CommandTopic(graph, topic, 'robot.yaml', outlet, {'/rover/agent': 2, '/rover/agent_guard': 1})


@pytest.fixture
def seen(monkeypatch):
    """(graph, look): what the look of a moment later tells as new, and all names."""
    clock = [100.0]
    monkeypatch.setattr(command_topic, 'time', SimpleNamespace(monotonic=lambda: clock[0]))
    graph = Graph()
    found = command(graph)

    def look(*names, after=1.5):
        clock[0] += after
        graph.names = [*names]
        warnings = [warning for warning in found.look() if ' publishes ' in warning]
        told = tuple(warnings[0].split(' publishes ')[0].split(', ')) if warnings else ()
        return told, found.others

    return look


def test_the_agent_and_its_guard_are_no_others(seen):
    assert seen() == seen(*OURS) == seen(*OURS, after=100) == ((), ())


def test_a_stranger_is_told_once(seen):
    assert seen(*OURS, '/teleop', '/mux') == (('/mux', '/teleop'), ('/mux', '/teleop'))
    assert seen(*OURS, '/teleop') == ((), ('/teleop',))
    assert seen(*OURS) == ((), ())
    assert seen(*OURS, '/teleop', after=0.1) == ((), ()), 'the graph is not asked all the time'


@pytest.mark.parametrize(
    'name',
    [
        '/rover/agent',
        '/rover/agent_guard',
        '/_CREATED_BY_BARE_DDS_APP_',
        '_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_',
    ],
)
def test_a_killed_predecessor_is_given_time_to_go(seen, name):
    """So is a node whose name is not known yet; one that stays is another agent."""
    for _ in range(16):
        assert seen(*OURS, name) == ((), ())
    seen(*OURS)
    for _ in range(17):
        assert seen(*OURS, name) == ((), ())
    assert seen(*OURS, name)[0] == (name,)


TWIST, RELIABLE = 'geometry_msgs/msg/Twist', QoSProfile(depth=1)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.mark.parametrize(
    'subscribers, reliable, reason',
    [
        ([('/rover/base', TWIST, RELIABLE)], True, ''),
        ([('/rover/base', TWIST, BEST_EFFORT)], True, ''),
        ([('/rover/base', TWIST, BEST_EFFORT)], False, ''),
        ([], True, '/rover/cmd_vel: expected a subscriber of geometry_msgs/msg/Twist, found none'),
        (
            [('/rover/base', 'geometry_msgs/msg/TwistStamped', RELIABLE)],
            True,
            '/rover/cmd_vel has a subscriber of geometry_msgs/msg/TwistStamped (/rover/base), '
            'robot.yaml says geometry_msgs/msg/Twist',
        ),
        (
            [('/rover/base', TWIST, RELIABLE)],
            False,
            '/rover/cmd_vel has a subscriber that asks for reliable messages (/rover/base), which those of '
            'robot.yaml are not',
        ),
        (
            [('/rover/base', TWIST, QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))],
            True,
            'has a subscriber that asks for transient_local messages (/rover/base)',
        ),
        # Who only looks on does not obey.
        ([('/rover/recorder', TWIST, RELIABLE)], True, 'found none'),
        ([('/rosbag2_recorder', TWIST, RELIABLE), ('/_ros2cli_7', TWIST, RELIABLE)], True, 'found none'),
        # It may be a robot that is no ROS node.
        ([('/_CREATED_BY_BARE_DDS_APP_', TWIST, RELIABLE)], True, ''),
        ([('/x', 'std_msgs/msg/Bool', RELIABLE), ('/rover/base', TWIST, RELIABLE)], True, ''),
    ],
)
def test_who_obeys(subscribers, reliable, reason):
    graph = Graph()
    graph.subscribers = subscribers
    found = command(graph, reliable=reliable)
    assert 'found none' in found.check(0.0), 'before the first look nothing moves'
    found.look()
    assert reason in found.check(0.0) if reason else found.check(0.0) == ''


def test_a_subscriber_that_goes_is_missed_at_once():
    graph = Graph()
    graph.subscribers = [('/rover/base', TWIST, RELIABLE)]
    found = command(graph, matched=0)
    found.look()
    assert 'found none' in found.check(0.0), 'the middleware knows before the graph is looked at again'
