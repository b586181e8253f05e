"""Claims of topics; those of agents and simulators are tried with their processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from types import SimpleNamespace

import pytest

from dreamer_ros.launcher import DISCOVERY
from dreamer_ros.ros.ownership import TopicLock, TopicTaken
from tests.network import Network, Unsupported

# Announces a robot as a simulator does, until its input ends.
SIMULATOR = """
import sys
from std_msgs.msg import String
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.ownership import OnlyPublisher
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.wire import topics

def body(node, stop):
    announced = OnlyPublisher(node, Inbox(node), topics.SPEC, String(data='{}'))
    print('announced', flush=True)
    sys.stdin.read()

sys.exit(run_node('simulator', body, may_freeze=True, local=True))
"""


def test_a_topic_of_a_domain_is_given_away_once():
    def claim(topic, domain=7):
        return TopicLock(SimpleNamespace(context=SimpleNamespace(get_domain_id=lambda: domain)), topic, 'it is mine')

    topic = f'/{uuid.uuid4().hex}' + 200 * 'x'  # as long as ROS allows, longer than the name of a socket
    first = claim(topic)
    others = [claim(topic, 8), claim(topic[:-1]), claim(f'/robot{topic}')]
    with pytest.raises(TopicTaken, match='^it is mine$'):
        claim(topic)
    first.close()
    first.close()
    for held in (*others, claim(topic)):
        held.close()


def test_simulators_of_two_people_on_a_network_do_not_meet(ros_domain, seed):
    """By default. With the range of a subnet they do, and the younger one ends."""
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(Network(delay=0.0, jitter=0.0, loss=0.0, seed=seed))
        except Unsupported as reason:
            pytest.skip(f'no network namespaces: {reason}')

        def start(computer, **environment):
            command = computer.command(sys.executable, '-c', SIMULATOR)
            # Shared memory would pass the wire by.
            environment = {**os.environ, 'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4', **environment}
            pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
            process = stack.enter_context(subprocess.Popen(command, env=environment, text=True, **pipes))
            stack.callback(process.kill)
            return process, process.stdout.readline()

        subnet = {DISCOVERY: 'SUBNET', 'ROS_DOMAIN_ID': '7'}
        assert [start(computer)[1] for computer in (network.robot, network.trainer)] == ['announced\n'] * 2
        assert start(network.robot, **subnet)[1] == 'announced\n'
        younger, said = start(network.trainer, **subnet)
        assert said == '' and 'a simulator publishes there since' in younger.communicate()[1]
