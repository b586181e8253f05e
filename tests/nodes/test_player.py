"""A bag on ROS topics again: bytes, pace, clock, a policy in shadow; and `ros2 bag play` into a running agent."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from sensor_msgs.msg import Joy

from dreamer_ros.episodes.bag_reader import open_bag
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.ros import qos
from dreamer_ros.wire import codecs, topics
from tests.episodes import robot_bags
from tests.episodes.simulated import STEPS, simulated_bag

RATE = 2.0


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A bag whose recorded policy has version 7, and another policy of version 8."""
    from dreamer_ros.policy.export import Exporter
    from tests.policy.tiny import tiny_policy

    folder = tmp_path_factory.mktemp('made')
    made = simulated_bag(folder)
    other = folder / 'other.onnx'
    Exporter(tiny_policy(made.spec, seed=2), made.spec).write(
        other, dict(system='tiny', preset='tiny', step=8, version=8)
    )
    return made, other


class Audience:
    """Takes the messages of topics as bytes, in the order in which they come."""

    def __init__(self, peer):
        self._peer = peer
        self.messages = {}  # by full name
        self.came = {}
        self._subscriptions = []

    def listen(self, topic):
        self.messages[topic.name], self.came[topic.name] = [], []

        def take(message):
            self.messages[topic.name].append(message)
            self.came[topic.name].append(time.monotonic())

        self._subscriptions.append(
            self._peer.node.create_subscription(
                qos.message_type(topic), topic.name, take, qos.profile(topic.qos), raw=True
            )
        )


def test_bytes_pace_and_clock(start, peer, made, tmp_path):
    (bag, _, spec), _ = made
    opened, audience = open_bag(bag), Audience(peer)
    expected = {}
    for message in opened.by_time():
        expected.setdefault(message.topic, []).append(bytes(message.data))
    for name, topic in opened.topics.items():
        place = name.replace('/sim0/action', '/sim0/recorded/action')
        audience.listen(type(topic)('/sim0' + place, topic.type, topic.qos))
        audience.listen(topic)  # as a robot would that this bag was recorded from
    audience.listen(type(topic)('/sim0/sim0/action', 'sensor_msgs/msg/Joy', topic.qos))
    player = start('player', bag=bag, rate=RATE, wait_for_subscribers=1)
    peer.until(lambda: player.ended, 'the end of the bag')
    assert player.wait() == 0
    peer.spin(0.2)

    assert len(expected) == 5
    for name, messages in expected.items():
        place = '/sim0' + name.replace('/sim0/action', '/sim0/recorded/action')
        got = audience.messages[place]
        # DDS may add up to three bytes, to make it a multiple of four.
        assert [message[: len(sent)] for message, sent in zip(got, messages)] == messages, f'{place}: byte for byte'
        assert len(got) == len(messages) and all(len(a) - len(b) < 4 for a, b in zip(got, messages))
        assert audience.messages[name] == [], f'nothing is said on {name} itself'
    assert audience.messages['/sim0/sim0/action'] == [], 'nobody commands the replayed robot'
    came = audience.came['/sim0/sim0/step']
    seconds = (STEPS - 1) * spec.control_period / RATE
    assert seconds * 0.9 < came[-1] - came[0] < seconds + 5.0
    assert peer.clock[0] >= opened.start and peer.clock[-1] == opened.end
    assert all(before < after for before, after in zip(peer.clock, peer.clock[1:])), 'never backwards'
    assert len(peer.clock) >= STEPS


@pytest.mark.parametrize(
    'name, kind, contract, place',
    [
        ('/sim0/step', 'sensor_msgs/msg/JointState', None, 'sim0/step'),
        ('/sim0/action', 'sensor_msgs/msg/Joy', None, 'sim0/recorded/action'),
        ('/action', 'sensor_msgs/msg/Joy', None, 'recorded/action'),
        ('/cmd_vel', 'geometry_msgs/msg/Twist', None, 'recorded/cmd_vel'),
        ('/arm/joint_trajectory', 'trajectory_msgs/msg/JointTrajectory', None, 'arm/recorded/joint_trajectory'),
        ('/robot/cmd_vel', 'geometry_msgs/msg/Twist', robot_bags.contract(), 'robot/recorded/cmd_vel'),
        ('/robot/wind', 'geometry_msgs/msg/Twist', robot_bags.contract(), 'robot/wind'),
    ],
)
def test_commands_have_a_place_of_their_own(name, kind, contract, place):
    from dreamer_ros.nodes.player import place_of

    assert place_of(topics.Topic(name, kind, topics.SENSOR), contract) == place


@pytest.mark.parametrize('which', ['the same policy', 'another policy'])
def test_a_policy_in_shadow(which, start, peer, made, tmp_path):
    (bag, policy, spec), other = made
    policy = policy if which == 'the same policy' else other
    answers, robot = [], []
    listen = peer.node.create_subscription
    profile = qos.profile(topics.RECORDER_ACTION_SUBSCRIBER)
    kept = [
        listen(Joy, '/sim0/sim0/shadow/action', answers.append, profile),
        listen(Joy, '/sim0/action', robot.append, profile),
        listen(Joy, '/sim0/sim0/action', robot.append, profile),
    ]
    player = start('player', bag=bag, rate=20.0, policy=policy, output=tmp_path, wait_for_subscribers=1)
    peer.until(lambda: player.ended, 'the end of the bag')
    assert player.wait() == 0 and len(kept) == 3
    peer.until(lambda: len(answers) >= STEPS - 1, 'every action')

    [episode], _ = read_episodes(bag, spec)
    runner = PolicyRunner(policy, spec)
    expected = np.array(
        [
            runner.act(image, None, bool(first), explore=False)
            for image, first in zip(episode.image[:-1], episode.is_first)
        ]
    )
    apart = np.abs(expected.astype(np.float64) - episode.action[:-1])
    assert [codecs.stamp_to_ns(answer.header.stamp) for answer in answers] == episode.stamp[:-1].tolist()
    assert np.array_equal(np.array([answer.axes for answer in answers], np.float32), expected)
    assert {answer.header.frame_id for answer in answers} == {f'policy/{runner.version}/evaluate'}
    assert robot == [], 'a policy in shadow commands nobody'
    result = json.loads((tmp_path / 'shadow.json').read_text())
    assert result['steps'] == STEPS - 1 and result['version'] == runner.version
    assert np.array_equal(np.array(result['shadow'], np.float32), expected)
    assert np.array_equal(np.array(result['recorded'], np.float32), episode.action[:-1])
    assert list(result['errors']) == list(spec.action)
    for number, name in enumerate(spec.action):
        assert result['errors'][name]['mean'] == pytest.approx(apart[:, number].mean())
        assert result['errors'][name]['max'] == pytest.approx(apart[:, number].max())
    assert (apart.max() == 0.0) == (which == 'the same policy')
    assert (tmp_path / 'shadow.png').read_bytes().startswith(b'\x89PNG')
    assert f'{result["errors"][spec.action[0]]["rms"]:.6f}' in player.output


def test_what_a_player_refuses(start, peer, made, tmp_path):
    (bag, _, _), _ = made
    from dreamer_ros.policy.export import Exporter
    from tests.policy.tiny import spec, tiny_policy

    Exporter(tiny_policy(spec()), spec()).write(
        tmp_path / 'p.onnx', dict(system='tiny', preset='tiny', step=1, version=1)
    )
    clock = qos.publisher(peer.node, topics.CLOCK)
    cases = [
        (start('player', bag=tmp_path / 'nowhere'), 'nowhere'),
        (start('player', bag=bag, rate=0.0), 'rate: expected a number from 0.001 to 1000, got 0.0'),
        (start('player', bag=bag, policy=tmp_path / 'p.onnx'), 'expected a policy for cartpole_swingup'),
        (start('player', bag=bag, rate=0.02), 'topic /clock: expected no other publisher'),
    ]
    for process, sentence in cases:
        assert process.wait() == 2
        assert sentence in process.output and 'Traceback' not in process.output
    assert clock.topic_name == '/clock'


def test_plain_bag_play_into_an_agent(start, peer, made, tmp_path):
    """What `ros2 bag play` does: publishers as offered in metadata.yaml, serialised messages at their recorded
    times, in their order in the file, nothing else: no `spec`, no answer awaited."""
    (bag, policy, spec), _ = made
    opened = open_bag(bag)
    answers = []
    kept = peer.node.create_subscription(
        Joy, '/sim0/shadow/action', answers.append, qos.profile(topics.RECORDER_ACTION_SUBSCRIBER)
    )
    agent = start('agent', mode='evaluate', policy=policy, remap={'action': 'shadow/action'})
    publishers = {
        name: peer.node.create_publisher(qos.message_type(topic), name, qos.profile(topic.qos))
        for name, topic in opened.topics.items()
    }
    steps = publishers['/sim0/step']
    peer.until(lambda: steps.get_subscription_count() >= 2, 'the agent')  # the peer's own is the other
    began, played = time.monotonic(), 0
    for message in opened.by_time():
        peer.spin(max(0.0, began + (message.time - opened.start) / 1e9 - time.monotonic()))
        if message.topic == '/sim0/step':
            # Slower where the machine is: an agent that is behind answers only the newest observation.
            peer.spin_until(lambda: len(answers) >= played, 10.0)
            played += 1
        publishers[message.topic].publish(bytes(message.data))
    peer.until(lambda: len(answers) >= STEPS, 'an answer to every observation', 10.0)

    [episode], _ = read_episodes(bag, spec)
    assert [codecs.stamp_to_ns(answer.header.stamp) for answer in answers] == episode.stamp.tolist()
    assert np.array_equal(np.array([answer.axes for answer in answers], np.float32), episode.action)
    assert not agent.ended and kept.topic_name == '/sim0/shadow/action'


def test_a_robot_with_a_contract(start, peer, tmp_path, rng):
    """Its own topics; the policy sees what its agent saw; commands stay below `recorded`."""
    from dreamer_ros.policy.export import Exporter
    from tests.policy.tiny import tiny_policy

    robot, policy = robot_bags.contract(), tmp_path / 'p.onnx'
    agent = robot_bags.played(rng, robot_bags.sensors(rng, 4.0), 30)
    bag = robot_bags.write_robot_bag(tmp_path, 'bag', agent.rows, robot)
    Exporter(tiny_policy(robot.spec), robot.spec).write(policy, dict(system='tiny', preset='tiny', step=4, version=4))
    audience = Audience(peer)
    image, command = (
        topics.Topic(f'/sim0/robot/{name}', kind, topics.SENSOR)
        for name, kind in (
            ('camera/image_raw', 'sensor_msgs/msg/Image'),
            ('recorded/cmd_vel', 'geometry_msgs/msg/Twist'),
        )
    )
    audience.listen(image)
    audience.listen(command)
    moved = [
        peer.node.create_subscription(Twist, name, pytest.fail, 10)
        for name in ('/robot/cmd_vel', '/cmd_vel', '/sim0/cmd_vel', '/sim0/robot/cmd_vel')
    ]
    player = start('player', bag=bag, rate=4.0, policy=policy, output=tmp_path / 'out', wait_for_subscribers=1)
    peer.until(lambda: player.ended, 'the end of the bag')
    assert player.wait() == 0 and len(moved) == 4
    assert len(audience.messages[image.name]) == sum(row[0] == 'camera/image_raw' for row in agent.rows)
    assert len(audience.messages[command.name]) == 30
    runner = PolicyRunner(policy)
    expected = [
        runner.act(image, np.float32(vector), k == 0, explore=False)
        for k, (image, vector) in enumerate(zip(agent.images[:-1], agent.vectors))
    ]
    result = json.loads((tmp_path / 'out' / 'shadow.json').read_text())
    np.testing.assert_array_equal(np.float32(result['shadow']), expected)
    np.testing.assert_array_equal(np.float32(result['recorded']), agent.actions[:-1])
    assert result['stamp'] == agent.stamps[:-1]


def test_a_bag_played_into_a_robot_agent(start, peer, tmp_path, rng):
    """The agent of a robot acts upon replayed observations in the bag's time; its commands go nowhere else."""
    from dreamer_ros.policy.export import Exporter
    from tests.policy.tiny import tiny_policy

    # Without the range finder, whose messages have no stamp that would tell their age in the bag's time.
    lines = robot_bags.TINY.splitlines(keepends=True)
    robot = robot_bags.contract(''.join(line for line in lines if 'Float64' not in line))
    (tmp_path / 'tiny.yaml').write_text(robot.text)
    policy = tmp_path / 'p.onnx'
    agent_rows = robot_bags.played(rng, robot_bags.sensors(rng, 5.0), 40).rows
    bag = robot_bags.write_robot_bag(tmp_path, 'bag', agent_rows, robot_bags.contract())
    Exporter(tiny_policy(robot.spec), robot.spec).write(policy, dict(system='tiny', preset='tiny', step=4, version=4))
    commands, answers, moved = [], [], []
    kept = [
        peer.node.create_subscription(Twist, '/sim0/robot/shadow/cmd_vel', commands.append, 10),
        peer.node.create_subscription(Joy, '/sim0/robot/shadow/action', answers.append, 10),
        peer.node.create_subscription(Twist, '/sim0/robot/cmd_vel', moved.append, 10),
    ]
    agent = start(
        'robot_agent',
        robot=tmp_path / 'tiny.yaml',
        policy=policy,
        use_sim_time=True,
        remap={'__ns': '/sim0/robot', 'cmd_vel': 'shadow/cmd_vel', 'action': 'shadow/action'},
    )
    peer.until(lambda: 'the robot may move' in agent.output, 'activation')
    player = start('player', bag=bag, wait_for_subscribers=1)
    peer.until(lambda: player.ended, 'the end of the bag')
    assert player.wait() == 0 and len(kept) == 3
    stamps = [codecs.stamp_to_ns(answer.header.stamp) for answer in answers]
    opened = open_bag(bag)
    assert len(stamps) > 10 and np.all(np.diff(stamps) > 0)
    assert opened.start <= stamps[0] and stamps[-1] <= opened.end + 10**9  # stamps go on when the clock has stopped
    assert {answer.header.frame_id for answer in answers} == {'policy/4/evaluate'}
    assert any(command.linear.x for command in commands) and moved == []
