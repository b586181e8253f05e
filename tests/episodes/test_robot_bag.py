"""A robot's own topics to episodes: exactly what its agent saw, and what can be made of a bag without an agent."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.bag_reader import open_bag
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.inspect import describe
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.episodes.recovery import recover
from dreamer_ros.errors import InputError
from dreamer_ros.formats.importing import import_source
from dreamer_ros.robot.commands import Commands
from dreamer_ros.wire import codecs
from dreamer_ros.wire.definitions import typestore
from tests.episodes.robot_bags import (
    PERIOD,
    REWARDED,
    START,
    TINY,
    action_cdr,
    contract,
    observations,
    played,
    sensors,
    write_robot_bag,
)

SPEC = contract().spec


def reasons(problems):
    return ' | '.join(problem.reason for problem in problems)


def test_what_the_agent_saw_and_did_comes_out_exactly(tmp_path, rng):
    agent = played(rng, sensors(rng, 4.0), 30)
    path = write_robot_bag(tmp_path, 'bag', agent.rows, contract())
    [episode], problems = read_episodes(path, SPEC)
    assert not problems and episode.complete
    assert episode.stamp.tolist() == agent.stamps
    np.testing.assert_array_equal(episode.image, agent.images)
    np.testing.assert_array_equal(episode.vector, np.float32(agent.vectors))
    np.testing.assert_array_equal(episode.action, agent.actions)
    np.testing.assert_array_equal(episode.reward, np.float32(agent.rewards))
    assert episode.meta['mode'] == 'explore' and episode.meta['policy_version'] == '3'


def test_a_message_that_the_agent_used_is_missing(tmp_path, rng):
    sent = sensors(rng, 4.0)
    agent = played(rng, sent, 30)
    used = agent.images[7]
    [gone] = [entry.cdr for entry in sent['camera/image_raw'] if entry.value is used]
    rows = [row for row in agent.rows if row[1] != gone]
    found, problems = read_episodes(write_robot_bag(tmp_path, 'bag', rows, contract()), SPEC)
    dropped = [k for k, image in enumerate(agent.images) if image is used]
    assert [stamp for part in found for stamp in part.stamp.tolist()] == [
        stamp for k, stamp in enumerate(agent.stamps) if k not in dropped
    ]
    assert f'{len(dropped)} without the message on camera/image_raw that the agent used' in reasons(problems)


@pytest.mark.parametrize('embedded', [True, False])
def test_what_the_agent_published_counts_whatever_else_was_lost(tmp_path, rng, embedded):
    """All topics were recorded, by our recorder or by somebody else's, and many images were lost."""
    agent = played(rng, sensors(rng, 4.0), 30)
    rows = [row for row in agent.rows if row[0] != 'camera/image_raw' or rng.random() < 0.3] + observations(agent)
    path = write_robot_bag(tmp_path, 'monday', rows, contract() if embedded else None)
    [episode], problems = read_episodes(path, SPEC, contract())
    assert episode.complete and 'left out, not of this robot' in reasons(problems)
    for name in ('stamp', 'image', 'vector', 'action', 'reward'):
        expected = np.asarray(getattr(agent, f'{name}s'))
        np.testing.assert_array_equal(getattr(episode, name), expected.astype(getattr(episode, name).dtype))
    labels = Labels('episodes: [{start: 0, end: 2, reward: 2, terminal: true}]', 'labels.yaml')
    imported = import_source(path, tmp_path / 'to', contract(), labels)
    [part], problems = read_episodes(imported.bags[0], SPEC)
    assert not problems and part.is_terminal[-1] and part.reward.tolist() == [0.0] * (len(part) - 1) + [2.0]
    np.testing.assert_array_equal(part.image, agent.images[: len(part)])
    assert 10 < len(part) < 30 and open_bag(imported.bags[0]).contract.name == 'tiny'


def test_a_damaged_contract_or_another_robot_is_refused(tmp_path, rng):
    rows = played(rng, sensors(rng, 4.0), 30).rows
    path = write_robot_bag(tmp_path, 'bag', rows, contract())
    metadata = path / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('limits: [-2, 2]', 'limits: [-2, 3]'))
    episodes, problems = read_episodes(path, SPEC)
    assert not episodes and 'contract in it is damaged' in reasons(problems)
    other = dataclasses.replace(SPEC, image_size=(12, 8))
    episodes, problems = read_episodes(write_robot_bag(tmp_path, 'other', rows, contract()), other)
    assert not episodes and 'image_size' in reasons(problems)


def teleoperated(rng, seconds=4.0):
    """Messages without an agent's: commands at 20 Hz; and the values that were commanded, by stamp."""
    sent = sensors(rng, seconds)
    commands = Commands(contract())
    values = {}
    rows = [(topic, entry.cdr, entry.stamp) for topic in sent for entry in sent[topic]]
    for k in range(int(seconds * 20)):
        stamp = START + k * 50_000_000 + 13
        values[stamp] = np.array([rng.uniform(-2, 2), rng.uniform(-1, 3)])
        rows.append(('cmd_vel', *commands.encode(values[stamp], stamp), stamp))
    return sent, values, rows


def expected_at(entries, stamp):
    return max((entry for entry in entries if entry.stamp <= stamp), key=lambda entry: entry.stamp).value


@pytest.mark.parametrize('storage', ['ours', 'sqlite3', 'mcap', 'sqlite3 compressed', 'mcap messages compressed'])
def test_a_teleoperated_robot(tmp_path, rng, storage):
    sent, values, rows = teleoperated(rng)
    if storage == 'ours':
        path = write_robot_bag(tmp_path, 'bag', rows)
    else:
        path = write_foreign(tmp_path / 'bag', rows, storage)
    robot = contract(REWARDED)
    [episode], problems = read_episodes(path, robot.spec, robot)
    limits = np.array([[-2, 2], [-1, 3]])
    steps = np.diff(episode.stamp)
    assert (steps == PERIOD).all() and len(episode) >= 35
    for k, stamp in enumerate(episode.stamp.tolist()):
        np.testing.assert_array_equal(episode.image[k], expected_at(sent['camera/image_raw'], stamp))
        wheel, distance = (expected_at(sent[topic], stamp) for topic in ('joint_states', 'range'))
        np.testing.assert_array_equal(episode.vector[k], np.float32([wheel, distance]))
        assert k == 0 or episode.reward[k] == np.float32(distance)
        value = values[max(time for time in values if time < stamp + PERIOD)]
        normalised = (value - limits[:, 0]) / (limits[:, 1] - limits[:, 0]) * 2 - 1
        np.testing.assert_allclose(episode.action[k], normalised, atol=1e-6)
    assert episode.is_first.tolist() == [True] + [False] * (len(episode) - 1) and not episode.is_last.any()
    assert episode.meta['mode'] == 'human'
    # Whatever came before every topic had begun is told.
    assert len(problems) <= 1 and all('without a message' in problem.reason for problem in problems)
    [blind], problems = read_episodes(path, SPEC, contract())
    assert 'all rewards are 0' in reasons(problems) and not blind.reward.any()


def write_foreign(path, rows, storage):
    """As `ros2 bag record` would, by the writer of rosbags."""
    store, tiny = typestore(), contract()
    plugin = StoragePlugin.SQLITE3 if storage.startswith('sqlite3') else StoragePlugin.MCAP
    writer = Writer(path, version=9, storage_plugin=plugin)
    if 'compressed' in storage:
        mode = CompressionMode.MESSAGE if 'messages' in storage else CompressionMode.FILE
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic.name: writer.add_connection(f'/robot/{topic.name}', topic.type, typestore=store)
            for topic in (*tiny.topics, *tiny.command_topics)
        }
        for topic, cdr, stamp in sorted(rows, key=lambda row: row[2]):
            writer.write(connections[topic], stamp, cdr)
    return path


def test_commands_that_cease_are_the_stop(tmp_path, rng):
    _, values, rows = teleoperated(rng)
    until = START + 2_000_000_000
    rows = [row for row in rows if row[0] != 'cmd_vel' or row[2] < until]
    robot = contract(REWARDED)
    [episode], _ = read_episodes(write_robot_bag(tmp_path, 'bag', rows), robot.spec, robot)
    stopped = episode.stamp > until + 500_000_000
    # `stop: zero` of limits [-2, 2] and [-1, 3]
    np.testing.assert_allclose(episode.action[stopped], [[0.0, -0.5]] * stopped.sum(), atol=1e-6)
    held = (episode.stamp > until) & (episode.stamp < until + 300_000_000)
    assert held.any() and not np.allclose(episode.action[held], [0.0, -0.5])


def test_labels(tmp_path, rng):
    _, _, rows = teleoperated(rng)
    path = write_robot_bag(tmp_path, '20261120T192539.546-rover-000000', rows)
    labels = Labels(
        """
episodes:
  - {bag: 20261120T192539.546-rover-000000, start: 0.5, end: 1.4, terminal: true, reward: 2.5}
  - {bag: 20261120T192539.546-rover-000000, start: 2.0, end: 3.0, rewards: [
      {time: 2.25, reward: 1.0}, {time: 2.3, reward: 0.5}, {time: 2.95, reward: 4}]}
  - {bag: tuesday, start: 0, end: 1}
""",
        'labels.yaml',
    )
    first, second = read_episodes(path, SPEC, contract(), labels)[0]
    assert len(first) == 10 and first.complete and first.is_terminal.tolist() == [False] * 9 + [True]
    assert first.reward.tolist() == [0.0] * 9 + [2.5]
    assert len(second) == 11 and second.complete and not second.is_terminal.any()
    # each on the first step from its time on: steps at 2.0, 2.1, …
    assert second.reward.tolist() == [0, 0, 0, 1.5, 0, 0, 0, 0, 0, 0, 4.0]


def test_labels_of_what_an_agent_did(tmp_path, rng):
    """Its ticks, observations and actions stay as they were; rewards and ends are the labels'."""
    agent = played(rng, sensors(rng, 4.0), 30)
    path = write_robot_bag(tmp_path, 'monday.5', agent.rows)
    [whole], _ = read_episodes(path, SPEC, contract(), Labels('episodes: [{reward: 2, terminal: true}]', 'labels.yaml'))
    [plain], _ = read_episodes(path, SPEC, contract())
    for name in ('stamp', 'image', 'vector', 'action', 'is_first', 'is_last'):
        np.testing.assert_array_equal(getattr(whole, name), getattr(plain, name))
    assert whole.reward.tolist() == [0.0] * 29 + [2.0] and whole.is_terminal.tolist() == [False] * 29 + [True]
    assert np.abs(plain.reward).sum() > 1

    before = [(stamp - 1000) / 1e9 for stamp in agent.stamps]  # floats of seconds since 1970 are 0.2 us apart
    [part], _ = read_episodes(
        path,
        SPEC,
        contract(),
        Labels(
            f'episodes: [{{bag: monday.5, start: {before[4]!r}, end: {before[10]!r}, '
            f'rewards: [{{time: {before[6]!r}, reward: 0.5}}]}}]',
            'labels.yaml',
        ),
    )
    np.testing.assert_array_equal(part.stamp, agent.stamps[4:10])
    np.testing.assert_array_equal(part.action, plain.action[4:10])
    assert part.complete and part.reward.tolist() == [0, 0, 0.5, 0, 0, 0]
    assert read_episodes(path, SPEC, contract(), Labels('episodes: [{bag: tuesday}]', 'labels.yaml'))[1][0].reason == (
        'labels.yaml has no episode of it'
    )


def test_labels_that_overlap_or_find_nothing(tmp_path, rng, capsys):
    agent = played(rng, sensors(rng, 4.0), 30)
    path = write_robot_bag(tmp_path, 'monday', agent.rows, contract())
    overlapping = Labels('episodes: [{start: 0.5, end: 1.5}, {start: 1.4, end: 2}]', 'labels.yaml')
    found, problems = read_episodes(path, SPEC, contract(), overlapping)
    assert not found and 'labels.yaml: expected episodes of monday one after another' in reasons(problems)
    text = 'episodes: [{bag: monday, start: 0.5, end: 1.5}, {bag: monday, start: 100, end: 200}, {bag: mnday}]'
    found, problems = read_episodes(path, SPEC, contract(), Labels(text, 'labels.yaml'))
    assert len(found) == 1
    pattern = r'no step is in the labelled episode between 17900001\d\d\.\d+ and 17900002\d\d\.\d+'
    assert re.fullmatch(pattern, reasons(problems))
    (tmp_path / 'labels.yaml').write_text(text)
    labels = tmp_path / 'labels.yaml'
    assert main(['bag', 'import', str(path), '--labels', str(labels), '--to', str(tmp_path / 'to')]) == 0
    assert f'{labels}: no bag called mnday is among the sources' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text, complaint',
    [
        ('episodes: [{start: 3, end: 2}]', r'episodes\[0\].end: expected a time after start \(3\), got 2'),
        ('episodes: []', 'episodes: expected at least one'),
        ('episodes: [{start: 3, end: 5, reward: high}]', r'reward: expected a number'),
        ('{', 'labels.yaml: expected YAML'),
    ],
)
def test_labels_that_say_nothing(text, complaint):
    with pytest.raises(InputError, match=complaint):
        Labels(text, 'labels.yaml')


def test_the_contract_ends_episodes(tmp_path, rng):
    sent, _, rows = teleoperated(rng)
    text = (
        TINY
        + """
reward: {topic: range, type: std_msgs/msg/Float64, field: data}
terminal: {expression: 'distance > 1', fields: {distance: {topic: range, type: std_msgs/msg/Float64, field: data}}}
episode_length: 8
"""
    )
    robot = contract(text)
    episodes, _ = read_episodes(write_robot_bag(tmp_path, 'bag', rows), robot.spec, robot)
    assert len(episodes) > 3 and all(episode.complete for episode in episodes[:-1])
    for episode in episodes[:-1]:
        distance = expected_at(sent['range'], int(episode.stamp[-1]))
        assert episode.is_terminal[-1] == (distance > 1)
        assert (len(episode) == 9) if not episode.is_terminal[-1] else len(episode) <= 9
        assert not episode.is_terminal[:-1].any()


def test_two_robots_and_headers_on_another_clock(tmp_path, rng):
    """Stamps of a simulated robot count from its start, its commands have none."""
    _, _, rows = teleoperated(rng)
    shifted = []
    for topic, cdr, stamp in rows:
        if topic in ('camera/image_raw', 'joint_states'):
            cdr = bytearray(cdr)
            cdr[4:12] = np.array(divmod(codecs.header_stamp(cdr) - START + 10**9, 10**9), np.uint32).tobytes()
        shifted.append((topic, bytes(cdr), stamp))
    text = TINY.replace(
        """  - {name: range, topic: range, type: std_msgs/msg/Float64, field: data}
""",
        '',
    )
    robot = contract(text)
    [plain], _ = read_episodes(write_robot_bag(tmp_path, 'plain', rows), robot.spec, robot)
    [moved], _ = read_episodes(write_robot_bag(tmp_path, 'moved', shifted), robot.spec, robot)
    assert len(moved) == len(plain)
    np.testing.assert_array_equal(moved.image, plain.image)
    # the delay of transport is unknown here; a command more or less at its edge
    assert (np.abs(moved.action - plain.action).max(1) < 1e-6).mean() > 0.9


@pytest.mark.parametrize(
    'topic, complaint',
    [('camera/image_raw', 'without a message on camera/image_raw'), ('cmd_vel', 'no messages on cmd_vel are in it')],
)
def test_a_topic_that_is_not_there(tmp_path, rng, topic, complaint):
    rows = [row for row in teleoperated(rng)[2] if row[0] != topic]
    episodes, problems = read_episodes(write_robot_bag(tmp_path, 'bag', rows), SPEC, contract())
    assert episodes == [] and complaint in reasons(problems)


def test_a_pause_and_a_stamp_from_another_century(tmp_path, rng):
    _, _, rows = teleoperated(rng)
    later = 10**9 * 86_400 * 365
    paused = []
    for topic, cdr, stamp in rows:
        if stamp > START + 2 * 10**9:
            if topic in ('camera/image_raw', 'joint_states'):
                cdr = bytearray(cdr)
                cdr[4:12] = np.array(divmod(codecs.header_stamp(cdr) + later, 10**9), np.uint32).tobytes()
            stamp += later
        paused.append((topic, bytes(cdr), stamp))
    stray = next(k for k, row in enumerate(paused) if row[0] == 'joint_states')
    topic, cdr, stamp = paused[stray]
    paused[stray] = topic, cdr[:4] + b'\xff\xff\xff\x10' + cdr[8:], stamp
    robot = contract(REWARDED)
    episodes, problems = read_episodes(write_robot_bag(tmp_path, 'bag', paused), robot.spec, robot)
    assert len(episodes) >= 2 and episodes[-1].stamp[0] > START + later
    assert sum(map(len, episodes)) > 30
    assert 'without any message' in reasons(problems)
    assert '1 of 400 messages on /robot/joint_states have stamps that are more than 60 s off' in reasons(problems)


@pytest.mark.parametrize(
    'modes, mode, version',
    [
        (['random'] * 8 + ['policy/3/explore'] * 12 + ['policy/4/explore'] * 10, 'explore', '4'),
        (['policy/7/evaluate'] * 30, 'evaluate', '7'),
        (['policy/7/evaluate'] * 5 + ['human'] * 25, 'human', '7'),
        (['teleop'] * 30, '', ''),
    ],
)
def test_a_recovered_bag_tells_who_acted(tmp_path, rng, modes, mode, version):
    rows = [row for row in played(rng, sensors(rng, 4.0), 30).rows if row[0] != 'action']
    stamps = [stamp for topic, _, stamp in rows if topic == 'step']
    rows += [('action', action_cdr(stamp, np.zeros(2), text), stamp + 10**6) for stamp, text in zip(stamps, modes)]
    path = write_robot_bag(tmp_path, 'bag', rows, contract())
    (path / 'metadata.yaml').unlink()  # what the recorder writes at the very end
    recover(path)
    [told] = describe(path)
    assert (told.mode, told.policy_version, told.steps) == (mode, version, 30)
