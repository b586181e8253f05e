"""The store on its files: equal to the bags whatever happens to the files, and bags are read once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.replay import dataset
from dreamer_ros.replay.cache import FOLDER
from dreamer_ros.replay.dataset import is_kept, keep_bag
from tests.episodes.bags import PERIOD_NS, SPEC, START_NS, random_episode, write_episode
from tests.replay.folders import dataset_of

KEYS = ('image', 'vector', 'action', 'reward', 'is_first', 'is_last', 'is_terminal')


def episode_of(rng, number, length, last=True):
    return random_episode(rng, length, START_NS + number * 10_000 * PERIOD_NS, last)


def cache_files(folder: Path, suffix: str):
    return sorted((folder / FOLDER).glob(f'*/*{suffix}'))


@pytest.fixture
def reads(monkeypatch):
    """Names of the bags that were read, as they are."""
    names = []

    def read(path, *arguments):
        names.append(path.name)
        return read_episodes(path, *arguments)

    monkeypatch.setattr(dataset, 'read_episodes', read)
    return names


class Reference:
    """What a store must hold: rows of whole episodes in a list, and nothing clever."""

    def __init__(self, capacity):
        self.capacity, self.bags, self.kept = capacity, [], set()

    def add(self, name, episode):
        rows = [{key: getattr(episode, key)[k] for key in KEYS} for k in range(len(episode))][-self.capacity :]
        rows[0]['is_first'], rows[-1]['is_last'] = np.True_, np.True_
        while self.steps + len(rows) > self.capacity:
            leaving = [bag for bag in self.bags if bag[0] not in self.kept]
            if not leaving:
                break
            self.bags.remove(leaving[0])
        self.bags.append((name, rows))

    @property
    def steps(self):
        return sum(len(rows) for _, rows in self.bags)

    def check(self, found, start, length):
        rows = [row for _, bag in self.bags for row in bag]
        for b, index in enumerate(found['index'] - start):
            assert 0 <= index <= len(rows) - length
            for key in KEYS:
                np.testing.assert_array_equal(
                    found[key][b], [row[key] for row in rows[index : index + length]], err_msg=key
                )


def flip(path, rng):
    """One bit somewhere."""
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def test_equal_to_the_reference_whatever_happens(tmp_path, rng):
    """Episodes come; sessions end and go on; cache files are cut, flipped, deleted; bags are marked to be kept."""
    capacity = 90
    subject, reference = dataset_of(tmp_path, SPEC, capacity), Reference(capacity)
    number = 0
    for _ in range(120):
        what = rng.choice(['bag', 'bag', 'sample', 'sample', 'restart', 'flip', 'cut', 'delete', 'wipe', 'keep'])
        files = cache_files(tmp_path, rng.choice(['.steps', '.json']))
        if what == 'bag':
            name = f'bag{number:03d}'
            episode = episode_of(rng, number, int(rng.choice([1, 2, 7, 20, 33, 100])), bool(rng.integers(2)))
            write_episode(tmp_path, name, episode)
            assert [info.name for info in subject.refresh()] == [name]
            reference.add(name, episode)
            number += 1
        elif what == 'restart':
            state = json.loads(json.dumps(subject.state_dict()))
            subject = dataset_of(tmp_path, SPEC, capacity)
            subject.load_state_dict(state)
            assert subject.refresh() == []
        elif what == 'keep' and number:
            name = f'bag{rng.integers(number):03d}'
            kept = bool(rng.integers(2))
            keep_bag(tmp_path / name, kept)
            (reference.kept.add if kept else reference.kept.discard)(name)
        elif what == 'wipe':
            shutil.rmtree(tmp_path / FOLDER, ignore_errors=True)
        elif files:
            path = files[rng.integers(len(files))]
            if what == 'flip':
                flip(path, rng)
            elif what == 'cut':
                os.truncate(path, rng.integers(path.stat().st_size))
            elif what == 'delete':
                path.unlink()
        assert subject.steps == reference.steps and subject.episodes == len(reference.bags)
        start = subject.state_dict()['folders']['']['start']
        for length in (1, 5, 30):
            if length <= reference.steps:
                reference.check(subject.sample(3, length), start, length)
                reference.check(subject.peek(2, length), start, length)
    told = {problem.reason for problem in subject.problems}
    assert all('read again' in reason or 'no room' in reason for reason in told), told


def test_unchanged_bags_are_not_read_again(tmp_path, rng, reads):
    for number in range(4):
        write_episode(tmp_path, f'bag{number}', episode_of(rng, number, 10))
    first = dataset_of(tmp_path, SPEC, 1000)
    infos = first.refresh()
    assert reads == ['bag0', 'bag1', 'bag2', 'bag3']
    reads.clear()
    write_episode(tmp_path, 'bag4', episode_of(rng, 4, 10))
    os.utime(tmp_path / 'bag1' / 'metadata.yaml')  # copied or touched: equal by its hash
    second = dataset_of(tmp_path, SPEC, 1000)
    assert second.refresh()[:4] == infos and reads == ['bag4']
    assert second.steps == 50
    second.sample(4, 20)
    assert reads == ['bag4'] and second.problems == []


def test_a_changed_bag_is_noticed(tmp_path, rng, reads):
    write_episode(tmp_path, 'bag', episode_of(rng, 0, 10))
    dataset_of(tmp_path, SPEC, 1000).refresh()
    shutil.rmtree(tmp_path / 'bag')
    other = episode_of(rng, 1, 10)
    write_episode(tmp_path, 'bag', other)
    subject = dataset_of(tmp_path, SPEC, 1000)
    assert len(subject.refresh()) == 1 and reads == ['bag', 'bag']
    np.testing.assert_array_equal(subject.sample(1, 10)['image'][0], other.image)


def test_what_was_wrong_with_a_bag_is_told_at_every_start(tmp_path, rng, reads):
    bag = write_episode(tmp_path, 'cut', episode_of(rng, 0, 400))
    (file,) = bag.glob('*.mcap')
    os.truncate(file, file.stat().st_size * 2 // 3)
    for path in (bag, *bag.iterdir()):
        os.utime(path, (time.time() - 1000,) * 2)
    told = []
    for _ in range(2):
        subject = dataset_of(tmp_path, SPEC, 1000)
        assert len(subject.refresh()) == 1
        told.append([str(problem) for problem in subject.problems])
    assert told[0] and told[0] == told[1] and reads == ['cut']


def test_bags_of_another_robot_do_not_share_files(tmp_path, rng):
    write_episode(tmp_path, 'bag', episode_of(rng, 0, 10))
    dataset_of(tmp_path, SPEC, 100).refresh()
    other = dataset_of(tmp_path, dataclasses.replace(SPEC, control_period=0.1), 100)
    assert other.refresh() == [] and 'another robot' in str(other.problems[0])
    assert dataset_of(tmp_path, SPEC, 100).refresh()


def test_steps_that_left_free_their_space_and_come_back(tmp_path, rng, reads):
    for number in range(6):
        write_episode(tmp_path, f'bag{number}', episode_of(rng, number, 20))
    small = dataset_of(tmp_path, SPEC, 50)
    assert len(small.refresh()) == 6 and small.steps == 40
    assert [path.stem for path in cache_files(tmp_path, '.steps')] == ['bag4', 'bag5']
    large = dataset_of(tmp_path, SPEC, 500)
    assert len(large.refresh()) == 6 and len(reads) == 6  # what is in them is known
    rewards = {large.sample(1, 1)['reward'][0, 0] for _ in range(120)}  # each is served once
    assert rewards == {
        value for number in range(6) for value in read_episodes(tmp_path / f'bag{number}', SPEC)[0][0].reward
    }
    assert sorted(reads[6:]) == ['bag0', 'bag1', 'bag2', 'bag3']
    shutil.rmtree(tmp_path / 'bag0')
    dataset_of(tmp_path, SPEC, 500).refresh()
    assert not any('bag0' in path.name for path in cache_files(tmp_path, ''))


def test_an_episode_that_is_lost_leaves_the_others(tmp_path, rng):
    for number in range(3):
        write_episode(tmp_path, f'bag{number}', episode_of(rng, number, 20))
    subject = dataset_of(tmp_path, SPEC, 500)
    subject.refresh()
    shutil.rmtree(tmp_path / 'bag1')
    shutil.rmtree(tmp_path / FOLDER)
    rewards = np.concatenate([subject.sample(2, 1)['reward'].ravel() for _ in range(60)])
    expected = [read_episodes(tmp_path / name, SPEC)[0][0].reward for name in ('bag0', 'bag2')]
    assert subject.steps == 40 and set(rewards) == set(np.concatenate(expected))
    assert any('bag1: ' in str(problem) and 'any more' in problem.reason for problem in subject.problems)


def test_a_folder_that_cannot_be_written_is_learnt_from_in_memory(tmp_path, rng):
    episodes = [episode_of(rng, number, 20) for number in range(2)]
    for number, episode in enumerate(episodes):
        write_episode(tmp_path, f'bag{number}', episode)
    (tmp_path / FOLDER).touch()
    subject = dataset_of(tmp_path, SPEC, 500)
    assert len(subject.refresh()) == 2
    (problem,) = subject.problems
    assert 'stay in memory' in problem.reason
    np.testing.assert_array_equal(
        subject.sample(1, 40)['image'][0], np.concatenate([episode.image for episode in episodes])
    )
    resumed = dataset_of(tmp_path, SPEC, 500)
    resumed.load_state_dict(json.loads(json.dumps(subject.state_dict())))
    np.testing.assert_array_equal(resumed.sample(2, 9)['image'], subject.sample(2, 9)['image'])


READER = """
import sys
from pathlib import Path
from tests.episodes.bags import SPEC
from tests.replay.folders import dataset_of
print('ready', flush=True)
while True:
    store = dataset_of(Path(sys.argv[1]), SPEC, 300)
    store.refresh()
    store.sample(8, 20)
    assert not store.problems, store.problems
"""


def test_killed_readers_and_several_at_once(tmp_path, rng):
    """Processes that fill the same cache die at any moment; what the next one samples is what the bags hold."""
    reference = Reference(300)
    for number in range(12):
        episode = episode_of(rng, number, 25)
        write_episode(tmp_path, f'bag{number:02d}', episode)
        reference.add(f'bag{number:02d}', episode)
    command = [sys.executable, '-c', READER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout.readline().strip() == 'ready'
        for round in range(4):
            time.sleep(rng.uniform(0.0, 0.25))
            if round == 3:
                for process in processes:
                    process.kill()
                    process.wait()
            subject = dataset_of(tmp_path, SPEC, 300)
            assert len(subject.refresh()) == 12 and subject.problems == []
            reference.check(subject.sample(40, 20), 0, 20)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    assert all(process.returncode == -9 for process in processes)


def test_held_out_episodes_never_train(tmp_path, rng):
    rewards = {}
    for number in range(40):
        episode = episode_of(rng, number, 5)
        write_episode(tmp_path / 'a', f'bag{number:02d}', episode)
        write_episode(tmp_path / 'b', f'other{39 - number:02d}', episode)
        rewards[number] = set(episode.reward)
    splits = []
    for folder, name in ((tmp_path / 'a', 'bag{:02d}'), (tmp_path / 'b', 'other{:02d}')):
        subject = dataset_of(folder, SPEC, 1000, validation=0.3)
        infos = {info.name: info.held_out for info in subject.refresh()}
        order = range(40) if folder.name == 'a' else range(39, -1, -1)
        splits.append([infos[name.format(number)] for number in order])
        held_out = set().union(*(rewards[n] for n in range(40) if splits[-1][n]))
        assert subject.episodes + subject.held_out_episodes == 40 and subject.steps == 200 - len(held_out)
        seen = set(np.concatenate([subject.sample(8, 5)['reward'].ravel() for _ in range(200)]))
        seen |= set(np.concatenate([subject.peek(8, 5)['reward'].ravel() for _ in range(50)]))
        assert not seen & held_out and len(seen) == subject.steps
        validation = subject.validation(50, 5)['reward']
        assert set(validation.ravel()) <= held_out
        np.testing.assert_array_equal(validation, subject.validation(50, 5)['reward'])
        resumed = dataset_of(folder, SPEC, 1000, validation=0.3)
        resumed.load_state_dict(json.loads(json.dumps(subject.state_dict())))
        assert resumed.refresh() == [] and resumed.held_out_episodes == subject.held_out_episodes
        np.testing.assert_array_equal(resumed.sample(3, 5)['reward'], subject.sample(3, 5)['reward'])
    assert splits[0] == splits[1] and 3 <= sum(splits[0]) <= 24


def test_marks(tmp_path, rng):
    bag = write_episode(tmp_path, 'bag', episode_of(rng, 0, 5))
    loose = tmp_path / 'loose.mcap'
    shutil.copy(bag / 'bag_0.mcap', loose)
    for path in (bag, loose):
        assert not is_kept(path)
        keep_bag(path)
        assert is_kept(path)
        keep_bag(path, False)
        keep_bag(path, False)
        assert not is_kept(path)
    with pytest.raises(InputError, match='expected a bag'):
        keep_bag(tmp_path)
    main(['bag', 'keep', str(bag), str(loose)])
    assert is_kept(bag) and is_kept(loose)
    main(['bag', 'keep', '--undo', str(bag)])
    assert not is_kept(bag) and is_kept(loose)


def test_kept_bags_stay_and_say_when_they_leave_no_room(tmp_path, rng):
    for number in range(5):
        keep_bag(write_episode(tmp_path, f'bag{number}', episode_of(rng, number, 20)), number in (0, 2))
    subject = dataset_of(tmp_path, SPEC, 60)
    subject.refresh()
    assert [name for name, _ in subject.state_dict()['folders']['']['held']] == ['bag0', 'bag2', 'bag4']
    for number in range(5, 8):
        keep_bag(write_episode(tmp_path, f'bag{number}', episode_of(rng, number, 20)))
    subject.refresh()
    held = [name for name, _ in subject.state_dict()['folders']['']['held']]
    assert held == ['bag0', 'bag2', 'bag5', 'bag6', 'bag7'] and subject.steps == 100
    assert [problem.reason for problem in subject.problems] == ['bags marked to be kept leave no room: 80 steps, of 60']


def test_no_file_stays_open(tmp_path, rng):
    reference = Reference(300)
    for number in range(8):
        episode = episode_of(rng, number, 20)
        write_episode(tmp_path, f'bag{number}', episode)
        reference.add(f'bag{number}', episode)
    before = len(os.listdir('/proc/self/fd'))
    subject = dataset_of(tmp_path, SPEC, 300)
    subject.refresh()
    for _ in range(20):
        reference.check(subject.sample(4, 10), 0, 10)
    assert len(os.listdir('/proc/self/fd')) == before
