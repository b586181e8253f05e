"""Bags as other people's readers see them, and what survives a crash."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from dreamer_ros.episodes.bag_reader import bag_name, partial_path
from dreamer_ros.episodes.bag_writer import EpisodeWriter, episode_name
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.recovery import recover
from dreamer_ros.errors import InputError
from dreamer_ros.wire import topics
from dreamer_ros.wire.codecs import read_step, stamp_to_ns
from dreamer_ros.wire.definitions import definition
from dreamer_ros.wire.images import decode_image
from tests.episodes.bags import (
    PERIOD_NS,
    SPEC,
    START_NS,
    assert_equal,
    cdr_messages,
    messages,
    random_episode,
    write_episode,
)

NAMES = [topic.within('sim0').name for topic in topics.PER_STEP]


@pytest.fixture
def episode():
    return random_episode(np.random.default_rng(0), 60)


def test_metadata_field_by_field(tmp_path, episode):
    path = write_episode(tmp_path, 'bag', episode, {'task': 'test'})
    assert sorted(file.name for file in path.iterdir()) == ['bag_0.mcap', 'metadata.yaml']
    assert [entry.name for entry in tmp_path.iterdir()] == ['bag']
    content = yaml.safe_load((path / 'metadata.yaml').read_text())
    start = {'nanoseconds_since_epoch': START_NS}
    duration = {'nanoseconds': 59 * PERIOD_NS}
    assert content == {
        'rosbag2_bagfile_information': {
            'version': 8,
            'storage_identifier': 'mcap',
            'duration': duration,
            'starting_time': start,
            'message_count': 300,
            'topics_with_message_count': [
                {
                    'topic_metadata': {
                        'name': name,
                        'type': topic.type,
                        'serialization_format': 'cdr',
                        'offered_qos_profiles': topic.qos.offered(),
                        'type_description_hash': definition(topic.type).hash,
                    },
                    'message_count': 60,
                }
                for name, topic in zip(NAMES, topics.PER_STEP)
            ],
            'compression_format': '',
            'compression_mode': '',
            'relative_file_paths': ['bag_0.mcap'],
            'files': [{'path': 'bag_0.mcap', 'starting_time': start, 'duration': duration, 'message_count': 300}],
            'custom_data': {
                'robot': 'sim0',
                'spec_hash': SPEC.hash,
                'spec': SPEC.to_json(),
                'task': 'test',
                'length': '60',
                'return': repr(episode.total_reward),
            },
            'ros_distro': os.environ.get('ROS_DISTRO', 'unknown'),
        }
    }


def test_rosbags_reads_it(tmp_path, episode):
    path = write_episode(tmp_path, 'bag', episode)
    with AnyReader([path]) as reader:
        assert reader.message_count == 300
        found = {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}
        assert found == {name: (topic.type, 60) for name, topic in zip(NAMES, topics.PER_STEP)}
        times = {name: [] for name in NAMES}
        images, rewards = [], []
        for connection, log_time, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            assert stamp_to_ns(message.header.stamp) == log_time
            times[connection.topic].append(log_time)
            if connection.topic == '/sim0/camera/image_raw':
                images.append(np.asarray(message.data).reshape(message.height, message.width, 3))
            if connection.topic == '/sim0/step':
                rewards.append(message.position[0])
    assert all(stamps == episode.stamp.tolist() for stamps in times.values())
    np.testing.assert_array_equal(images, episode.image)
    np.testing.assert_array_equal(np.float32(rewards), episode.reward)
    with Reader(path) as reader:
        assert reader.ros_distro == os.environ.get('ROS_DISTRO', 'unknown')
        assert all(connection.digest.startswith('RIHS01_') for connection in reader.connections)
        for connection, topic in zip(reader.connections, topics.PER_STEP):
            assert connection.ext.offered_qos_profiles[0].depth == topic.qos.depth


def test_mcap_ros2_support_reads_it(tmp_path, episode):
    path = write_episode(tmp_path, 'bag', episode)
    with (path / 'bag_0.mcap').open('rb') as stream:
        reader = make_reader(stream, validate_crcs=True, decoder_factories=[DecoderFactory()])
        summary = reader.get_summary()
        assert reader.get_header().profile == 'ros2'
        assert {chunk.compression for chunk in summary.chunk_indexes} == {'zstd'}
        for channel in summary.channels.values():
            topic = topics.PER_STEP[NAMES.index(channel.topic)]
            assert channel.message_encoding == 'cdr'
            assert channel.metadata == {
                'offered_qos_profiles': topic.qos.offered(),
                'topic_type_hash': definition(topic.type).hash,
            }
            assert summary.schemas[channel.schema_id].encoding == 'ros2msg'
            assert summary.schemas[channel.schema_id].name == topic.type
            assert summary.statistics.channel_message_counts[channel.id] == 60
        decoded = {name: [] for name in NAMES}
        for _, channel, record, message in reader.iter_decoded_messages():
            assert record.log_time == record.publish_time == stamp_to_ns(message.header.stamp)
            decoded[channel.topic].append(message)
    np.testing.assert_array_equal(
        [decode_image(message, 'sensor_msgs/msg/Image') for message in decoded[NAMES[0]]], episode.image
    )
    np.testing.assert_array_equal([read_step(m).is_last for m in decoded[NAMES[3]]], episode.is_last)
    np.testing.assert_array_equal(np.float32([m.axes for m in decoded[NAMES[4]]]), episode.action)


def test_what_travels_over_ros_is_what_the_bag_holds(tmp_path, ros_domain):
    """Raw subscriptions to a bag, without parsing: counts, stamps and pixels."""
    episode = random_episode(np.random.default_rng(3), 25)
    table = {topic.name: topic.within('sim0') for topic in topics.PER_STEP}
    rclpy.init()
    executor = SingleThreadedExecutor()
    try:
        sender, receiver = (rclpy.create_node(name, namespace='sim0') for name in ('sender', 'receiver'))
        executor.add_node(receiver)
        received = []
        publishers = {}
        for _, (topic, message, _) in zip(topics.PER_STEP, messages(episode)):
            qos = QoSProfile(
                depth=topic.qos.depth,
                reliability=(ReliabilityPolicy.RELIABLE if topic.qos.reliable else ReliabilityPolicy.BEST_EFFORT),
                durability=(
                    DurabilityPolicy.TRANSIENT_LOCAL if topic.qos.transient_local else DurabilityPolicy.VOLATILE
                ),
            )
            publishers[topic.name] = sender.create_publisher(type(message), topic.name, qos)
            receiver.create_subscription(
                type(message),
                topic.name,
                lambda cdr, name=topic.name: received.append((name, bytes(cdr))),
                qos,
                raw=True,
            )
        wait_for(executor, lambda: all(p.get_subscription_count() for p in publishers.values()))
        for topic, message, _ in messages(episode):
            publishers[topic.name].publish(message)
        wait_for(executor, lambda: len(received) == 125)
        sender.destroy_node()
        receiver.destroy_node()
    finally:
        executor.shutdown()
        rclpy.try_shutdown()
    writer = EpisodeWriter(tmp_path, 'bag', table.values(), {})
    for k, (name, cdr) in enumerate(received):
        writer.write(table[name].name, cdr, START_NS + k)
    path = writer.close({})
    (found,), problems = read_episodes(path, SPEC)
    assert problems == []
    assert_equal(found, episode)
    assert found.meta['mode'] == 'explore' and found.meta['policy_version'] == '7'
    with AnyReader([path]) as reader:
        decoded = [reader.deserialize(data, connection.msgtype) for connection, _, data in reader.messages()]
    assert len(decoded) == 125


def wait_for(executor, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'nothing came over ROS'
        executor.spin_once(timeout_sec=0.1)


def test_names_sort_by_time():
    utc = datetime.timezone.utc
    early = datetime.datetime(2026, 1, 2, 3, 4, 5, 6000, utc)
    assert episode_name('/sim0', 12, early) == '20260102T030405.006-sim0-000012'
    east = datetime.timezone(datetime.timedelta(hours=5))
    assert episode_name('sim0', 12, early.astimezone(east)) == episode_name('sim0', 12, early)
    assert episode_name('a', 1, early) < episode_name('a', 2, early)


def test_a_name_is_used_once(tmp_path, episode):
    path = write_episode(tmp_path, 'bag', episode)
    before = (path / 'bag_0.mcap').read_bytes()
    with pytest.raises(InputError, match='exists'):
        EpisodeWriter(tmp_path, 'bag', topics.PER_STEP, {})
    assert (path / 'bag_0.mcap').read_bytes() == before


def test_abort_leaves_nothing(tmp_path, episode):
    writer = EpisodeWriter(tmp_path, 'bag', [topic.within('sim0') for topic in topics.PER_STEP], {})
    for row in cdr_messages(episode):
        writer.write(*row)
    assert partial_path(tmp_path, 'bag').is_dir()
    writer.abort()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


# A writer in another process: writes an episode of 400 steps again and again until killed.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from dreamer_ros.wire import topics
from dreamer_ros.episodes.bag_writer import (EpisodeWriter)
from tests.episodes.bags import cdr_messages, random_episode
rows = cdr_messages(random_episode(np.random.default_rng(5), 400))
names = [topic.within('sim0') for topic in topics.PER_STEP]
writer = EpisodeWriter(Path(sys.argv[1]), 'bag', names, {'robot': 'sim0'})
for k, row in enumerate(rows[:-700]):
    writer.write(*row)
print('ready', flush=True)
if sys.argv[2] == 'wait':
    sys.stdin.read()
for row in rows[-700:]:
    writer.write(*row)
writer.close({})
"""


def start_writer(folder: Path, then: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, '-c', WRITER, str(folder), then], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == 'ready'
    return process


def test_kill_9_loses_a_chunk_at_most(tmp_path):
    expected = random_episode(np.random.default_rng(5), 400)
    process = start_writer(tmp_path, 'wait')
    try:
        partial = partial_path(tmp_path, 'bag')
        # While the writer lives, its bag is left alone.
        assert recover(partial) is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
        assert [entry.name for entry in tmp_path.iterdir()] == ['.bag.partial']
        path = recover(partial)
    finally:
        process.kill()
        process.wait(timeout=20)
        process.stdin.close()
        process.stdout.close()
    assert path == tmp_path / 'bag' and [entry.name for entry in tmp_path.iterdir()] == ['bag']
    (found,), problems = read_episodes(path, SPEC)
    # 260 steps were written; a chunk of 256 KiB holds about 200 of these small ones.
    assert 150 < len(found) <= 260
    assert_equal(found, expected, slice(0, len(found)))
    assert not found.complete and not found.is_last.any()
    assert 'recovered from damage: it breaks off at byte' in problems[0].reason
    assert all('without' in problem.reason for problem in problems[1:])
    assert found.meta['robot'] == 'sim0' and found.meta['recovered'] == 'true'
    assert abs(int(found.meta['length']) - len(found)) <= 1
    with AnyReader([path]) as reader:
        assert sum(1 for _ in reader.messages()) == reader.message_count


def test_a_stopped_recovery_can_be_run_again(tmp_path):
    process = start_writer(tmp_path, 'wait')
    process.kill()
    process.wait(timeout=20)
    process.stdin.close()
    process.stdout.close()
    partial = partial_path(tmp_path, 'bag')
    (partial / '.recovering').write_bytes(b'half of a file')
    (partial / '.metadata.yaml.partial').write_text('rosbag2_bag')
    path = recover(partial)
    (found,), _ = read_episodes(path, SPEC)
    assert len(found) > 150
    assert sorted(file.name for file in path.iterdir() if not file.name.startswith('.')) == [
        'bag_0.mcap',
        'metadata.yaml',
    ]


def test_recover_writes_missing_metadata(tmp_path, episode):
    path = write_episode(tmp_path, 'bag', episode)
    (path / 'metadata.yaml').unlink()
    assert recover(path) == path
    (found,), problems = read_episodes(path, SPEC)
    assert_equal(found, episode)
    assert problems == []
    with AnyReader([path]) as reader:
        assert reader.message_count == 300


@pytest.mark.parametrize('content', [None, b'', b'\x89MCAP0\r\n'])
def test_nothing_to_recover_is_said(tmp_path, content):
    partial = partial_path(tmp_path, 'bag')
    partial.mkdir()
    if content is not None:
        (partial / 'bag_0.mcap').write_bytes(content)
    with pytest.raises(InputError, match='no complete chunk'):
        recover(partial)
    assert partial.is_dir()


# A real refusal of the operating system: files may not grow beyond a limit.
FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from dreamer_ros.wire import topics
from dreamer_ros.errors import InputError
from dreamer_ros.episodes.bag_writer import (EpisodeWriter)
from tests.episodes.bags import cdr_messages, random_episode, write_episode
folder = Path(sys.argv[1])
write_episode(folder, 'earlier', random_episode(np.random.default_rng(1), 20))
rows = cdr_messages(random_episode(np.random.default_rng(5), 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
writer = EpisodeWriter(folder, 'later', [t.within('sim0') for t in topics.PER_STEP], {})
try:
    for row in rows:
        writer.write(*row)
    writer.close({})
except InputError as error:
    print(error)
for more in (lambda: writer.write(*rows[-1]), lambda: writer.close({})):  # a recorder may not know it yet
    try:
        more()
    except InputError as error:
        print(error)
writer.abort()
"""


def test_full_disk_is_one_sentence_and_keeps_what_is_whole(tmp_path):
    result = subprocess.run(
        [sys.executable, '-c', FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.count('later: writing failed (File too large)') == 3 and result.stderr == ''
    (earlier,), problems = read_episodes(tmp_path / 'earlier', SPEC)
    assert problems == [] and earlier.complete
    path = recover(partial_path(tmp_path, 'later'))
    (found,), _ = read_episodes(path, SPEC)
    assert_equal(found, random_episode(np.random.default_rng(5), 1000), slice(0, len(found)))
    assert len(found) > 150


def test_names_with_dots(tmp_path):
    folder = tmp_path / '20261120T192539.546-rover-000000'
    folder.mkdir()
    assert bag_name(folder) == folder.name
    assert bag_name(tmp_path / 'a.5-b_0.mcap') == bag_name(tmp_path / 'a.5-b_0.db3.zstd') == 'a.5-b_0'
