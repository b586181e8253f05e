"""Who else publishes a robot's command, told from the ROS graph; a real teleoperator is in test_robot_agent.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dreamer_ros.deploy import publisher_monitor
from dreamer_ros.deploy.publisher_monitor import OtherPublishers

OURS = ['/rover/agent', '/rover/agent', '/guard_12']


class Graph:
    """A node that sees publishers of the nodes it is told."""

    def __init__(self):
        self.names = []

    def get_publishers_info_by_topic(self, topic):
        assert topic == '/rover/cmd_vel'
        parts = [name.rpartition('/') for name in self.names]
        return [SimpleNamespace(node_namespace=place or '/', node_name=name) for place, _, name in parts]


@pytest.fixture
def seen(monkeypatch):
    """(graph, look): what the look of a moment later tells as new, and all names."""
    clock = [100.0]
    monkeypatch.setattr(publisher_monitor, 'time', SimpleNamespace(monotonic=lambda: clock[0]))
    graph = Graph()
    found = OtherPublishers(graph, '/rover/cmd_vel', {'/rover/agent': 2, '/guard_12': 1})

    def look(*names, after=1.5):
        clock[0] += after
        graph.names = [*names]
        return found.look(), found.names

    return look


def test_the_agent_and_its_guard_are_no_others(seen):
    assert seen() == seen(*OURS) == seen(*OURS, after=100) == ((), ())


def test_a_stranger_is_told_once(seen):
    assert seen(*OURS, '/teleop', '/mux') == (('/mux', '/teleop'), ('/mux', '/teleop'))
    assert seen(*OURS, '/teleop') == ((), ('/teleop',))
    assert seen(*OURS) == ((), ())
    assert seen(*OURS, '/teleop', after=0.1) == ((), ()), 'the graph is not asked all the time'


@pytest.mark.parametrize(
    'name', ['/rover/agent', '/guard_7', '/_CREATED_BY_BARE_DDS_APP_', '_NODE_NAMESPACE_UNKNOWN_/_NODE_NAME_UNKNOWN_']
)
def test_a_killed_predecessor_is_given_time_to_go(seen, name):
    """So is a node whose name is not known yet; one that stays is another agent."""
    for _ in range(16):
        assert seen(*OURS, name) == ((), ())
    seen(*OURS)
    for _ in range(17):
        assert seen(*OURS, name) == ((), ())
    assert seen(*OURS, name)[0] == (name,)
