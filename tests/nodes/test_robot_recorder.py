"""A robot's own topics on their way to bags: by episode, on request, and what is told of them."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest
import yaml
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import Reader
from std_srvs.srv import Trigger

from dreamer_ros.deploy.control import StepPublisher
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.nodes.recorder import RecorderParameters
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.sensing import Sensed
from dreamer_ros.ros import qos
from dreamer_ros.schema import check
from dreamer_ros.wire import topics
from dreamer_ros.wire.codecs import Mode
from tests.episodes.robot_bags import START, TINY, contract, sensors
from tests.nodes.conftest import NAMESPACE, PATIENCE
from tests.replay.folders import dataset_of

# Steps of this test may take their time on a busy machine without a gap between them.
SLOW = TINY.replace('rate: 10', 'rate: 1')


class Robot:
    """Camera, encoders, range finder and agent of the tiny robot; what it sends is remembered by topic."""

    def __init__(self, peer, rng):
        self._peer, self._rng = peer, rng
        tiny = contract()
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publishers = {
            topic.name: peer.node.create_publisher(
                qos.message_type(topic),
                topic.name,
                best_effort if topic.name == 'camera/image_raw' else qos.profile(topics.SENSOR),
            )
            for topic in (*tiny.topics, *tiny.command_topics)
        }
        self._agent = StepPublisher(peer.node, tiny)
        # What a message without a stamp was sent at is known to whoever receives it.
        self._published = []
        peer.node.create_subscription(
            qos.message_type(tiny.topics[-1]),
            'range',
            lambda message, info: self._published.append(info['source_timestamp']),
            100,
        )
        self._stock = {topic: list(entries) for topic, entries in sensors(rng, 30.0).items()}
        self.sent = {name: [] for name in self._publishers}
        self.seen = []  # image, both vector inputs and action of each step

    def until_heard(self, *names, by=1):
        """Until so many recorders listen to topics, by default to those of the agent."""
        for name in names or ('observation/camera/image', 'observation/vector', 'step', 'action'):
            full = self._peer.node.resolve_topic_name(name)
            own = sum(info.node_name == self._peer.node.get_name() for info in self._heard(full))
            self._peer.until(lambda: len(self._heard(full)) - own >= by, f'a recorder of {name}')

    def _heard(self, name):
        return self._peer.node.get_subscriptions_info_by_topic(name)

    def send(self, name, cdr):
        self.sent[name].append(bytes(cdr))
        self._publishers[name].publish(bytes(cdr))

    def sense(self, count=3):
        """A few messages of each sensor; returns the newest by topic: (stamp, value)."""
        newest = {}
        for topic in ('camera/image_raw', 'joint_states', 'range'):
            for _ in range(count):
                entry = self._stock[topic].pop(0)
                stamp = time.time_ns()
                cdr = bytearray(entry.cdr)
                if topic != 'range':
                    cdr[4:12] = np.array(divmod(stamp, 10**9), np.uint32).tobytes()
                self.send(topic, cdr)
                newest[topic] = stamp, entry.value
                self._peer.spin(0.004)
        self._peer.until(lambda: len(self._published) == len(self.sent['range']), 'hearing the range finder')
        newest['range'] = self._published[-1], newest['range'][1]
        return newest

    def step(self, is_first, is_last, reward=0.25, blind=False):
        newest = self.sense()
        stamp = time.time_ns()
        ages = {topic: stamp - measured for topic, (measured, _) in newest.items()}
        action = self._rng.uniform(-1, 1, 2).astype(np.float32)
        image, *vector = (newest[topic][1] for topic in ('camera/image_raw', 'joint_states', 'range'))
        if blind:
            sensed = Sensed(None, None, None, ages, (), reward, False, ())
        else:
            sensed = Sensed(image, np.float32(vector), np.zeros(2), ages, (), reward, False, ())
        self._agent.publish(stamp, sensed, (is_first, is_last, False), action, Mode('explore', 3), None)
        self._peer.spin(0.01)
        self.seen.append((image, *vector, action))


@pytest.fixture
def robot(peer, rng):
    return Robot(peer, rng)


@pytest.fixture
def recorder(start, tmp_path):
    path = tmp_path / 'tiny.yaml'
    path.write_text(SLOW)
    return start('recorder', contract=path, folder=tmp_path / 'bags', raw=True)


def bags(folder):
    return sorted(path for path in folder.glob('[!.]*'))


def custom_data(bag):
    return yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']['custom_data']


def call(peer, name):
    client = peer.node.create_client(Trigger, f'{NAMESPACE}/recorder/{name}')
    assert client.wait_for_service(PATIENCE)
    future = client.call_async(Trigger.Request())
    peer.until(future.done, f'an answer of {name}')
    return future.result()


def test_episodes_as_their_agent_saw_them(robot, recorder, peer, tmp_path):
    folder = tmp_path / 'bags'
    robot.until_heard()
    robot.until_heard('camera/image_raw', 'joint_states', 'range', 'cmd_vel')
    robot.sense()
    before = len(robot.seen)
    for k in range(12):
        robot.step(k == 0, k == 11)
    peer.until(lambda: len(bags(folder)) == 1, 'the first bag')
    for k in range(5):
        robot.step(k == 0, False, reward=0.0)
    robot.step(False, True, reward=0.0, blind=True)
    peer.until(lambda: len(bags(folder)) == 2, 'the second bag')
    assert recorder.stop() == 0
    first, second = bags(folder)
    assert list(folder.glob('.*')) == []

    tiny = contract(SLOW)
    images, wheel, distance, actions = zip(*robot.seen[before : before + 12])
    beside = tmp_path / 'bags-raw' / first.name
    for bag in (first, beside):
        [episode], problems = read_episodes(bag, tiny.spec)
        assert not problems and episode.complete and len(episode) == 12
        np.testing.assert_array_equal(episode.image, images)
        np.testing.assert_array_equal(episode.vector, np.float32([wheel, distance]).T)
        np.testing.assert_array_equal(episode.action, actions)
    [rest], [problem] = read_episodes(second, tiny.spec)
    assert len(rest) == 5 and not rest.is_last.any() and 'with a bad image' in problem.reason

    data = custom_data(first)
    assert data['contract'] == SLOW and data['length'] == '12' and float(data['return']) == 2.75
    assert data['mode'] == 'explore' and data['policy_version'] == '3' and data['robot'] == 'sim0'
    rest = custom_data(second)
    assert rest['length'] == '6' and 'return' not in rest, 'no reward in the contract, none in the steps'
    [line] = [line for line in recorder.output.splitlines() if f'{second.name}: 6 steps, ' in line]
    assert 'return' not in line and f'{first.name}: 12 steps, return 2.8' in recorder.output
    with Reader(first) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    names = ('observation/camera/image/compressed', 'observation/vector', 'step', 'action')
    assert counts == {f'/sim0/{name}': 12 for name in names}

    report = json.loads(custom_data(beside)['report'])
    assert report['/sim0/step'] == {'messages': 12, 'rate': report['/sim0/step']['rate']}
    assert report['/sim0/camera/image_raw']['messages'] >= 36
    # An independent reader: every byte that was sent while the episode ran, in order, once.
    found = {name: [] for name in robot.sent}
    with Reader(beside) as reader:
        for connection, _, cdr in reader.messages():
            found.setdefault(connection.topic[len('/sim0/') :], []).append(cdr)
        offered = {entry.topic: entry.ext.offered_qos_profiles[0].reliability.name for entry in reader.connections}
    assert offered['/sim0/camera/image_raw'] == 'BEST_EFFORT' and offered['/sim0/joint_states'] == 'RELIABLE'
    for name, sent in robot.sent.items():
        if name != 'cmd_vel':
            place = [strip(cdr) for cdr in sent].index(strip(found[name][0]))
            assert [strip(cdr) for cdr in found[name]] == [
                strip(cdr) for cdr in sent[place : place + len(found[name])]
            ], name
    assert 'nothing came on /sim0/cmd_vel' in recorder.output


def strip(cdr):
    """Without the padding that a middleware may add or drop at the end."""
    return bytes(cdr).rstrip(b'\0')


def test_on_request(robot, start, peer, tmp_path):
    path, folder = tmp_path / 'tiny.yaml', tmp_path / 'bags'
    path.write_text(SLOW)
    recorder = start('recorder', contract=path, folder=folder)
    robot.until_heard()
    answer = call(peer, 'stop')
    assert not answer.success and 'no bag' in answer.message
    answer = call(peer, 'start')
    assert answer.success and str(folder) in answer.message
    assert not call(peer, 'start').success
    robot.until_heard('camera/image_raw', 'joint_states', 'range', 'cmd_vel')
    robot.until_heard('step', 'action', by=2)  # with the episodes, and with the topics
    for _ in range(10):
        robot.sense()
        robot.send('cmd_vel', *Commands(contract()).encode(np.zeros(2), START))
    robot.step(True, True)  # an episode does not end it
    peer.spin(0.4)
    robot.sense(1)
    peer.spin(0.1)
    assert call(peer, 'stop').success
    peer.until(lambda: len(bags(folder)) == 1, 'the bag')
    call(peer, 'start')
    robot.sense()
    peer.spin(0.1)
    recorder.send(signal.SIGTERM)
    assert recorder.wait() == 0
    first, second = bags(folder)
    with Reader(first) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    assert counts['/sim0/camera/image_raw'] == 34 and counts['/sim0/cmd_vel'] == 10 and counts['/sim0/step'] == 1
    with Reader(second) as reader:
        assert reader.message_count >= 9


@pytest.mark.parametrize('contract', [True, False], ids=['contract', 'simulator'])
def test_a_disk_that_is_nearly_full_ends_it_cleanly(start, tmp_path, contract):
    """It looks once a second; here from the beginning there is too little, and it is said before a robot comes."""
    path = tmp_path / 'tiny.yaml'
    path.write_text(SLOW)
    robot = {'contract': path} if contract else {}
    recorder = start('recorder', folder=tmp_path / 'bags', disk_reserve=10**9, **robot)
    assert recorder.wait() == 2
    assert 'MB are free, less than the disk_reserve of 1000000000 MB; nothing more is recorded' in recorder.output
    assert 'Traceback' not in recorder.output and not (tmp_path / 'bags').exists()


def test_parameters_that_do_not_fit(start):
    process = start('recorder', contract='/nowhere.yaml', folder='x')
    with pytest.raises(InputError, match='episodes: expected none with a contract, got 3'):
        check(RecorderParameters, {'contract': 'rover', 'folder': 'x', 'episodes': 3}, 'test')
    with pytest.raises(InputError, match=r'folder \(a folder\) is missing'):
        check(RecorderParameters, {'contract': 'rover'}, 'test')
    assert process.wait() == 2 and '/nowhere.yaml: expected a text file' in process.output


def test_two_recorders_on_one_folder_and_kill_9(robot, recorder, start, peer, tmp_path):
    """Both write every episode; one dies in the middle of one; the store has every episode once."""
    folder = tmp_path / 'bags'
    other = start('recorder', contract=tmp_path / 'tiny.yaml', folder=folder)
    robot.until_heard('observation/camera/image', 'observation/vector', by=2)
    robot.until_heard('step', 'action', by=3)  # one of them records the topics, too
    for _ in range(2):
        for k in range(6):
            robot.step(k == 0, k == 5)
    peer.until(lambda: len(bags(folder)) == 4, 'both bags of both episodes')
    for k in range(25):  # longer than a chunk may be
        robot.step(k == 0, False)
        peer.spin(0.05)
    other.send(signal.SIGKILL)
    other.wait()
    peer.spin(0.2)
    assert len(list(folder.glob('.*.partial'))) == 2

    spec = contract(SLOW).spec
    store = dataset_of(folder, spec, 1000)
    loaded = store.refresh()
    [leftover] = [info for info in loaded if info.meta.get('recovered')]
    assert len(loaded) == 3 and 5 < leftover.steps < 25 and store.steps == 12 + leftover.steps
    problems = ' | '.join(str(problem) for problem in store.problems)
    assert problems.count('holds the same episode as') == 2 and 'recovered from damage' in problems
    assert len(list(folder.glob('.*.partial'))) == 1, 'the living one is left alone'
    assert recorder.stop() == 0
    store.refresh()
    assert store.refresh() == [] and store.steps <= 12 + leftover.steps + 25
