"""From messages to episodes: what is used, what is dropped and why, and what damage can do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.definitions import typestore
from tests.episodes.bags import (
    BLIND,
    PERIOD_NS,
    SPEC,
    START_NS,
    TWO_CAMERAS,
    assert_equal,
    cdr_messages,
    messages,
    random_episode,
    to_cdr,
    write_episode,
    write_raw,
)

IMAGE, INFO, JOINTS, STEP, ACTION = range(5)


def reasons(problems):
    return ' | '.join(problem.reason for problem in problems)


def without(rows, *dropped):
    """Rows but those given as (step, topic number)."""
    return [row for k, row in enumerate(rows) if divmod(k, 5) not in dropped]


def test_round_trip_is_exact(tmp_path, rng):
    episode = random_episode(rng, 30)
    path = write_episode(tmp_path, 'bag', episode, {'policy_version': '41'})
    (found,), problems = read_episodes(path, SPEC)
    assert problems == [] and found.complete and found.path == path
    assert_equal(found, episode)
    assert found.meta['policy_version'] == '41' and found.meta['mode'] == 'explore'
    (alone,), problems = read_episodes(path / 'bag_0.mcap', SPEC)
    assert problems == []
    assert_equal(alone, episode)


@pytest.mark.parametrize('spec', [TWO_CAMERAS, BLIND], ids=['two cameras', 'no camera'])
def test_round_trip_of_other_senses(tmp_path, rng, spec):
    episode = random_episode(rng, 12, spec=spec)
    path = write_episode(tmp_path, 'bag', episode, spec=spec)
    (found,), problems = read_episodes(path, spec)
    assert problems == [] and found.image.shape == (12, *spec.image_shape)
    assert_equal(found, episode)
    # what others read in it
    with Reader(path) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        frames = {name: [] for name in counts if name.endswith('image_raw')}
        for connection, _, data in reader.messages():
            if connection.topic in frames:
                message = typestore().deserialize_cdr(data, connection.msgtype)
                frames[connection.topic].append(message.data.reshape(*spec.image_size, 3))
    assert counts == {topic.within('sim0').name: 12 for topic in topics.per_step(spec.cameras)}
    assert list(frames) == [f'/sim0/{camera}/image_raw' for camera in spec.cameras]
    for number, images in enumerate(frames.values()):
        assert np.array_equal(images, episode.image[..., 3 * number : 3 * number + 3])


def test_a_step_without_the_image_of_every_camera_is_dropped(tmp_path, rng):
    episode = random_episode(rng, 10, spec=TWO_CAMERAS)
    rows = cdr_messages(episode, spec=TWO_CAMERAS)
    wrist = [k for k, row in enumerate(rows) if row[0].endswith('wrist/image_raw')]
    del rows[wrist[4]]
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows, spec=TWO_CAMERAS), TWO_CAMERAS)
    assert [len(part) for part in found] == [4, 5]
    assert reasons(problems).startswith('1 of 10 steps dropped: 1 without an image of wrist')


def test_messages_in_any_order_and_twice(tmp_path, rng):
    episode = random_episode(rng, 30)
    rows = cdr_messages(episode)
    rows = [rows[k] for k in rng.permutation(len(rows))] + rows[:50]
    (found,), problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert problems == []
    assert_equal(found, episode)


def test_many_episodes_and_robots_in_one_bag(tmp_path, rng):
    # The second begins after a step of its own; the third is cut, and a fourth follows it at once.
    starts = START_NS + PERIOD_NS * np.array([0, 10, 18, 25])
    episodes = [
        random_episode(rng, length, int(start), last)
        for length, start, last in zip((10, 8, 7, 5), starts, (True, True, False, True))
    ]
    rows = [row for episode in episodes for row in cdr_messages(episode)]
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert problems == [] and len(found) == 4
    for one, other in zip(found, episodes):
        assert_equal(one, other)

    other = random_episode(rng, 6, START_NS + 1)
    writer_rows = cdr_messages(episodes[0], 'sim0') + cdr_messages(other, 'sim1')
    path = tmp_path / 'two'
    names = [topic.within(robot) for robot in ('sim0', 'sim1') for topic in topics.PER_STEP]
    writer = EpisodeWriter(tmp_path, 'two', names, {})
    for row in writer_rows:
        writer.write(*row)
    writer.close({})
    found, problems = read_episodes(path, SPEC)
    assert problems == [] and len(found) == 2
    assert_equal(found[0], episodes[0])
    assert_equal(found[1], other)


@pytest.mark.parametrize(
    'topic, reason',
    [
        (IMAGE, '1 without an image'),
        (STEP, '1 without step scalars'),
        (ACTION, '1 without an action'),
        (JOINTS, '1 without joint states'),
    ],
)
def test_incomplete_step_is_dropped_and_splits(tmp_path, rng, topic, reason):
    episode = random_episode(rng, 20)
    rows = without(cdr_messages(episode), (7, topic))
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert [len(part) for part in found] == [7, 12]
    assert_equal(found[0], episode, slice(0, 7))
    assert_equal(found[1], episode, slice(8, 20))
    assert reasons(problems) == f'1 of 20 steps dropped: {reason} at {(START_NS + 7 * PERIOD_NS) / 1e9:.3f}'
    assert problems[0].steps == 1


def test_missing_moment_splits(tmp_path, rng):
    episode = random_episode(rng, 20)
    rows = without(cdr_messages(episode), *((k, topic) for k in (7, 8) for topic in range(5)))
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert [len(part) for part in found] == [7, 11]
    assert 'split at 1 gaps' in reasons(problems)


def test_message_that_is_cut_costs_its_step_only(tmp_path, rng):
    episode = random_episode(rng, 20)
    rows = cdr_messages(episode)
    for k, size in ((7 * 5 + STEP, 6), (12 * 5 + IMAGE, 100)):
        name, cdr, stamp = rows[k]
        rows[k] = (name, cdr[:size], stamp)
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert [len(part) for part in found] == [7, 4, 7]
    assert '1 messages on /sim0/step are too short' in reasons(problems)
    assert '1 without step scalars' in reasons(problems) and '1 with a bad image' in reasons(problems)


def test_last_step_needs_no_action(tmp_path, rng):
    episode = random_episode(rng, 20)
    rows = without(cdr_messages(episode), (19, ACTION))
    (found,), problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert problems == [] and found.complete
    assert found.action[-1].tolist() == [0.0, 0.0]


def test_last_step_of_a_cut_episode_without_its_action(tmp_path, rng):
    episode = random_episode(rng, 20, last=False)
    rows = without(cdr_messages(episode), (19, ACTION))
    (found,), problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert_equal(found, episode, slice(0, 19))
    assert '1 without an action' in reasons(problems) and not found.complete


def test_stray_actions_are_told(tmp_path, rng):
    episode = random_episode(rng, 20)
    dropped = [(k, topic) for k in (0, 1) for topic in (IMAGE, INFO, JOINTS, STEP)]
    rows = without(cdr_messages(episode), *dropped)
    (found,), problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert len(found) == 18 and '2 actions answer no observation' in reasons(problems)


@pytest.mark.parametrize(
    'key, value, reason',
    [
        ('action', np.nan, '1 with a bad action'),
        ('reward', np.inf, '1 with bad step scalars'),
        ('vector', np.nan, '1 with bad joint states'),
    ],
)
def test_values_that_are_not_finite_are_dropped(tmp_path, rng, key, value, reason):
    episode = random_episode(rng, 20)
    getattr(episode, key)[5] = value
    found, problems = read_episodes(write_episode(tmp_path, 'bag', episode), SPEC)
    assert [len(part) for part in found] == [5, 14]
    assert reason in reasons(problems)


@pytest.mark.parametrize(
    'change, complaint',
    [
        ({'image_size': (12, 16)}, 'image_size is [16, 12] instead of [12, 16]'),
        ({'control_period': 0.04}, 'control_period is 0.08 instead of 0.04'),
    ],
)
def test_bag_of_another_robot_is_refused(tmp_path, rng, change, complaint):
    spec = dataclasses.replace(SPEC, **change)
    found, (problem,) = read_episodes(write_episode(tmp_path, 'bag', random_episode(rng, 5)), spec)
    assert found == [] and 'another robot' in problem.reason and complaint in problem.reason


@pytest.mark.parametrize(
    'change, complaint',
    [
        ({'image_size': (12, 16)}, 'image: expected 16x12, got 12x16'),
        ({'action': ('m',), 'action_low': (-1.0,), 'action_high': (1.0,)}, 'action: expected 1 axes, got 2'),
    ],
)
def test_bag_that_says_nothing_of_its_robot_is_judged_by_its_messages(tmp_path, rng, change, complaint):
    spec = dataclasses.replace(SPEC, **change)
    path = write_episode(tmp_path, 'bag', random_episode(rng, 5), {'spec_hash': spec.hash})
    found, (problem,) = read_episodes(path, spec)
    assert found == [] and complaint in problem.reason


def test_bag_without_our_topics_is_refused(tmp_path, rng):
    writer_rows = cdr_messages(random_episode(rng, 5))[0::5]
    found, (problem,) = read_episodes(write_raw(tmp_path, 'bag', writer_rows), SPEC)
    assert found == [] and 'step' in problem.reason and '/sim0/camera/image_raw' in problem.reason


def test_foreign_sqlite3_bag(tmp_path, rng):
    """What `ros2 bag record -s sqlite3` leaves, as written by rosbags."""
    episode = random_episode(rng, 20)
    with Writer(tmp_path / 'foreign', version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {
            topic.within('robot').name: writer.add_connection(
                topic.within('robot').name, topic.type, typestore=typestore()
            )
            for topic in topics.PER_STEP
        }
        for name, cdr, stamp in cdr_messages(episode, 'robot'):
            writer.write(connections[name], stamp, cdr)
    (found,), problems = read_episodes(tmp_path / 'foreign', SPEC)
    assert problems == []
    assert_equal(found, episode)


def test_bags_that_hold_nothing(tmp_path):
    for name in ('empty', 'hollow', 'lies'):
        (tmp_path / name).mkdir()
    (tmp_path / 'hollow' / 'hollow_0.mcap').touch()
    (tmp_path / 'lies' / 'metadata.yaml').write_text('[1, 2')
    for name, complaint in (
        ('empty', 'metadata.yaml is missing | no MCAP file'),
        ('hollow', 'breaks off at byte 0 of 0'),
        ('lies', 'metadata.yaml is damaged'),
        ('never', 'No such file or directory'),
    ):
        found, problems = read_episodes(tmp_path / name, SPEC)
        assert found == [] and complaint in reasons(problems), name


def rows_of(found, episode):
    """Which steps of the original were found; asserts that each is bit for bit the original."""
    places = {stamp: k for k, stamp in enumerate(episode.stamp.tolist())}
    rows = []
    for part in found:
        places_of_part = [places[stamp] for stamp in part.stamp.tolist()]
        # Neighbours were neighbours.
        assert np.diff(places_of_part).tolist() == [1] * (len(part) - 1)
        assert_equal(part, episode, slice(places_of_part[0], places_of_part[-1] + 1))
        rows += places_of_part
    assert len(set(rows)) == len(rows)
    return rows


@pytest.fixture(scope='module')
def long_bag(tmp_path_factory):
    """A bag of several chunks, and its episode."""
    episode = random_episode(np.random.default_rng(9), 600)
    return write_episode(tmp_path_factory.mktemp('long'), 'bag', episode), episode


def test_truncated_anywhere(long_bag, tmp_path, rng):
    path, episode = long_bag
    data = (path / 'bag_0.mcap').read_bytes()
    target = tmp_path / 'bag'
    target.mkdir()
    (target / 'metadata.yaml').write_bytes((path / 'metadata.yaml').read_bytes())
    kept = []
    sizes = [*rng.integers(0, len(data), 25), 0, 8, len(data) - 1]
    for size in sorted(sizes):
        (target / 'bag_0.mcap').write_bytes(data[:size])
        found, problems = read_episodes(target, SPEC)
        assert problems, size
        rows = rows_of(found, episode)
        assert rows == list(range(len(rows)))
        kept.append(len(rows))
    # Longer files hold more, and with only the end of the file missing nothing is lost.
    assert kept == sorted(kept) and kept[0] == 0 and kept[-1] == 600
    assert len(set(kept)) > 2


def test_flipped_bits(long_bag, tmp_path, rng):
    """Wrong data never passes for right: what is found is bit for bit what was recorded."""
    path, episode = long_bag
    target = tmp_path / 'bag'
    target.mkdir()
    originals = {name: (path / name).read_bytes() for name in ('bag_0.mcap', 'metadata.yaml')}
    survivors = []
    for trial in range(40):
        for name, data in originals.items():
            data = bytearray(data)
            # One trial in eight damages metadata.yaml; the first ones the head of the file.
            if (name == 'metadata.yaml') == (trial % 8 == 7):
                place = int(rng.integers(0, 400 if trial < 8 else len(data)))
                data[place] ^= 1 << int(rng.integers(8))
            (target / name).write_bytes(data)
        found, _ = read_episodes(target, SPEC)
        survivors.append(len(rows_of(found, episode)))
    assert max(survivors) == 600
    # One damaged chunk does not take the others with it.
    assert any(0 < count < 600 for count in survivors)


def test_damaged_chunk_in_the_middle_is_told(long_bag, tmp_path):
    path, episode = long_bag
    target = tmp_path / 'bag'
    target.mkdir()
    data = bytearray((path / 'bag_0.mcap').read_bytes())
    data[len(data) // 2] ^= 0xFF
    (target / 'bag_0.mcap').write_bytes(data)
    (target / 'metadata.yaml').write_bytes((path / 'metadata.yaml').read_bytes())
    found, problems = read_episodes(target, SPEC)
    rows = rows_of(found, episode)
    assert rows[0] == 0 and rows[-1] == 599 and len(found) >= 2
    assert 'damaged' in reasons(problems) and 'messages are whole' in reasons(problems)


def test_mode_comes_from_the_actions_if_nothing_else_says_it(tmp_path, rng):
    rows = [
        (topic.within('sim0').name, to_cdr(message, topic.type), stamp)
        for topic, message, stamp in messages(random_episode(rng, 4), codecs.Mode('random'))
    ]
    (found,), _ = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert found.meta['mode'] == 'random' and 'policy_version' not in found.meta
