"""Recordings of any origin to episode bags and back: nothing is changed on the way, nothing left out in silence."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import tracemalloc

import numpy as np
import pytest
import yaml
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.bag_reader import bags_in, partial_path, read_metadata
from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.inspect import actors, read_contents
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.episodes.recovery import recover_all
from dreamer_ros.errors import InputError
from dreamer_ros.formats import npz
from dreamer_ros.formats.exporting import export_arrays
from dreamer_ros.formats.importing import find_sources, import_source
from dreamer_ros.formats.npz import read_arrays, write_arrays
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.definitions import blank_message, encode, typestore
from tests.episodes.bags import (
    PERIOD_NS,
    SPEC,
    START_NS,
    TWO_CAMERAS,
    assert_equal,
    cdr_messages,
    random_episode,
    write_episode,
)
from tests.episodes.robot_bags import contract, played, sensors, write_robot_bag
from tests.episodes.test_robot_bag import teleoperated, write_foreign


def reasons(result):
    return ' | '.join(problem.reason for problem in result.problems)


def bags(folder):
    return sorted(path for path in folder.iterdir())


def long_recording(folder, rng, storage=StoragePlugin.MCAP, version=9, with_spec=True):
    """One `ros2 bag record -a` of three episodes of our topics, the second without its end; and the episodes."""
    starts = START_NS + PERIOD_NS * np.array([0, 10, 18])
    episodes = [
        random_episode(rng, length, int(start), last)
        for length, start, last in zip((10, 8, 7), starts, (True, False, True))
    ]
    rows = [row for episode in episodes for row in cdr_messages(episode)]
    types = {topic.within('sim0').name: topic.type for topic in topics.PER_STEP}
    if with_spec:
        message = blank_message('std_msgs/msg/String')
        message.data = SPEC.to_json()
        types['/sim0/spec'] = 'std_msgs/msg/String'
        rows.insert(3, ('/sim0/spec', encode(message, types['/sim0/spec']), START_NS))
    with Writer(folder, version=version, storage_plugin=storage) as writer:
        connections = {name: writer.add_connection(name, kind, typestore=typestore()) for name, kind in types.items()}
        for name, cdr, stamp in rows:
            writer.write(connections[name], stamp + 5_000_000, cdr)
    return episodes


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_one_long_recording_is_cut_into_episodes(tmp_path, rng, storage):
    episodes = long_recording(tmp_path / 'long', rng, storage)
    folder = tmp_path / 'episodes'
    result = import_source(tmp_path / 'long', folder)
    assert not result.problems and result.steps == 25
    found = bags(folder)
    assert found == sorted(result.bags) and len(found) == 3
    for path, episode in zip(found, episodes):
        [read], problems = read_episodes(path, SPEC)
        assert not problems
        assert_equal(read, episode)
        information = read_metadata(path)
        counts = {
            entry['topic_metadata']['name']: entry['message_count']
            for entry in information['topics_with_message_count']
        }
        assert counts == {topic.within('sim0').name: len(episode) for topic in topics.PER_STEP}
        assert information['custom_data']['return'] == repr(float(episode.reward.astype(float).sum()))
        assert information['custom_data']['source'] == 'long'
    # Another robot's recording that began in the same millisecond is another one.
    other = long_recording(tmp_path / 'other', rng)
    assert len(import_source(tmp_path / 'other', folder).bags) == len(other) == 3
    again = import_source(tmp_path / 'long', folder)
    assert again.bags == [] and reasons(again).count('is there already') == 3 and len(bags(folder)) == 6


def test_whose_recording_it_is(tmp_path, rng):
    episodes = long_recording(tmp_path / 'long', rng, with_spec=False)
    folder = tmp_path / 'episodes'
    result = import_source(tmp_path / 'long', folder)
    assert not result.bags and 'does not name its robot' in reasons(result)
    write_episode(folder, 'earlier', random_episode(rng, 5))
    assert len(import_source(tmp_path / 'long', folder).bags) == len(episodes)


@pytest.mark.parametrize('version', range(1, 10))
def test_every_version_of_metadata(tmp_path, rng, version):
    """As far as rosbags writes them; older ones by taking away what they did not have."""
    long_recording(tmp_path / 'long', rng, StoragePlugin.SQLITE3, version=max(version, 8))
    metadata = tmp_path / 'long' / 'metadata.yaml'
    content = yaml.safe_load(metadata.read_text())
    information = content['rosbag2_bagfile_information']
    information['version'] = version
    if version < 8:
        for entry in information['topics_with_message_count']:
            entry['topic_metadata'].pop('type_description_hash', None)
    for key, since in (('ros_distro', 8), ('custom_data', 6), ('files', 5)):
        if version < since:
            information.pop(key, None)
    metadata.write_text(yaml.safe_dump(content))
    result = import_source(tmp_path / 'long', tmp_path / 'episodes')
    assert not result.problems and result.steps == 25


@pytest.mark.parametrize('form', ['png', 'jpeg'])
def test_compressed_images(tmp_path, rng, form):
    episode = random_episode(rng, 6, spec=TWO_CAMERAS)
    names = [topic.within('sim0') for topic in topics.per_step(TWO_CAMERAS.cameras)]
    names = [
        dataclasses.replace(topic, name=f'{topic.name}/compressed', type='sensor_msgs/msg/CompressedImage')
        if topic.type == topics.IMAGE.type
        else topic
        for topic in names
    ]
    writer = EpisodeWriter(tmp_path, 'bag', names, {'spec': TWO_CAMERAS.to_json(), 'spec_hash': TWO_CAMERAS.hash})
    expected = episode.image.copy()
    cameras = {'/sim0/camera/image_raw': slice(0, 3), '/sim0/wrist/image_raw': slice(3, 6)}
    for name, cdr, stamp in cdr_messages(episode, spec=TWO_CAMERAS):
        if name in cameras:
            k = (stamp - START_NS) // PERIOD_NS
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(episode.image[k][..., cameras[name]])).save(buffer, form)
            expected[k][..., cameras[name]] = np.asarray(Image.open(buffer))
            message = blank_message('sensor_msgs/msg/CompressedImage')
            codecs.fill_stamp(message.header.stamp, stamp)
            message.format, message.data = form, np.frombuffer(buffer.getvalue(), np.uint8)
            name, cdr = f'{name}/compressed', encode(message, 'sensor_msgs/msg/CompressedImage')
        writer.write(name, cdr, stamp)
    path = writer.close({})
    [read], problems = read_episodes(path, TWO_CAMERAS)
    assert not problems
    np.testing.assert_array_equal(read.image, expected)
    if form == 'png':
        np.testing.assert_array_equal(read.image, episode.image)
    result = import_source(path, tmp_path / 'episodes')
    [again], _ = read_episodes(result.bags[0], TWO_CAMERAS)
    np.testing.assert_array_equal(again.image, expected)


def test_a_foreign_robot_with_labels(tmp_path, rng):
    """Steps and actions are added to its own topics, and say the same as laying them once more."""
    _, _, rows = teleoperated(rng)
    source = write_foreign(tmp_path / 'monday', rows, 'sqlite3')
    labels = Labels(
        'episodes: [{start: 0.5, end: 1.7, terminal: true, reward: 3}, {start: 2, end: 3.3}]', 'labels.yaml'
    )
    robot = contract()
    expected, _ = read_episodes(source, robot.spec, robot, labels)
    result = import_source(source, tmp_path / 'episodes', robot, labels)
    assert not result.problems and len(result.bags) == len(expected) == 2
    for path, episode in zip(sorted(result.bags), expected):
        [read], problems = read_episodes(path, robot.spec)
        assert not problems and read.complete
        assert_equal(read, episode)
        assert read.meta['mode'] == 'human' and read.meta['robot'] == 'robot'


def test_a_recorded_robot_is_cut_too(tmp_path, rng):
    agent = played(rng, sensors(rng, 4.0), 30)
    source = write_robot_bag(tmp_path, 'bag', agent.rows, contract())
    [expected], _ = read_episodes(source, contract().spec)
    [path] = import_source(source, tmp_path / 'episodes').bags
    [read], problems = read_episodes(path, contract().spec)
    assert not problems
    assert_equal(read, expected)


# Arrays


def gymnasium(rng, length=9, **changes):
    arrays = {
        'observations/image': rng.integers(0, 256, (length + 1, 16, 12, 3), np.uint8),
        'observations/vector': rng.normal(size=(length + 1, 2)).astype(np.float32),
        'actions': rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        'rewards': rng.normal(size=length).astype(np.float32),
        'terminations': np.arange(length) == length - 1,
        'truncations': np.zeros(length, bool),
        **changes,
    }
    return {key: array for key, array in arrays.items() if array is not None}


def test_gymnasium_arrays(tmp_path, rng):
    arrays = gymnasium(rng)
    np.savez(tmp_path / 'one.npz', **arrays)
    result = import_source(tmp_path / 'one.npz', tmp_path / 'episodes', period=0.05)
    assert not result.problems and result.steps == 10
    spec = RobotSpec.from_json(read_metadata(result.bags[0])['custom_data']['spec'], 'bag')
    assert spec.control_period == 0.05 and spec.image_size == (16, 12) and len(spec.vector) == 2
    [episode], problems = read_episodes(result.bags[0], spec)
    assert not problems and episode.complete
    np.testing.assert_array_equal(episode.image, arrays['observations/image'])
    np.testing.assert_array_equal(episode.vector, arrays['observations/vector'])
    np.testing.assert_array_equal(episode.action[:-1], arrays['actions'])
    np.testing.assert_array_equal(episode.reward, [0, *arrays['rewards']])
    assert episode.is_terminal.tolist() == [False] * 9 + [True] and not episode.action[-1].any()


def test_arrays_in_units_choices_and_other_layouts(tmp_path, rng):
    low, high = np.array([-3.0, 0.0]), np.array([3.0, 10.0])
    actions = rng.uniform(low, high, (9, 2))
    frames = rng.integers(0, 256, (10, 3, 16, 12), np.uint8)
    choices = rng.integers(0, 4, 9)
    choices[0] = 3
    for name, arrays in (
        ('units', gymnasium(rng, actions=actions, action_low=low, action_high=high)),
        (
            'choices',
            gymnasium(
                rng, actions=choices, observations=frames, **{'observations/image': None, 'observations/vector': None}
            ),
        ),
    ):
        np.savez(tmp_path / f'{name}.npz', **arrays)
        [bag] = import_source(tmp_path / f'{name}.npz', tmp_path / name, period=0.1).bags
        spec = RobotSpec.from_json(read_metadata(bag)['custom_data']['spec'], 'bag')
        [episode], _ = read_episodes(bag, spec)
        if name == 'units':
            np.testing.assert_allclose(episode.action[:-1], (actions - low) / (high - low) * 2 - 1, atol=1e-6)
        else:
            assert spec.discrete and episode.action[:-1].argmax(1).tolist() == choices.tolist()
            np.testing.assert_array_equal(episode.image, frames.transpose(0, 2, 3, 1))


@pytest.mark.parametrize('spec', [SPEC, TWO_CAMERAS])
@pytest.mark.parametrize('last', [True, False])
def test_out_and_in_again_is_the_same_episode(tmp_path, rng, spec, last):
    episode = random_episode(rng, 12, last=last, spec=spec)
    episode.reward[0] = 0.0
    episode.action[-1] = 0.0  # answers nothing
    write_episode(tmp_path / 'bags', 'bag', episode, spec=spec)
    [(path, steps, problems)] = export_arrays(tmp_path / 'bags' / 'bag', tmp_path / 'arrays')
    assert path.name == 'bag.npz' and steps == 12 and not problems
    with np.load(path) as arrays:  # as anybody would
        np.testing.assert_array_equal(arrays['observations/image'], episode.image)
        np.testing.assert_array_equal(arrays['rewards'], episode.reward[1:])
        np.testing.assert_array_equal(arrays['truncations'] | arrays['terminations'], episode.is_last[1:])
    [bag] = import_source(path, tmp_path / 'again').bags
    [read], problems = read_episodes(bag, spec)
    assert not problems
    assert_equal(read, episode)
    with pytest.raises(InputError, match='can not be written'):
        list(export_arrays(tmp_path / 'bags' / 'bag', tmp_path / 'arrays'))


END = np.arange(9) == 8
PYTHON = np.array([{'a': 1}] * 9, object)


def as_observations(image):
    return {'observations/image': None, 'observations/vector': None, 'observations': image}


@pytest.mark.parametrize(
    'changes, complaint',
    [
        ({'actions': None}, 'actions: expected an array of that name, got none'),
        ({'rewards': None}, 'rewards: expected an array of that name, got none'),
        ({'rewards': np.zeros(8)}, 'one action and one reward less than observations, got 9 actions, 8 rewards'),
        (as_observations(np.zeros((9, 2))), 'got 9 actions, 9 rewards and 9 observations'),
        ({'rewards': np.zeros((9, 1))}, r'rewards: expected \[T\], got \[9, 1\]'),
        ({'actions': np.full((9, 2), 1.5)}, r'actions: expected numbers in \[-1, 1\]'),
        ({'actions': np.zeros((9, 0))}, r'actions: expected \[T, A\] or whole numbers \[T\], got float64 \[9, 0\]'),
        ({'rewards': np.full(9, np.nan)}, 'rewards: expected finite numbers'),
        ({'rewards': np.full(9, 1e20)}, r'rewards: expected numbers within ±1e\+09, got 1e\+20'),
        ({'observations/vector': np.full((10, 2), 1e39)}, 'observations/vector: expected finite numbers, as float32'),
        ({'terminations': np.ones(9, bool)}, 'terminations, truncations: expected one episode .* ends before the last'),
        ({'terminations': END, 'terminated': END}, 'expected terminations or terminated, got both'),
        ({'terminations': None, 'truncations': None, 'dones': END}, 'dones: expected terminations and truncations'),
        ({'observations': np.zeros((10, 2))}, 'expected observations or observations/vector, got both'),
        ({'observations/image': np.zeros((10, 16, 12, 3))}, r'observations/image: expected uint8 .* got float64 \['),
        (as_observations(np.zeros((10, 16, 12, 3))), r'observations: expected uint8 .* got float64 \[10, 16, 12, 3\]'),
        (as_observations(np.zeros((10, 16, 12), np.uint8)), r'observations: expected \[T\+1, N\], got \[10, 16, 12\]'),
        ({'actions': PYTHON}, 'actions: expected an array of numbers, got one of Python objects'),
        (as_observations(PYTHON), 'observations: expected an array of numbers, got one of Python objects'),
        ({'spec': np.array('{')}, 'spec: robot spec: expected JSON'),
        ({'stamps': np.arange(10) * 50_000_000 + 2**31 * 10**9}, r'stamps: expected times in ns from 0 to 2\^31 s'),
        ({'stamps': np.arange(10)[::-1] * 50_000_000}, 'stamps: expected 0.05 s from one to the next, got -0.05 s'),
        ({'stamps': np.arange(10) * 50_000_000 + 10**9 * (np.arange(10) > 4)}, 'stamps: .* to the next, got 1.05 s'),
        ({'stamps': np.arange(9)}, r'stamps: expected 10 whole numbers, got int64 \[9\]'),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, rng, capsys, changes, complaint):
    np.savez(tmp_path / 'one.npz', **gymnasium(rng, **changes))
    command = ['bag', 'import', str(tmp_path / 'one.npz'), '--to', str(tmp_path / 'episodes'), '--period', '0.05']
    assert main(command) == 1
    [sentence] = capsys.readouterr().err.splitlines()
    assert re.match(f'  one.npz: .*{complaint}', sentence)
    assert not (tmp_path / 'episodes').exists()


def test_a_small_file_of_large_arrays_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, 'LARGEST_MB', 10)
    with (tmp_path / 'one.npz').open('wb') as file:
        np.savez_compressed(file, **{'observations/image': np.zeros((400, 100, 100, 3), np.uint8)})
    assert (tmp_path / 'one.npz').stat().st_size < 1e5
    tracemalloc.start()
    result = import_source(tmp_path / 'one.npz', tmp_path / 'episodes', period=0.05)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert reasons(result) == 'expected arrays of 10 MB at most in a file of its size, got 12 MB'
    monkeypatch.setattr(npz, 'LARGEST_RATIO', 2000)
    assert 'expected arrays of' not in reasons(import_source(tmp_path / 'one.npz', tmp_path / 'episodes', period=0.05))


def test_arrays_are_read_without_a_bag(tmp_path, rng):
    episode = random_episode(rng, 12)
    episode.reward[0], episode.action[-1] = 0, 0
    write_arrays(tmp_path / 'one.npz', episode, SPEC)
    spec, read = read_arrays(tmp_path / 'one.npz', None, problems := [])
    assert spec == SPEC and not problems
    assert_equal(read, episode)
    [bag] = import_source(tmp_path / 'one.npz', tmp_path / 'episodes').bags
    [again], _ = read_episodes(bag, SPEC)
    assert_equal(again, read)


def test_other_names_of_flags_and_arrays_that_nobody_needs(tmp_path, rng):
    flags = {'terminations': None, 'truncations': None}
    for name, changes, ends, complaint in (
        (
            'step',
            {**flags, 'terminated': np.zeros(9, bool), 'truncated': END, 'infos': PYTHON},
            (True, False),
            'not used: infos',
        ),
        ('terminal', {**flags, 'terminated': END}, (True, True), ''),
        ('open', flags, (False, False), 'expected terminations or truncations, got none'),
    ):
        np.savez(tmp_path / f'{name}.npz', **gymnasium(rng, **changes))
        result = import_source(tmp_path / f'{name}.npz', tmp_path / name, period=0.1)
        [bag] = result.bags
        [episode], _ = read_episodes(bag, RobotSpec.from_json(read_metadata(bag)['custom_data']['spec'], 'bag'))
        assert (episode.is_last[-1], episode.is_terminal[-1]) == ends
        assert complaint in reasons(result) and bool(complaint) == bool(result.problems)


@pytest.mark.parametrize('wrong', [np.array([0, 1, 2]), np.array([0, -1, 1]), np.array([0, 0.5, 1])])
def test_choices_that_the_robot_of_the_file_does_not_have(tmp_path, rng, wrong):
    spec = RobotSpec('grid', (0, 0), ['x/position'], ['left', 'right'], [0, 0], [1, 1], 0.1, 1, (), True)
    np.savez(
        tmp_path / 'one.npz',
        **gymnasium(rng, 3, **as_observations(np.zeros((4, 1))), actions=wrong, spec=np.array(spec.to_json())),
    )
    result = import_source(tmp_path / 'one.npz', tmp_path / 'episodes')
    assert not result.bags and 'actions: expected whole numbers from 0 to 1' in reasons(result)


@pytest.mark.parametrize(
    'custom, mode, version',
    [
        ({'mode': 'evaluate', 'policy_version': '7'}, 'evaluate', '7'),
        ({'mode': 'random', 'policy_version': ''}, 'random', ''),
        ({'mode': 'human', 'policy_version': '7'}, 'human', ''),
        ({'mode': 'nobody'}, None, None),
    ],
)
def test_who_acted_goes_out_and_comes_in_again(tmp_path, rng, custom, mode, version):
    write_episode(tmp_path / 'bags', 'bag', random_episode(rng, 12), custom)
    [(path, _, _)] = export_arrays(tmp_path / 'bags' / 'bag', tmp_path / 'arrays')
    [bag] = import_source(path, tmp_path / 'again').bags
    data = read_metadata(bag)['custom_data']
    assert (data.get('mode'), data.get('policy_version')) == (mode, version)
    who = f'policy/{version}/{mode}' if version else mode or 'unknown'
    assert actors(read_contents(bag).episodes[0]) == {who: 11}


def test_sources_and_what_is_none(tmp_path, rng):
    write_episode(tmp_path / 'a' / 'deep', 'bag', random_episode(rng, 4))
    np.savez(tmp_path / 'a' / 'one.npz', **gymnasium(rng))
    (tmp_path / 'a' / 'notes.txt').touch()
    assert [path.name for path in find_sources(tmp_path / 'a')] == ['bag', 'one.npz']
    for path, complaint in ((tmp_path / 'b', 'does not exist'), (tmp_path / 'a' / 'notes.txt', 'it is another file')):
        with pytest.raises(InputError, match=complaint):
            find_sources(path)


# After a crash


def test_a_folder_of_single_files_and_bags(tmp_path, rng, capsys):
    """Nothing in it hides the rest: the files are no bag, and bags lie beside them."""
    made = [
        write_episode(tmp_path / 'made', f'bag{k}', random_episode(rng, 5, START_NS + k * 10**12)) for k in range(3)
    ]
    folder = tmp_path / 'folder'
    shutil.copytree(made[0], folder / 'bag0')
    for k in (1, 2):
        shutil.copy(made[k] / f'bag{k}_0.mcap', folder / f'drive{k}.mcap')
    assert find_sources(folder) == [folder / name for name in ('bag0', 'drive1.mcap', 'drive2.mcap')]
    assert bags_in(folder) == find_sources(folder)
    assert main(['bag', 'info', str(folder)]) == 0
    assert capsys.readouterr().out.count('a single file') == 2
    assert main(['bag', 'info', str(folder / 'drive1.mcap')]) == 0
    assert 'drive1.mcap: 1 episodes' in capsys.readouterr().out
    [(bag, sentence, sound)] = recover_all(folder)
    assert bag == folder / 'bag0' and sound and (folder / 'drive2.mcap').exists()
    split = tmp_path / 'split'
    split.mkdir()
    for k in range(3):
        shutil.copy(made[k] / f'bag{k}_0.mcap', split / f'split_{k}.mcap')
    assert find_sources(split) == bags_in(split) == [split]
    with pytest.raises(InputError, match='it is another file'):
        bags_in(made[0] / 'metadata.yaml')


def test_a_folder_to_write_to_that_is_a_file(tmp_path, rng, capsys):
    made = write_episode(tmp_path, 'bag', random_episode(rng, 5))
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file: expected a folder that can be written'):
        main(['bag', 'export', str(made), '--to', str(tmp_path / 'file')])
    assert main(['bag', 'import', str(made), '--to', str(tmp_path / 'file')]) == 1
    assert 'writing failed' in capsys.readouterr().err


def test_a_folder_after_a_crash(tmp_path, rng):
    episode = random_episode(rng, 60)
    write_episode(tmp_path, 'sound', episode)
    (write_episode(tmp_path, 'nameless', episode) / 'metadata.yaml').unlink()
    cut = write_episode(tmp_path, 'cut', random_episode(rng, 900)) / 'cut_0.mcap'
    cut.write_bytes(cut.read_bytes()[:-100_000])
    left = write_episode(tmp_path, 'left', episode)
    (left / 'metadata.yaml').unlink()
    left.rename(partial_path(tmp_path, 'left'))
    (tmp_path / 'empty').mkdir()
    writer = EpisodeWriter(tmp_path, 'live', [topic.within('sim0') for topic in topics.PER_STEP], {})
    found = {path.name: (sentence, sound) for path, sentence, sound in recover_all(tmp_path)}
    writer.abort()
    assert found.pop('sound') == ('is whole, 300 messages', True)
    assert found.pop('.live.partial')[0] in ('is being written',)
    assert found.pop('.left.partial')[0].startswith('300 messages recovered as left')
    assert found.pop('nameless') == ('300 messages recovered (metadata.yaml is missing)', True)
    assert 'breaks off' in found['cut'][0] and found.pop('cut')[1]
    assert 'no MCAP file' in found['empty'][0] and not found.pop('empty')[1] and not found
    for name in ('sound', 'nameless', 'left'):
        [read], problems = read_episodes(tmp_path / name, SPEC)
        assert not problems
        assert_equal(read, episode)
    parts, _ = read_episodes(tmp_path / 'cut', SPEC)
    assert sum(map(len, parts)) > 300
    assert {sentence.partition(',')[0] for _, sentence, sound in recover_all(tmp_path) if sound} == {'is whole'}


def test_the_commands(tmp_path, rng, capsys):
    long_recording(tmp_path / 'long', rng)
    arrays, again = tmp_path / 'arrays', tmp_path / 'again'
    assert main(['bag', 'import', str(tmp_path / 'long'), '--to', str(tmp_path / 'episodes')]) == 0
    assert 'long: 3 episodes, 25 steps' in capsys.readouterr().out
    assert main(['bag', 'export', str(tmp_path / 'episodes'), '--to', str(arrays)]) == 0
    assert len(list(arrays.iterdir())) == 3 and capsys.readouterr().out.count(' steps') == 3
    assert main(['bag', 'import', str(arrays), '--to', str(again)]) == 0
    capsys.readouterr()
    (tmp_path / 'episodes' / 'notes').mkdir()
    shutil.copy(min(arrays.iterdir()), tmp_path / 'episodes' / 'one.npz')  # nothing to export
    assert main(['bag', 'export', str(tmp_path / 'episodes'), '--to', str(tmp_path / 'others')]) == 0
    assert capsys.readouterr().out.count(' steps') == 3
    with pytest.raises(InputError, match='one.npz: expected a bag, a folder of bags or a run, but it is another file'):
        main(['bag', 'export', str(tmp_path / 'episodes' / 'one.npz'), '--to', str(tmp_path / 'others')])
    (bags(again)[0] / 'metadata.yaml').unlink()
    assert main(['bag', 'recover', str(again)]) == 0
    out = capsys.readouterr().out
    assert out.count('is whole') == 2 and 'recovered (metadata.yaml is missing)' in out
    with pytest.raises(InputError, match='does not exist'):
        main(['bag', 'import', str(tmp_path / 'nowhere'), '--to', str(again)])
