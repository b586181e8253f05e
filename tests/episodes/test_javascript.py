"""Bags as read by the JavaScript reader of MCAP, with a decoder of ROS 2 messages: what web viewers are made of."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dreamer_ros.wire import topics
from dreamer_ros.wire.definitions import definition
from tests.episodes.bags import random_episode, write_episode
from tests.episodes.robot_bags import contract, played, sensors, write_robot_bag

FOLDER = Path(__file__).resolve().parents[1] / 'javascript'


@pytest.fixture(scope='module')
def read_bag():
    """read_bag(path of an MCAP file) -> what the JavaScript reader finds."""
    if not shutil.which('node') or not shutil.which('npm'):
        pytest.skip('needs node and npm')
    with open(FOLDER / 'package-lock.json') as lock:  # one installs, whoever else runs the tests waits
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (FOLDER / 'node_modules').exists():
            made = subprocess.run(
                ['npm', 'ci', '--no-audit', '--no-fund', '--ignore-scripts'],
                cwd=FOLDER,
                capture_output=True,
                text=True,
                timeout=200,
            )
            if made.returncode:
                pytest.skip(f'npm can not install the reader: {made.stderr[-200:]}')

    def read(path: Path) -> dict:
        result = subprocess.run(['node', FOLDER / 'read_bag.mjs', path], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return read


def stamps(messages):
    return [message['stamp'][0] * 10**9 + message['stamp'][1] for message in messages]


def test_an_episode(read_bag, tmp_path, rng):
    episode = random_episode(rng, 40)
    found = read_bag(write_episode(tmp_path, 'bag', episode) / 'bag_0.mcap')
    assert found['profile'] == 'ros2' and set(found['chunks']) == {'zstd'} and found['messageCount'] == 200
    assert found['metadata'] == ['dreamer_ros']
    assert set(found['topics']) == {topic.within('sim0').name for topic in topics.PER_STEP}
    for topic in topics.PER_STEP:
        entry = found['topics'][topic.within('sim0').name]
        assert entry['type'] == topic.type and entry['encoding'] == ['cdr', 'ros2msg']
        assert entry['hash'] == definition(topic.type).hash
        assert stamps(entry['messages']) == episode.stamp.tolist()
        times = [str(stamp) for stamp in episode.stamp]
        assert [message['logTime'] for message in entry['messages']] == times
        assert [message['publishTime'] for message in entry['messages']] == times
    images, joints, steps, actions = (
        [message['values'] for message in found['topics'][topic.within('sim0').name]['messages']]
        for topic in (topics.IMAGE, topics.JOINT_STATES, topics.STEP, topics.ACTION)
    )
    assert [image['data'] for image in images] == [
        hashlib.sha256(image.tobytes()).hexdigest() for image in episode.image
    ]
    assert {(image['encoding'], image['height'], image['width'], image['step']) for image in images} == {
        ('rgb8', 16, 12, 36)
    }
    np.testing.assert_array_equal(np.float32([step['position'][0] for step in steps]), episode.reward)
    np.testing.assert_array_equal([step['position'][2] for step in steps], episode.is_last)
    np.testing.assert_array_equal(np.float32([action['axes'] for action in actions]), episode.action)
    np.testing.assert_array_equal(np.float32([joint['velocity'][0] for joint in joints]), episode.vector[:, 1])


def test_a_robot(read_bag, tmp_path, rng):
    agent = played(rng, sensors(rng, 3.0), 15)
    found = read_bag(write_robot_bag(tmp_path, 'bag', agent.rows, contract()) / 'bag_0.mcap')
    steps = found['topics']['/robot/step']['messages']
    assert stamps(steps) == agent.stamps
    ages = dict(zip(steps[3]['values']['name'], steps[3]['values']['position']))
    frames = {
        stamp: message['values']['data']
        for stamp, message in zip(
            stamps(found['topics']['/robot/camera/image_raw']['messages']),
            found['topics']['/robot/camera/image_raw']['messages'],
        )
    }
    used = frames[agent.stamps[3] - int(ages['age/camera/image_raw'])]
    assert used == hashlib.sha256(agent.images[3].tobytes()).hexdigest()
    for name in ('cmd_vel', 'range'):
        times = [message['logTime'] for message in found['topics'][f'/robot/{name}']['messages']]
        assert times == [str(stamp) for topic, _, stamp in sorted(agent.rows, key=lambda row: row[2]) if topic == name]
