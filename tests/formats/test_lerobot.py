"""LeRobot datasets: what others write comes in as it is, and what we write is what the format says."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.bag_reader import read_metadata
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.errors import InputError
from dreamer_ros.formats.importing import find_sources, import_source
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from tests.episodes.bags import BLIND, SPEC, START_NS, TWO_CAMERAS, random_episode, write_episode
from tests.formats.lerobot_datasets import (
    FEATURES,
    FPS,
    TOP,
    WRIST,
    column,
    frames,
    write_dataset,
    write_film,
    write_lines,
)

PIXELS = dataclasses.replace(SPEC, vector=())
VIDEO_ERROR = 3.0  # of 255, by compression; neighbouring frames differ by 8
LIGHT = {key: feature for key, feature in FEATURES.items() if key not in (TOP, WRIST)}  # without cameras


def reasons(result):
    return ' | '.join(problem.reason for problem in result.problems)


def read(bag):
    """The episode of a bag, and its robot."""
    spec = RobotSpec.from_json(read_metadata(bag)['custom_data']['spec'], 'bag')
    [episode], problems = read_episodes(bag, spec)
    assert not problems
    return episode, spec


def physical(episode, spec):
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    return low + (episode.action[:-1].astype(np.float64) + 1) / 2 * (high - low)


@pytest.mark.parametrize('version, codec', [('v2.0', 'libx264'), ('v2.1', 'libsvtav1'), ('v3.0', 'libsvtav1')])
def test_what_others_wrote(tmp_path, rng, version, codec):
    """Three episodes; of version 3.0 two in one file and the third in another."""
    episodes = [frames(rng, length, number) for number, length in enumerate((9, 5, 7))]
    episodes[1]['next.done'][-1] = False
    root = write_dataset(tmp_path / 'arm', version, episodes, codec=codec, files=(0, 0, 1))
    assert find_sources(tmp_path) == [root]
    result = import_source(root, tmp_path / 'episodes')
    assert not result.problems and len(result.bags) == 3 and result.steps == 9 + 5 + 7 + 3
    everything = np.concatenate([rows['action'] for rows in episodes])
    for number, (bag, rows) in enumerate(zip(sorted(result.bags), episodes)):
        episode, spec = read(bag)
        assert spec.cameras == ('top', 'wrist') and spec.vector == ('shoulder', 'elbow', 'gripper')
        assert spec.action == ('shoulder', 'elbow') and spec.control_period == 1 / FPS
        np.testing.assert_allclose(spec.action_low, everything.min(0))
        np.testing.assert_allclose(physical(episode, spec), rows['action'], atol=1e-4)
        again = [*range(len(rows['action'])), -1]
        np.testing.assert_array_equal(episode.vector, rows['observation.state'][again])
        np.testing.assert_array_equal(episode.image[..., 3:], rows[WRIST][again])
        assert np.abs(episode.image[..., :3].astype(int) - rows[TOP][again]).mean((1, 2, 3)).max() < VIDEO_ERROR
        np.testing.assert_array_equal(episode.reward, [0, *rows['next.reward']])
        assert episode.complete and episode.is_terminal[-1] == (number != 1) and not episode.is_last[:-1].any()
        assert set(np.diff(episode.stamp)) == {10**9 // FPS}
        data = read_metadata(bag)['custom_data']
        assert (data['instruction'], data['robot']) == (f'task {number}', 'arm') and 'mode' not in data
        assert float(data['return']) == pytest.approx(rows['next.reward'].sum(), abs=1e-5)
    again = import_source(root, tmp_path / 'episodes')
    assert not again.bags and reasons(again).count('is there already') == 3


def test_without_rewards_names_and_with_things_nobody_reads(tmp_path, rng):
    features = {
        'observation.image': {**FEATURES[TOP], 'dtype': 'image'},
        'action': {**FEATURES['action'], 'names': None},
        'observation.state': {**FEATURES['observation.state'], 'names': None},
        'observation.effort': {'dtype': 'float64', 'shape': [1], 'names': ['grip/force']},
        'observation.images.depth': {**FEATURES[TOP], 'video_info': {'video.is_depth_map': True}},
        'language': {'dtype': 'string', 'shape': [1], 'names': None},
        'next.success': FEATURES['next.done'],
    }
    rows = frames(rng, 6)
    rows.update(
        {
            'observation.image': rows[WRIST],
            'observation.effort': rng.normal(size=6),
            'observation.images.depth': rows[TOP],
        }
    )
    rows['action'][:, 1] = 0.25
    result = import_source(write_dataset(tmp_path / 'bare', 'v3.0', [rows], features), tmp_path / 'episodes')
    assert reasons(result) == (
        'not used: observation.images.depth (a depth map), language, next.success | all rewards '
        'are 0: there is no next.reward, and there are no labels'
    )
    episode, spec = read(result.bags[0])
    assert spec.cameras == ('camera',) and spec.vector == ('state.0', 'state.1', 'state.2', 'grip/force')
    assert spec.action == ('action.0', 'action.1')
    np.testing.assert_allclose(episode.vector[:-1, 3], rows['observation.effort'], rtol=1e-6)
    np.testing.assert_array_equal(episode.image[:-1], rows[WRIST])
    assert not episode.action[:, 1].any()  # it never moved
    assert not episode.reward.any() and episode.complete and not episode.is_terminal.any()
    assert 'return' not in read_metadata(result.bags[0])['custom_data']


def test_choices(tmp_path, rng):
    rows = {**frames(rng, 8), 'action': np.array([0, 3, 1, 2, 2, 0, 1, 1])}
    features = {**LIGHT, 'action': {'dtype': 'int64', 'shape': [1], 'names': None}}
    [bag] = import_source(write_dataset(tmp_path / 'grid', 'v3.0', [rows], features), tmp_path / 'episodes').bags
    episode, spec = read(bag)
    assert spec.discrete and len(spec.action) == 4
    assert episode.action[:-1].argmax(1).tolist() == rows['action'].tolist()


CONTRACT = """
name: my_arm
rate: 10
max_age: 0.5
image_size: [8, 8]
cameras:
  wrist: {topic: wrist, type: sensor_msgs/msg/Image, crop: {x: 4, y: 0, width: 16, height: 16}}
vector:
  - {name: gripper, topic: joints, type: sensor_msgs/msg/JointState, field: 'position[gripper]', scale: 2, offset: 1}
  - {name: shoulder, topic: joints, type: sensor_msgs/msg/JointState, field: 'position[shoulder]', clip: [-0.5, 0.5]}
command:
  topic: command
  type: std_msgs/msg/Float64MultiArray
  axes:
    - {name: elbow, field: 'data[0]', limits: [-100, 100]}
    - {name: shoulder, field: 'data[1]', limits: [-50, 50]}
  stop: zero
  controller_timeout: 0.5
"""


def test_as_a_contract_says(tmp_path, rng):
    rows = frames(rng, 12)
    rows['action'][:2, 0] = 60, -70
    root = write_dataset(tmp_path / 'arm', 'v2.1', [rows])
    robot = RobotContract.from_text(CONTRACT, 'my_arm.yaml')
    result = import_source(root, tmp_path / 'episodes', robot)
    beyond = (np.abs(rows['action'][:, 0]) > 50).sum()
    assert f'{beyond} of 12 actions are beyond the limits of my_arm.yaml' in reasons(result)
    assert f'not used: {TOP}' in reasons(result)
    [episode], problems = read_episodes(result.bags[0], robot.spec, robot)  # as a trainer for the robot does
    assert not problems
    np.testing.assert_allclose(episode.vector[:-1, 0], rows['observation.state'][:, 2] * 2 + 1, rtol=1e-6)
    np.testing.assert_array_equal(episode.vector[:-1, 1], rows['observation.state'][:, 0].clip(-0.5, 0.5))
    expected = np.clip(rows['action'][:, ::-1] / [100, 50], -1, 1)
    np.testing.assert_allclose(episode.action[:-1], expected, atol=1e-6)
    part = rows[WRIST][:, :, 4:20].astype(float).reshape(12, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.abs(episode.image[:-1] - part).max() <= 1


def test_what_a_contract_does_not_fit(tmp_path, rng):
    root = write_dataset(tmp_path / 'arm', 'v3.0', [frames(rng, 4)], {**LIGHT, WRIST: FEATURES[WRIST]})
    for text, complaint in (
        (CONTRACT.replace('rate: 10', 'rate: 20'), 'fps: expected 20, the rate of my_arm.yaml, got 10'),
        (
            CONTRACT.replace('name: gripper', 'name: finger'),
            r'my_arm.yaml: vector: expected names of the dataset '
            r"\(shoulder, elbow, gripper\), got 'finger'",
        ),
        (CONTRACT.replace('name: elbow', 'name: wrist'), "my_arm.yaml: command.axes: .* got 'wrist'"),
        (CONTRACT.replace('x: 4', 'x: 16'), f'{WRIST} in frame 0: image: expected at least'),
    ):
        result = import_source(root, tmp_path / 'episodes', RobotContract.from_text(text, 'my_arm.yaml'))
        assert not result.bags and re.search(complaint, reasons(result)), reasons(result)


def test_labels(tmp_path, rng):
    """The second half of the first episode, nothing of the second one, all of the third."""
    episodes = [frames(rng, length) for length in (10, 6, 4)]
    root = write_dataset(tmp_path / 'arm', 'v2.1', episodes, LIGHT)
    labels = Labels(
        """episodes:
      - {bag: episode_000000, start: 0.5, terminal: true, rewards: [{time: 0.75, reward: 2}], reward: 1}
      - {bag: episode_000002, reward: -1}""",
        'labels.yaml',
    )
    result = import_source(root, tmp_path / 'episodes', labels=labels)
    assert '1 of 3 episodes are not in labels.yaml' in reasons(result)
    assert 'not used: next.reward, next.done' in reasons(result)
    first, third = (read(bag)[0] for bag in sorted(result.bags))
    np.testing.assert_array_equal(first.vector[:-1], episodes[0]['observation.state'][5:])
    assert first.reward.tolist() == [0, 0, 0, 2, 0, 1] and first.is_terminal[-1]
    assert third.reward.tolist() == [0, 0, 0, 0, -1] and third.complete and not third.is_terminal.any()


def test_images_of_several_sizes(tmp_path, rng):
    features = {**LIGHT, WRIST: FEATURES[WRIST], TOP: {**FEATURES[TOP], 'dtype': 'image', 'shape': [32, 48, 3]}}
    rows = {**frames(rng, 3), TOP: rng.integers(0, 256, (3, 32, 48, 3), np.uint8)}
    root = write_dataset(tmp_path / 'arm', 'v3.0', [rows], features)
    assert 'expected images of one size, got wrist 16x24, top 32x48; --image-size' in reasons(
        import_source(root, tmp_path / 'episodes')
    )
    command = ['bag', 'import', str(root), '--to', str(tmp_path / 'episodes'), '--image-size', '16x24']
    assert main(command) == 0
    [bag] = (tmp_path / 'episodes').iterdir()
    episode, _ = read(bag)
    expected = rows[TOP].astype(float).reshape(3, 16, 2, 24, 2, 3).mean((2, 4))
    assert np.abs(episode.image[:-1, ..., 3:] - expected).max() <= 1
    np.testing.assert_array_equal(episode.image[:-1, ..., :3], rows[WRIST])


# What can't be used


def replace(root, key, values, number=0):
    """Put another column into the table of an episode of a 2.1 dataset; None takes it away."""
    path = root / f'data/chunk-000/episode_{number:06d}.parquet'
    table = parquet.read_table(path)
    place = table.column_names.index(key)
    table = table.remove_column(place) if values is None else table.set_column(place, key, column(values))
    parquet.write_table(table, path)


def change(root, **keys):
    path = root / 'meta' / 'info.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def damage(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    """A dataset of two episodes with nothing wrong, to be copied; and its first episode."""
    rng = np.random.default_rng(7)
    episodes = [frames(rng, 6), frames(rng, 6, 1)]
    return write_dataset(tmp_path_factory.mktemp('sound') / 'arm', 'v2.1', episodes), episodes[0]


def nan(values, at):
    values = values.copy()
    values[at] = np.nan
    return values


FILM = f'videos/chunk-000/{TOP}/episode_000000.mp4'
TABLE = 'data/chunk-000/episode_000000.parquet'


@pytest.mark.parametrize(
    'spoil, complaint',
    [
        (
            lambda root, rows: (root / TABLE).unlink(),
            f'episode 0: {TABLE}: expected a parquet file, but it does not exist',
        ),
        (lambda root, rows: damage(root / TABLE), f'episode 0: {TABLE}: expected a parquet file that can be read'),
        (
            lambda root, rows: (root / FILM).unlink(),
            f'episode 0: {FILM}: expected a film of that name, but it does not',
        ),
        (lambda root, rows: damage(root / FILM, 0.3), f'episode 0: {FILM}: expected a film that can be decoded'),
        (lambda root, rows: write_film(root / FILM, rows[TOP][:4]), f'{FILM}: expected at least 6 frames, got 4'),
        (lambda root, rows: write_film(root / FILM, rows[TOP], fps=30), f'{FILM}: expected 10 frames per second, got'),
        (lambda root, rows: (root / FILM).write_text('#EXTM3U\nfile:///etc/passwd\n'), f'{FILM}: expected a film that'),
        (lambda root, rows: replace(root, 'action', nan(rows['action'], (3, 1))), 'action: expected finite .* frame 3'),
        (lambda root, rows: replace(root, 'action', rows['action'] * 2), 'episode 0: action: expected numbers between'),
        (
            lambda root, rows: replace(root, 'action', rows['action'][:, :1]),
            'action: expected 2 numbers in each of 6 .* 6',
        ),
        (
            lambda root, rows: replace(root, 'action', np.array(['fast'] * 6)),
            'action: expected 2 numbers in each frame, got string',
        ),
        (
            lambda root, rows: replace(root, 'observation.state', None),
            'observation.state: expected a column of that name',
        ),
        (lambda root, rows: replace(root, WRIST, np.arange(6)), f'{WRIST}: expected a column of pictures'),
        (
            lambda root, rows: replace(root, 'timestamp', np.arange(6) / 30),
            'timestamp: expected 0.1000 s between frames 0',
        ),
        (
            lambda root, rows: replace(root, 'frame_index', np.arange(6)[::-1]),
            f'{TABLE}: expected frame_index from 0 to 5',
        ),
        (lambda root, rows: replace(root, 'episode_index', np.ones(6, int)), f'{TABLE}: expected 6 frames, .* got 0'),
        (
            lambda root, rows: replace(root, 'next.done', np.ones(6, bool)),
            'next.done: expected the end at the last of 6',
        ),
        (lambda root, rows: change(root, total_episodes=7), 'expected 7 episodes, as meta/info.json says, got 2'),
    ],
    ids=range(18),
)
def test_an_episode_that_does_not_fit(sound, tmp_path, capsys, spoil, complaint):
    """It is left out with its reason; the other one is taken."""
    root = shutil.copytree(sound[0], tmp_path / 'arm')
    spoil(root, sound[1])
    assert main(['bag', 'import', str(root), '--to', str(tmp_path / 'episodes')]) == 0
    [sentence] = capsys.readouterr().err.splitlines()
    assert re.match(f'  arm: .*{complaint}', sentence), sentence
    assert len(list((tmp_path / 'episodes').iterdir())) == (2 if 'meta/info.json' in complaint else 1)


@pytest.mark.parametrize(
    'spoil, complaint',
    [
        (
            lambda root: change(root, codebase_version='v1.6'),
            "codebase_version: expected v2.0, v2.1 or v3.0, got 'v1.6'",
        ),
        (lambda root: change(root, fps=0), 'meta/info.json: fps: expected a number above 0, got 0'),
        (lambda root: change(root, features={**FEATURES, '../x': FEATURES[TOP]}), 'features.../x: expected a name'),
        (lambda root: change(root, features={}), 'features: expected action, numbers in a row, got none'),
        (lambda root: change(root, features={'action': FEATURES['action']}), 'features: expected cameras or numbers'),
        (
            lambda root: change(root, features={**FEATURES, 'action': {'dtype': 'float32', 'shape': [-2]}}),
            r'features.action.shape\[0\]: expected a whole number of at least 1, got -2',
        ),
        (lambda root: (root / 'meta/info.json').write_text('{'), 'meta/info.json: expected JSON'),
        (lambda root: (root / 'meta/episodes.jsonl').unlink(), 'meta/episodes.jsonl: expected a file of that name'),
        (
            lambda root: write_lines(root / 'meta/episodes.jsonl', [{'episode_index': 0}]),
            r'episodes.jsonl line 1: length',
        ),
        (
            lambda root: write_lines(root / 'meta/episodes.jsonl', [{'episode_index': 0, 'length': 6}] * 2),
            'one episode 0',
        ),
        (lambda root: (root / 'meta/episodes_stats.jsonl').unlink(), 'meta/stats.json: expected the smallest and the'),
        (lambda root: write_lines(root / 'meta/episodes_stats.jsonl', [{'stats': {}}]), 'largest action, got KeyError'),
    ],
    ids=range(12),
)
def test_a_dataset_that_is_none(sound, tmp_path, capsys, spoil, complaint):
    root = shutil.copytree(sound[0], tmp_path / 'arm')
    spoil(root)
    assert main(['bag', 'import', str(root), '--to', str(tmp_path / 'episodes')]) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert re.match(f'  arm: .*{complaint}', sentence), sentence
    assert not (tmp_path / 'episodes').exists()


def test_a_film_that_is_too_short_for_its_episodes(tmp_path, rng):
    """Of 3.0, where episodes share films: the table tells times that do not fit."""
    root = write_dataset(tmp_path / 'arm', 'v3.0', [frames(rng, 6), frames(rng, 6, 1)])
    path = root / 'meta/episodes/chunk-000/file-000.parquet'
    table = parquet.read_table(path)
    key = f'videos/{TOP}/to_timestamp'
    table = table.set_column(table.column_names.index(key), key, pyarrow.array([0.3, 1.2]))
    parquet.write_table(table, path)
    result = import_source(root, tmp_path / 'episodes')
    assert 'to_timestamp: expected 6 frames at 10 per second after' in reasons(result) and not result.bags


def test_without_the_library(tmp_path, rng, monkeypatch):
    root = write_dataset(tmp_path / 'arm', 'v3.0', [frames(rng, 3)], LIGHT)
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    for name in ('lerobot_reader', 'lerobot_writer'):
        monkeypatch.delitem(sys.modules, f'dreamer_ros.formats.{name}', raising=False)
    with pytest.raises(InputError, match=r"pyarrow is not installed, .* pip install 'dreamer_ros\[lerobot\]'"):
        main(['bag', 'import', str(root), '--to', str(tmp_path / 'episodes')])


# What we write


@pytest.mark.parametrize('spec', [SPEC, TWO_CAMERAS, BLIND, PIXELS], ids=['one', 'two', 'none', 'pixels'])
def test_what_we_write(tmp_path, rng, spec, capsys):
    """Read as the format says, then by our own import: the same but for the last observation."""
    episodes = []
    for number, length in enumerate((9, 4, 12)):
        episode = random_episode(rng, length, START_NS + number * 10**12, number != 1, spec)
        episode.reward[0], episode.action[-1] = 0, 0
        episodes.append(episode)
        custom = {'mode': 'evaluate', 'policy_version': '7'}
        write_episode(tmp_path / 'bags', f'bag{number}', episode, custom, spec=spec)
        episode.vector = episode.vector[:, : len(spec.vector)]
    root = tmp_path / 'dataset'
    command = ['bag', 'export', str(tmp_path / 'bags'), '--to', str(root), '--format', 'lerobot']
    assert main(command) == 0 and capsys.readouterr().out.count(' steps') == 3

    info = json.loads((root / 'meta/info.json').read_text())
    assert (info['codebase_version'], info['fps'], info['total_frames']) == ('v3.0', 12.5, 22)
    table = parquet.read_table(root / info['data_path'].format(chunk_index=0, file_index=0))
    assert table.column_names == list(info['features']) and len(table) == 22
    actions = np.concatenate(
        [
            np.array(spec.action_low) + (episode.action[:-1] + 1.0) / 2 * np.subtract(spec.action_high, spec.action_low)
            for episode in episodes
        ]
    )
    np.testing.assert_allclose(table['action'].to_pylist(), actions, rtol=1e-6, atol=1e-6)
    assert table['next.reward'].to_pylist() == np.concatenate([episode.reward[1:] for episode in episodes]).tolist()
    assert table['next.done'].to_pylist() == np.concatenate([episode.is_last[1:] for episode in episodes]).tolist()
    assert table['frame_index'].to_pylist() == [*range(8), *range(3), *range(11)]
    assert table['index'].to_pylist() == list(range(22))
    for number, camera in enumerate(spec.cameras):
        images = [
            np.asarray(Image.open(io.BytesIO(entry['bytes'])))
            for entry in table[f'observation.images.{camera}'].to_pylist()
        ]
        expected = np.concatenate([episode.image[:-1, ..., 3 * number : 3 * number + 3] for episode in episodes])
        np.testing.assert_array_equal(images, expected)
        mean = json.loads((root / 'meta/stats.json').read_text())[f'observation.images.{camera}']['mean']
        np.testing.assert_allclose(np.squeeze(mean), (expected / 255).mean((0, 1, 2)))
    stats = json.loads((root / 'meta/stats.json').read_text())['action']
    np.testing.assert_allclose(stats['std'], actions.std(0), rtol=1e-5)
    listed = parquet.read_table(root / 'meta/episodes/chunk-000/file-000.parquet').to_pylist()
    assert [entry['dataset_to_index'] for entry in listed] == [8, 11, 22]
    tasks = parquet.read_table(root / 'meta/tasks.parquet')
    described = json.loads(tasks.schema.metadata[b'pandas'])
    assert tasks[described['index_columns'][0]].to_pylist() == ['test'] and tasks['task_index'].to_pylist() == [0]

    result = import_source(root, tmp_path / 'again')
    assert not result.problems
    for bag, episode in zip(sorted(result.bags), episodes):
        found, robot = read(bag)
        assert robot == spec and (found.meta['mode'], found.meta['policy_version']) == ('evaluate', '7')
        np.testing.assert_allclose(found.action, episode.action, atol=1e-6)
        for key in ('stamp', 'reward', 'is_first', 'is_last', 'is_terminal'):
            np.testing.assert_array_equal(getattr(found, key), getattr(episode, key), err_msg=key)
        for key in ('image', 'vector'):
            np.testing.assert_array_equal(getattr(found, key)[:-1], getattr(episode, key)[:-1], err_msg=key)


def test_choices_that_we_write(tmp_path, rng):
    spec = dataclasses.replace(BLIND, discrete=True, action_low=(0, 0), action_high=(1, 1))
    episode = random_episode(rng, 9, spec=spec)
    episode.action = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 9)]
    write_episode(tmp_path / 'bags', 'bag', episode, spec=spec)
    assert main(['bag', 'export', str(tmp_path / 'bags'), '--to', str(tmp_path / 'out'), '--format', 'lerobot']) == 0
    table = parquet.read_table(tmp_path / 'out/data/chunk-000/file-000.parquet')
    assert table['action'].to_pylist() == episode.action[:-1].argmax(1).tolist()
    found, _ = read(import_source(tmp_path / 'out', tmp_path / 'again').bags[0])
    np.testing.assert_array_equal(found.action[:-1], episode.action[:-1])


def test_what_can_not_be_written(tmp_path, rng):
    write_episode(tmp_path / 'bags', 'a', random_episode(rng, 5))
    write_episode(tmp_path / 'bags', 'b', random_episode(rng, 5, spec=TWO_CAMERAS), spec=TWO_CAMERAS)
    command = ['bag', 'export', str(tmp_path / 'bags'), '--format', 'lerobot', '--to']
    with pytest.raises(InputError, match=r'b: expected the robot of the bags before it, but cameras is'):
        main([*command, str(tmp_path / 'out')])
    with pytest.raises(InputError, match='expected a new folder for the dataset, but it exists'):
        main([*command, str(tmp_path / 'bags')])
    shutil.rmtree(tmp_path / 'bags' / 'b')
    with pytest.raises(InputError, match='can not be written'):
        main([*command, str(tmp_path / 'bags' / 'a' / 'metadata.yaml' / 'out')])
    assert [path.name for path in tmp_path.iterdir()] == ['bags']


def test_many_files(tmp_path, rng, monkeypatch):
    from dreamer_ros.formats import lerobot_writer

    monkeypatch.setattr(lerobot_writer, 'FILE_MB', 0)
    monkeypatch.setattr(lerobot_writer, 'FILES', 2)
    for number in range(3):
        write_episode(tmp_path / 'bags', f'bag{number}', random_episode(rng, 4, START_NS + number * 10**12))
    bags = sorted((tmp_path / 'bags').iterdir())
    assert [steps for _, steps, _ in lerobot_writer.export_lerobot(bags, tmp_path / 'out')] == [3, 3, 3]
    data = tmp_path / 'out' / 'data'
    assert sorted(str(path.relative_to(data)) for path in data.rglob('*.parquet')) == [
        'chunk-000/file-000.parquet',
        'chunk-000/file-001.parquet',
        'chunk-001/file-000.parquet',
    ]
    result = import_source(tmp_path / 'out', tmp_path / 'again')
    assert not result.problems and len(result.bags) == 3
