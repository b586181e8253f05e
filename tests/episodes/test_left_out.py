"""Bags of other tools, with more in them than is used, less than they say, or something else: all of it is told."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from dreamer_ros.episodes.bag_reader import Bag, read_metadata
from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.recovery import recover_all
from dreamer_ros.wire import topics
from dreamer_ros.wire.definitions import blank_message, decode, definition, encode
from tests.episodes.bags import PERIOD_NS, SPEC, START_NS, assert_equal, cdr_messages, random_episode, write_raw
from tests.episodes.robot_bags import REWARDED, contract, write_robot_bag
from tests.episodes.test_robot_bag import teleoperated

TYPES = {topic.within('sim0').name: topic.type for topic in topics.PER_STEP}
TF = 'tf2_msgs/msg/TFMessage'


def reasons(problems):
    return ' | '.join(problem.reason for problem in problems)


def write_mcap(path, rows, options=None, definitions='ros2msg', others=0):
    """By the mcap library, with some messages on channels that are not CDR, or have no type."""
    with path.open('wb') as stream:
        writer = Writer(stream, **(options or {}))
        writer.start(profile='ros2', library='another')
        channels = {
            name: writer.register_channel(
                name, 'cdr', writer.register_schema(kind, definitions, definition(kind).text.encode())
            )
            for name, kind in TYPES.items()
        }
        strange = [
            writer.register_channel('/json', 'json', writer.register_schema('Any', 'jsonschema', b'{}')),
            writer.register_channel('/untyped', 'cdr', 0),
        ]
        for name, cdr, stamp in rows:
            writer.add_message(channels[name], stamp, cdr, stamp)
        for k in range(others):
            for channel in strange:
                writer.add_message(channel, START_NS + k, b'{}', START_NS + k)
        writer.finish()
    return path


def add_beside(path, metadata, attachment):
    """Write a file again with a metadata record and an attachment more."""
    with path.open('rb') as source:
        reader = make_reader(source)
        found = list(reader.iter_messages(log_time_order=False))
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start(profile='ros2', library='another')
        writer.add_metadata('notes', metadata)
        numbers = {}
        for schema, channel, message in found:
            if channel.topic not in numbers:
                kind = writer.register_schema(schema.name, schema.encoding, schema.data)
                numbers[channel.topic] = writer.register_channel(channel.topic, channel.message_encoding, kind)
            writer.add_message(numbers[channel.topic], message.log_time, message.data, message.publish_time)
        writer.add_attachment(START_NS - 7, START_NS, 'calibration.yaml', 'text/yaml', attachment)
        writer.finish()


@pytest.mark.parametrize('definitions', ['ros2msg', 'ros2idl', ''])
@pytest.mark.parametrize(
    'options',
    [{'chunk_size': 300}, {'use_chunking': False}, {'compression': CompressionType.LZ4}],
    ids=['small chunks', 'no chunks', 'lz4'],
)
def test_files_of_another_writer(tmp_path, rng, options, definitions):
    episode = random_episode(rng, 10)
    path = write_mcap(tmp_path / 'bag.mcap', cdr_messages(episode), options, definitions)
    [found], problems = read_episodes(path, SPEC)
    assert_equal(found, episode)
    assert problems == []


def test_messages_that_are_not_ros(tmp_path, rng):
    """They are counted, do not make a bag damaged, and survive a recovery."""
    episode = random_episode(rng, 10)
    folder = tmp_path / 'bag'
    folder.mkdir()
    write_mcap(folder / 'bag_0.mcap', cdr_messages(episode), others=3)
    left_out = 'left out, not CDR of a known type: 3 on /json, 3 on /untyped, between 1800000000.123 and 1800000000.123'
    for missing in ('metadata.yaml is missing', ''):
        [found], problems = read_episodes(folder, SPEC)
        assert_equal(found, episode)
        assert reasons(problems) == ' | '.join(filter(None, [missing, left_out]))
        [(_, sentence, sound)] = recover_all(folder)
        assert sound and ('56 messages recovered' if missing else 'is whole, 56 messages') in sentence
    bag = Bag(folder)
    assert len(bag.messages) == 50 and [bytes(message.data) for message in bag.others] == [b'{}'] * 6


@pytest.mark.parametrize('damaged', [False, True])
def test_what_is_beside_the_messages_survives_a_recovery(tmp_path, rng, damaged):
    folder = tmp_path / 'bag'
    folder.mkdir()
    rows, notes = cdr_messages(random_episode(rng, 10)), {'date': '2026-01-31', 'by': 'hand'}
    for number in range(2):  # both files of the bag tell of the calibration
        path = write_mcap(folder / f'bag_{number}.mcap', rows[25 * number : 25 * (number + 1)])
        add_beside(path, notes, b'K: [1, 2, 3]')
    if damaged:
        path.write_bytes(path.read_bytes().replace(b'K: [1, 2, 3]', b'K: [1, 2, 4]'))
    for _ in range(2):  # and the second time
        (folder / 'metadata.yaml').unlink(missing_ok=True)
        [(_, sentence, sound)] = recover_all(folder)
        assert sound and sentence.startswith('50 messages recovered'), sentence
        with (folder / 'bag_0.mcap').open('rb') as stream:
            reader = make_reader(stream, validate_crcs=True)
            assert [dict(found.metadata) for found in reader.iter_metadata() if found.name == 'notes'] == [notes]
            [found] = reader.iter_attachments()
        assert (found.name, found.media_type, found.log_time, found.create_time, found.data) == (
            'calibration.yaml',
            'text/yaml',
            START_NS,
            START_NS - 7,
            b'K: [1, 2, 3]',
        )
        assert ('calibration.yaml is damaged' in read_metadata(folder)['custom_data'].get('damage', '')) == damaged


@pytest.mark.parametrize(
    'lie, complaint',
    [
        ({'relative_file_paths': 5}, 'metadata.yaml does not describe a bag'),
        ({'relative_file_paths': ['elsewhere.mcap']}, 'elsewhere.mcap is missing'),
        ({'message_count': 3}, '50 messages are in it, but metadata.yaml tells of 3'),
        ({'message_count': 60}, '50 of 60 messages are whole'),
        ({'compression_mode': 'MESSAGE', 'compression_format': 'zstd'}, ''),
        ({'storage_identifier': 'sqlite3', 'version': 99, 'duration': None}, ''),
    ],
)
def test_metadata_that_lies(tmp_path, rng, lie, complaint):
    episode = random_episode(rng, 10)
    path = write_raw(tmp_path, 'bag', cdr_messages(episode))
    content = yaml.safe_load((path / 'metadata.yaml').read_text())
    content['rosbag2_bagfile_information'].update(lie)
    (path / 'metadata.yaml').write_text(yaml.safe_dump(content))
    [found], problems = read_episodes(path, SPEC)
    assert_equal(found, episode)
    assert reasons(problems) == complaint


def test_other_topics_and_robots(tmp_path, rng):
    """`ros2 bag record -a` takes more than one robot has to say."""
    names = [topic.within(robot) for robot in ('sim0', 'sim1') for topic in topics.PER_STEP]
    names.append(topics.Topic('/tf', TF, topics.SENSOR))
    episode, other = random_episode(rng, 10), random_episode(rng, 4)
    writer = EpisodeWriter(tmp_path, 'bag', names, {})
    for row in cdr_messages(episode) + [row for row in cdr_messages(other, 'sim1') if not row[0].endswith('/step')]:
        writer.write(*row)
    writer.write('/tf', encode(blank_message(TF), TF), START_NS)
    [found], problems = read_episodes(writer.close({}), SPEC)
    assert_equal(found, episode)
    ends = [stamp / 1e9 for stamp in (START_NS, START_NS + 3 * PERIOD_NS)]
    assert [problem.reason for problem in problems] == [
        'left out, of robots without step: 4 on /sim1/action, 4 on /sim1/camera/image_raw, 4 on /sim1/joint_states, '
        f'between {ends[0]:.3f} '
        f'and {ends[1]:.3f}',
        f'left out, not of this robot: 4 on /sim1/camera/camera_info, 1 on /tf, between {ends[0]:.3f} '
        f'and {ends[1]:.3f}',
    ]


def test_every_message_of_a_shared_stamp_is_counted(tmp_path, rng):
    first, second = random_episode(rng, 10), random_episode(rng, 10, START_NS + 9 * PERIOD_NS)
    found, problems = read_episodes(write_raw(tmp_path, 'bag', cdr_messages(first) + cdr_messages(second)), SPEC)
    assert [len(episode) for episode in found] == [9, 9]
    topics_ = ('camera/image_raw', 'joint_states', 'step', 'action')
    counts = ', '.join(f'1 on /sim0/{topic}' for topic in topics_)
    assert f'messages that have the stamp of another one: {counts}' in reasons(problems)


def test_joint_states_of_no_step(tmp_path, rng):
    shifted = [
        (name, cdr[:8] + bytes([cdr[8] ^ 1]) + cdr[9:] if name.endswith('joint_states') else cdr, stamp)
        for name, cdr, stamp in cdr_messages(random_episode(rng, 10))
    ]
    found, problems = read_episodes(write_raw(tmp_path, 'bag', shifted), SPEC)
    assert not found and '10 joint states belong to no observation' in reasons(problems)


@pytest.mark.parametrize('encoding', ['bgr8', 'rgba8', 'bgra8', '8UC2'])
def test_images_in_other_encodings_with_padded_rows(tmp_path, rng, encoding):
    episode = random_episode(rng, 5)
    order = {'bgr8': [2, 1, 0], 'rgba8': [0, 1, 2, 0], 'bgra8': [2, 1, 0, 0], '8UC2': [0, 1]}[encoding]
    rows = []
    for name, cdr, stamp in cdr_messages(episode):
        if name.endswith('image_raw'):
            message = decode(cdr, TYPES[name])
            pixels = message.data.reshape(16, 12, 3)[..., order].reshape(16, -1)
            padded = np.pad(pixels, [(0, 0), (0, 7)], constant_values=99)
            message.encoding, message.step, message.data = encoding, padded.shape[1], padded.ravel()
            cdr = encode(message, TYPES[name])
        rows.append((name, cdr, stamp))
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    if encoding == '8UC2':
        assert not found and '5 with an image of the encoding 8UC2' in reasons(problems)
    else:
        assert_equal(found[0], episode)


def test_an_end_that_goes_on(tmp_path, rng):
    episode = random_episode(rng, 20)
    episode.is_terminal[5] = True
    found, problems = read_episodes(write_raw(tmp_path, 'bag', cdr_messages(episode)), SPEC)
    assert [len(part) for part in found] == [5, 14]
    assert '1 that are terminal but not the last' in reasons(problems)


def test_one_robot_of_a_bag_is_of_no_use(tmp_path, rng):
    """A second camera, say, in a namespace of its own, whose robot nobody commands."""
    robot = contract(REWARDED)
    rows = teleoperated(rng)[2]
    names = [topic.within('robot') for topic in (*robot.topics, *robot.command_topics)]
    camera = robot.topics[0]
    names += [camera.within('other'), topics.Topic('/tf', TF, topics.SENSOR)]
    writer = EpisodeWriter(tmp_path, 'bag', names, {})
    for name, cdr, stamp in sorted(rows, key=lambda row: row[2]):
        writer.write(f'/robot/{name}', cdr, stamp)
        if name == camera.name:
            writer.write(f'/other/{name}', cdr, stamp)
    writer.write('/tf', encode(blank_message(TF), TF), START_NS)
    [episode], problems = read_episodes(writer.close({}), robot.spec, robot)
    assert len(episode) > 30
    assert 'robot /other/: no messages on cmd_vel are in it' in reasons(problems)
    assert 'left out, not of this robot: 1 on /tf, at 1800000000.123' in reasons(problems)


def test_images_without_a_stamp(tmp_path, rng):
    robot = contract(REWARDED)
    rows = [
        (name, cdr[:4] + bytes(8) + cdr[12:] if name == 'camera/image_raw' else cdr, stamp)
        for name, cdr, stamp in teleoperated(rng)[2]
    ]
    path = write_robot_bag(tmp_path, 'bag', rows)
    found, problems = read_episodes(path, robot.spec, robot)
    assert not found
    assert '120 messages on /robot/camera/image_raw hold no stamp; with `stamps: receive`' in reasons(problems)
    robot = contract(REWARDED + 'stamps: receive\n')
    [episode], problems = read_episodes(path, robot.spec, robot)
    assert len(episode) > 30


def test_commands_beyond_the_limits(tmp_path, rng):
    robot = contract(REWARDED)
    path = write_robot_bag(tmp_path, 'bag', teleoperated(rng)[2])
    narrow = contract(REWARDED.replace('limits: [-2, 2]', 'limits: [-1, 1]'))
    [episode], problems = read_episodes(path, robot.spec, robot)
    beyond = (np.abs(episode.action[:, 0]) > 0.5).sum()
    assert 'at the limits' not in reasons(problems) and beyond > 5
    _, problems = read_episodes(path, narrow.spec, narrow)
    assert f'{beyond} actions are at the limits of tiny.yaml' in reasons(problems)
