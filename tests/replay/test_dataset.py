"""The dataset over a folder: what enters, what doesn't, and that training continues where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from dreamer_ros.episodes import bag_reader, bag_writer
from dreamer_ros.episodes.bag_reader import partial_path
from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.errors import InputError
from dreamer_ros.formats.npz import write_arrays
from dreamer_ros.replay.dataset import QUIET_SECONDS, is_kept, keep_bag
from dreamer_ros.training.run_replay import Prefetcher
from dreamer_ros.wire import topics
from dreamer_ros.wire.definitions import typestore
from tests.episodes.bags import (
    BLIND,
    PERIOD_NS,
    SPEC,
    START_NS,
    TWO_CAMERAS,
    cdr_messages,
    random_episode,
    write_episode,
)
from tests.replay.folders import dataset_of


def fill(folder, rng, lengths, first=0):
    """One bag per length, named and stamped in order."""
    return [
        write_episode(
            folder, f'bag{first + k:03d}', random_episode(rng, length, START_NS + (first + k) * 10_000 * PERIOD_NS)
        )
        for k, length in enumerate(lengths)
    ]


def make_old(path):
    """As if nothing had touched a bag for long."""
    then = time.time() - QUIET_SECONDS - 5
    for entry in (*path.iterdir(), path) if path.is_dir() else (path,):
        os.utime(entry, (then, then))


def reasons(store):
    return [str(problem) for problem in store.problems]


def test_bags_enter_once_in_order(tmp_path, rng):
    folder = tmp_path / 'episodes'
    store = dataset_of(folder, SPEC, 1000)
    assert store.refresh() == [] and store.steps == 0
    fill(folder, rng, [10, 5])
    infos = store.refresh()
    assert [(info.name, info.steps, info.complete) for info in infos] == [('bag000', 10, True), ('bag001', 5, True)]
    assert store.refresh() == []
    fill(folder, rng, [7], first=2)
    (info,) = store.refresh()
    assert info.name == 'bag002' and float(info.meta['return']) == info.total_reward
    assert (store.steps, store.episodes) == (22, 3)
    batch = store.sample(2, 22)
    assert np.flatnonzero(batch['is_first'][0]).tolist() == [0, 10, 15]
    assert batch['vector'].shape == (2, 22, 2)
    assert store.problems == []


@pytest.mark.parametrize('spec', [TWO_CAMERAS, BLIND], ids=['two cameras', 'no camera'])
def test_every_sense_is_sampled(tmp_path, rng, spec):
    episode = random_episode(rng, 10, spec=spec)
    write_episode(tmp_path, 'bag', episode, spec=spec)
    store = dataset_of(tmp_path, spec, 1000)
    store.refresh()
    batch = store.sample(1, 10)
    for key in ('image', 'vector', 'action'):
        assert np.array_equal(batch[key][0], getattr(episode, key))
    assert store.problems == []


def test_oldest_whole_episodes_leave(tmp_path, rng):
    fill(tmp_path, rng, [10, 20, 15, 12])
    store = dataset_of(tmp_path, SPEC, 30)
    assert len(store.refresh()) == 4
    assert (store.steps, store.episodes) == (27, 2)


def test_bad_bags_are_told_once_and_the_rest_is_used(tmp_path, rng):
    fill(tmp_path, rng, [10])
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'zero').mkdir()
    (tmp_path / 'zero' / 'zero_0.mcap').touch()
    (cut,) = fill(tmp_path, rng, [400], first=1)
    os.truncate(cut / 'bag001_0.mcap', (cut / 'bag001_0.mcap').stat().st_size * 2 // 3)
    (bare,) = fill(tmp_path, rng, [10], first=2)
    (bare / 'metadata.yaml').unlink()
    (flipped,) = fill(tmp_path, rng, [10], first=3)
    (flipped / 'metadata.yaml').write_text('\0')
    (tmp_path / 'notes.txt').write_text('not a bag')
    (tmp_path / '.hidden').mkdir()
    store = dataset_of(tmp_path, SPEC, 10_000)
    # What may still be on its way (copied, recorded by another tool) is waited for.
    assert [info.name for info in store.refresh()] == ['bag000']
    for path in (tmp_path / 'empty', tmp_path / 'zero', cut, bare, flipped):
        make_old(path)
    infos = store.refresh()
    assert [info.name for info in infos] == ['bag001', 'bag002', 'bag003']
    assert 50 < infos[0].steps < 400 and not infos[0].complete and infos[1].steps == 10
    told = reasons(store)
    for name in ('empty: ', 'zero: ', 'bag001: ', 'bag002: metadata.yaml is missing', 'bag003: metadata'):
        assert any(text.startswith(name) for text in told), (name, told)
    assert not any('notes' in text or 'hidden' in text for text in told)
    assert store.refresh() == [] and reasons(store) == told


def test_bag_still_being_recorded_by_another_tool_is_waited_for(tmp_path, rng):
    fill(tmp_path / 'away', rng, [10])
    whole = tmp_path / 'away' / 'bag000'
    folder = tmp_path / 'episodes'
    store = dataset_of(folder, SPEC, 100)
    copy = folder / 'bag000'
    copy.mkdir()
    data = (whole / 'bag000_0.mcap').read_bytes()
    (copy / 'bag000_0.mcap').write_bytes(data[: len(data) // 2])
    shutil.copy(whole / 'metadata.yaml', copy)
    assert store.refresh() == [] and store.problems == []
    (copy / 'bag000_0.mcap').write_bytes(data)
    assert [info.steps for info in store.refresh()] == [10] and store.problems == []


@pytest.mark.parametrize('storage', ['split', 'sqlite3', 'sqlite3 compressed', 'mcap compressed'])
def test_a_bag_that_is_being_copied_is_waited_for(tmp_path, rng, storage, monkeypatch):
    """metadata.yaml comes first, of the messages only a part."""
    episode = random_episode(rng, 100)
    if storage == 'split':
        monkeypatch.setattr(bag_writer, 'FILE_BYTES', 20_000)
        monkeypatch.setattr(bag_writer, 'CHUNK_BYTES', 8_000)
        whole = write_episode(tmp_path / 'away', 'bag', episode)
    else:
        whole = write_foreign(tmp_path / 'away', episode, storage)
    folder = tmp_path / 'episodes'
    store = dataset_of(folder, SPEC, 1000)
    copy = folder / 'bag'
    copy.mkdir()
    shutil.copy(whole / 'metadata.yaml', copy)
    files = bag_reader.bag_files(whole)
    assert (len(files) > 3) == (storage == 'split')
    for part in (0.0, 0.3, 0.9, 0.999):
        for file in files[: int(part * len(files))]:
            shutil.copy(file, copy)
        if storage != 'split':
            data = files[0].read_bytes()
            (copy / files[0].name).write_bytes(data[: int(part * len(data))])
        assert store.refresh() == [] and store.problems == []
    for file in files:
        shutil.copy(file, copy)
    if storage not in ('split', 'mcap'):  # files that do not tell whether they are whole
        assert store.refresh() == []
        make_old(copy)
    assert [info.steps for info in store.refresh()] == [100] and store.problems == []


@pytest.mark.parametrize('storage', ['sqlite3', 'sqlite3 compressed', 'mcap compressed'])
def test_a_finished_recording_of_another_tool_is_taken_at_once(tmp_path, rng, storage):
    path = write_foreign(tmp_path, random_episode(rng, 10), storage)
    now = time.time()
    os.utime(path / 'metadata.yaml', (now, now))
    for file in bag_reader.bag_files(path):
        os.utime(file, (now - 0.1, now - 0.1))
    assert [info.steps for info in dataset_of(tmp_path, SPEC, 100).refresh()] == [10]


def write_foreign(folder, episode, storage):
    """As `ros2 bag record` would."""
    kind = StoragePlugin.SQLITE3 if storage.startswith('sqlite3') else StoragePlugin.MCAP
    folder.mkdir(parents=True, exist_ok=True)
    writer = Writer(folder / 'bag', version=9, storage_plugin=kind)
    if storage.endswith('compressed'):
        writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    names = [topic.within('sim0') for topic in topics.PER_STEP]
    with writer:
        connections = {
            topic.name: writer.add_connection(topic.name, topic.type, typestore=typestore()) for topic in names
        }
        for name, cdr, stamp in cdr_messages(episode):
            writer.write(connections[name], stamp, cdr)
    return folder / 'bag'


def test_single_files_of_every_kind(tmp_path, rng):
    folder = tmp_path / 'episodes'
    store = dataset_of(folder, SPEC, 1000)
    for k, storage in enumerate(('sqlite3', 'mcap', 'sqlite3 compressed', 'mcap compressed')):
        made = write_foreign(tmp_path / storage, random_episode(rng, 10, START_NS + k * 10**12), storage)
        [file] = bag_reader.bag_files(made)
        copy = shutil.copy(file, folder / f'{k}{"".join(file.suffixes)}')
        make_old(Path(copy))
    write_arrays(folder / '4.npz', random_episode(rng, 10, START_NS + 4 * 10**12), SPEC)
    other = dataclasses.replace(SPEC, control_period=0.5)
    write_arrays(folder / '5.npz', random_episode(rng, 10, START_NS), other)
    (folder / '6.npz').write_bytes(b'nothing')
    make_old(folder / '6.npz')
    infos = store.refresh()
    assert [(info.name, info.steps) for info in infos] == [
        ('0.db3', 10),
        ('1.mcap', 10),
        ('2.db3.zstd', 10),
        ('3.mcap.zstd', 10),
        ('4.npz', 10),
    ]
    told = reasons(store)
    assert len(told) == 2 and told[0].startswith('5.npz: recorded from another robot: control_period')
    assert told[1].startswith('6.npz: expected a NumPy file')
    keep_bag(folder / '2.db3.zstd')
    assert is_kept(folder / '2.db3.zstd') and (folder / '2.db3.zstd.keep').exists()
    assert len(dataset_of(folder, SPEC, 1000).refresh()) == 5


def test_single_files_that_do_not_show_their_end_are_waited_for(tmp_path, rng):
    store = dataset_of(tmp_path / 'episodes', SPEC, 1000)
    made = write_foreign(tmp_path / 'made', random_episode(rng, 10), 'sqlite3')
    copies = [shutil.copy(bag_reader.bag_files(made)[0], tmp_path / 'episodes' / name) for name in ('0.db3', '1.db3')]
    assert store.refresh() == store.refresh() == []
    [told] = reasons(store)
    assert told.startswith('0.db3: ') and 'for 60 s' in told
    make_old(Path(copies[0]))
    [info] = store.refresh()
    assert info.name == '0.db3' and len(store.problems) == 1


def test_a_copy_of_a_bag_is_not_loaded_again(tmp_path, rng):
    (whole,) = fill(tmp_path, rng, [10])
    shutil.copytree(whole, tmp_path / 'copy')
    shutil.copy(whole / 'bag000_0.mcap', tmp_path / 'loose.mcap')
    store = dataset_of(tmp_path, SPEC, 100)
    assert len(store.refresh()) == 1 and store.steps == 10
    assert reasons(store) == [f'{name}: holds the same episode as bag000' for name in ('copy', 'loose.mcap')]


CRASH = """
import os, sys
from pathlib import Path
import numpy as np
from dreamer_ros.wire import topics
from dreamer_ros.episodes.bag_writer import (EpisodeWriter)
from tests.episodes.bags import cdr_messages, random_episode
writer = EpisodeWriter(Path(sys.argv[1]), 'crashed', [t.within('sim0') for t in topics.PER_STEP], {})
for row in cdr_messages(random_episode(np.random.default_rng(1), 400)):
    writer.write(*row)
os.kill(os.getpid(), 9)
"""


def test_leftovers_are_recovered_but_live_writers_left_alone(tmp_path, rng):
    result = subprocess.run([sys.executable, '-c', CRASH, str(tmp_path)], timeout=60)
    assert result.returncode == -9
    writer = EpisodeWriter(tmp_path, 'live', [topic.within('sim0') for topic in topics.PER_STEP], {})
    rows = cdr_messages(random_episode(rng, 30))
    for row in rows[:75]:
        writer.write(*row)
    partial_path(tmp_path, 'dead').mkdir()  # a writer that died before its first chunk
    store = dataset_of(tmp_path, SPEC, 10_000)
    (info,) = store.refresh()
    assert info.name == 'crashed' and info.steps > 150 and not info.complete
    assert any('nothing to recover' in text for text in reasons(store))
    count = len(store.problems)
    for row in rows[75:]:
        writer.write(*row)
    writer.close({})
    (info,) = store.refresh()
    assert info.name == 'live' and info.steps == 30 and info.complete
    assert len(store.problems) == count


LOOP = """
import sys
from pathlib import Path
import numpy as np
from dreamer_ros.wire import topics
from dreamer_ros.episodes.bag_writer import (EpisodeWriter)
from tests.episodes.bags import START_NS, cdr_messages, random_episode
life = int(sys.argv[2])
rows = [
    cdr_messages(random_episode(np.random.default_rng([life, k]), 250, START_NS + (life * 50 + k) * 10**12))
    for k in range(3)
]
print('ready', flush=True)
for k in range(1000):
    name = f'bag{life:03d}-{k:03d}'
    writer = EpisodeWriter(Path(sys.argv[1]), name, [t.within('sim0') for t in topics.PER_STEP], {})
    for row in rows[k % 3]:
        writer.write(*row)
    if k < 3:
        writer.close({})
    else:
        writer.abort()
"""


def test_kill_9_at_any_moment(tmp_path, rng):
    """Writers die one after the other while a store looks on; nothing whole is lost, nothing comes twice."""
    store = dataset_of(tmp_path, SPEC, 10_000)
    infos = []
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, '-c', LOOP, str(tmp_path), str(life)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout.readline().strip() == 'ready'
            end = time.monotonic() + rng.uniform(0, 0.3)
            while time.monotonic() < end:
                infos += store.refresh()
        finally:
            process.kill()
            process.wait(timeout=20)
            process.stdout.close()
        infos += store.refresh()
        for info in infos:
            life_of, k = int(info.name[3:6]), int(info.name[7:10])
            expected = random_episode(np.random.default_rng([life_of, k % 3]), 250)
            assert info.steps == 250 if info.complete else info.steps < 250
            assert info.total_reward == expected.reward[: info.steps].sum(dtype=np.float64)
    names = [info.name for info in infos]
    assert len(set(names)) == len(names)
    # Each death left at most one bag that is not complete.
    assert sum(not info.complete for info in infos) <= 4
    assert sum(info.complete for info in infos) >= 1
    # Some of the episodes are alike.
    known = ('nothing to recover', 'without', 'same episode', 'the end is missing')
    assert all(any(words in text for words in known) for text in reasons(store)), reasons(store)


def test_bag_of_another_robot_is_refused(tmp_path, rng):
    write_episode(tmp_path, 'other', random_episode(rng, 5), {'spec_hash': '0123456789abcdef', 'spec': '{}'})
    store = dataset_of(tmp_path, SPEC, 100)
    assert store.refresh() == [] and 'another robot' in reasons(store)[0]


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='expected a directory'):
        dataset_of(tmp_path / 'file', SPEC, 100)


def test_resumed_store_gives_the_same_samples(tmp_path, rng):
    fill(tmp_path, rng, [20, 30, 25, 9])
    (tmp_path / 'bad').mkdir()
    make_old(tmp_path / 'bad')
    store = dataset_of(tmp_path, SPEC, 70, seed=3)
    # Not in the order of names: what came late is at the end of the buffer.
    (tmp_path / 'bag001').rename(tmp_path.parent / 'late')
    store.refresh()
    (tmp_path.parent / 'late').rename(tmp_path / 'bag001')
    assert [info.name for info in store.refresh()] == ['bag001']
    for _ in range(3):
        store.sample(4, 10)
    state = json.loads(json.dumps(store.state_dict()))
    resumed = dataset_of(tmp_path, SPEC, 70, seed=77)
    resumed.load_state_dict(state)
    assert resumed.refresh() == [] and resumed.problems == []
    for _ in range(5):
        one, other = store.sample(4, 10), resumed.sample(4, 10)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    # The first bag left the buffer before the stop and stays out; new ones come in.
    assert resumed.steps == store.steps == 64
    fill(tmp_path, rng, [4], first=10)
    assert [info.name for info in resumed.refresh()] == ['bag010']


def test_resume_after_bags_were_deleted(tmp_path, rng):
    bags = fill(tmp_path, rng, [20, 30, 25])
    store = dataset_of(tmp_path, SPEC, 1000)
    store.refresh()
    state = store.state_dict()
    shutil.rmtree(bags[1])
    resumed = dataset_of(tmp_path, SPEC, 1000)
    resumed.load_state_dict(state)
    assert resumed.steps == 45 and any('bag001' in text for text in reasons(resumed))
    resumed.sample(4, 10)


def test_prefetcher_gives_what_sampling_gives(tmp_path, rng):
    fill(tmp_path, rng, [20, 30])
    stores = [dataset_of(tmp_path, SPEC, 1000, seed=3) for _ in range(3)]
    for store in stores:
        store.refresh()
    plain, fetched, resumed = stores
    with contextlib.closing(Prefetcher(fetched, batch=4, length=8)) as prefetcher:
        for _ in range(6):
            np.testing.assert_array_equal(prefetcher.next()['image'], plain.sample(4, 8)['image'])
        # Batches made ahead do not count as given.
        state = prefetcher.state_dict()
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(resumed.sample(4, 8)['index'], plain.sample(4, 8)['index'])
    with pytest.raises(RuntimeError, match='closed'):
        prefetcher.next()


def test_prefetcher_hands_errors_over_and_ends(tmp_path, rng):
    fill(tmp_path, rng, [5])
    store = dataset_of(tmp_path, SPEC, 100)
    store.refresh()
    before = threading.active_count()
    with contextlib.closing(Prefetcher(store, batch=4, length=8)) as prefetcher:
        for _ in range(2):
            with pytest.raises(InputError, match='needs 8 steps, the replay holds 5'):
                prefetcher.next()
    assert threading.active_count() == before


def test_sampling_while_bags_come_in(tmp_path, rng):
    """Samples taken while episodes enter and leave are whole: every row is a row of the bag it names."""
    episodes = [random_episode(rng, 20, START_NS + k * 10_000 * PERIOD_NS) for k in range(30)]
    known = {step.tobytes(): (k, t) for k, episode in enumerate(episodes) for t, step in enumerate(episode.image)}
    write_episode(tmp_path, 'bag000', episodes[0])
    store = dataset_of(tmp_path, SPEC, 70)
    store.refresh()
    done = threading.Event()

    def come():
        for k, episode in enumerate(episodes[1:], start=1):
            write_episode(tmp_path, f'bag{k:03d}', episode)
            store.refresh()
        done.set()

    thread = threading.Thread(target=come)
    thread.start()
    checked = 0
    with contextlib.closing(Prefetcher(store, batch=4, length=10)) as prefetcher:
        while not done.is_set() or checked < 50:
            batch = prefetcher.next()
            for b in range(4):
                places = [known[image.tobytes()] for image in batch['image'][b]]
                for t, (k, row) in enumerate(places):
                    assert batch['reward'][b, t] == episodes[k].reward[row]
                    assert batch['is_first'][b, t] == (row == 0)
                    if t:
                        assert places[t - 1] in ((k, row - 1), (k - 1, 19))
            checked += 1
    thread.join()
    assert store.steps == 60 and store.problems == []
