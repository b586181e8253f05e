"""Folders and files that somebody made to do harm: they are named and left out, and cost neither time nor memory."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys

import lz4.frame
import numpy as np
import pytest
import zstandard
from mcap.opcode import Opcode
from mcap.writer import Writer

from dreamer_ros.cli.main import main
from dreamer_ros.episodes import bag_reader, mcap_scan
from dreamer_ros.episodes.bag_reader import Bag, entries, open_bag
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.inspect import describe, format_table
from dreamer_ros.episodes.recovery import recover, recover_all
from dreamer_ros.episodes.report import Report
from dreamer_ros.errors import InputError
from tests.episodes.bags import SPEC, assert_equal, cdr_messages, random_episode, write_episode, write_raw
from tests.episodes.robot_bags import contract, played, sensors, write_robot_bag
from tests.replay.folders import dataset_of

NOT_UTF8 = os.fsdecode(b'caf\xe9_1.mcap')


def reasons(problems):
    return ' | '.join(problem.reason for problem in problems)


def strew(folder, secret):
    """Put a pipe, a link to another folder's file, a link to nothing and a name that is not UTF-8 into a folder."""
    os.mkfifo(folder / 'pipe.mcap')
    (folder / 'secret_2.mcap').symlink_to(secret)
    (folder / 'circle_3.mcap').symlink_to('circle_3.mcap')
    (folder / NOT_UTF8).write_bytes(b'')


def test_strange_entries_of_a_bag_are_named_and_left_out(tmp_path, rng):
    episode = random_episode(rng, 10)
    path = write_episode(tmp_path / 'bags', 'bag', episode)
    secret = write_episode(tmp_path / 'elsewhere', 'other', random_episode(rng, 4)) / 'other_0.mcap'
    strew(path, secret)
    [found], problems = read_episodes(path, SPEC)
    assert_equal(found, episode)
    for complaint in (
        'pipe.mcap is left out: it is neither a file nor a directory',
        'secret_2.mcap is left out: it is a link that leads out of its folder',
        'circle_3.mcap is left out: it can not be read',
        r'caf\xe9_1.mcap is left out: its name is not UTF-8',
    ):
        assert reasons(problems).count(complaint) == 1
    reasons(problems).encode()
    [(_, sentence, sound)] = recover_all(path)
    assert sound and 'is whole' in sentence


def test_strange_entries_of_a_folder(tmp_path, rng, capsys):
    folder = tmp_path / 'bags'
    write_episode(folder, 'bag', random_episode(rng, 10))
    strew(folder, write_episode(tmp_path / 'elsewhere', 'other', random_episode(rng, 4)) / 'other_0.mcap')
    report = Report(folder)
    assert [entry.name for entry in entries(folder, report)] == ['bag'] and len(report) == 4
    rows = {row.name: row.problem for row in describe(folder)}
    assert list(rows) == ['bag', r'caf\xe9_1.mcap', 'circle_3.mcap', 'pipe.mcap', 'secret_2.mcap']
    assert not rows['bag'] and 'neither a file nor a directory' in rows['pipe.mcap']
    format_table(describe(folder)).encode()
    assert main(['bag', 'info', str(folder), '--full']) == 0
    assert r'caf\xe9_1.mcap: it can not be opened: its name is not UTF-8' in capsys.readouterr().out
    assert [bag.name for bag, *_ in recover_all(folder)] == ['bag']


def test_strange_entries_of_a_replay_folder(tmp_path, rng):
    """Each is named once, at the first look; the bag is learnt from."""
    folder = tmp_path / 'bags'
    write_episode(folder, 'bag', random_episode(rng, 10))
    strew(folder, tmp_path / 'nothing.mcap')
    dataset = dataset_of(folder, SPEC, 1000)
    for _ in range(2):
        dataset.refresh()
        assert dataset.steps == 10 and len(dataset.problems) == 4
    told = ' | '.join(map(str, dataset.problems))
    assert r'caf\xe9_1.mcap: can not be opened: its name is not UTF-8' in told and 'pipe.mcap: can not be' in told


def test_a_bag_that_is_renamed_while_it_is_looked_at_is_nothing_strange(tmp_path, monkeypatch):
    """As a recorder does when an episode ends."""
    (tmp_path / 'bag').mkdir()
    status = bag_reader.Path.stat

    def renamed_before(path, **options):
        if not options and path.exists():
            path.rename(tmp_path / 'whole')
        return status(path, **options)

    monkeypatch.setattr(bag_reader.Path, 'stat', renamed_before)
    monkeypatch.setattr(bag_reader.Path, 'exists', os.path.exists)
    assert bag_reader.unsafe(tmp_path / 'bag') == '' and (tmp_path / 'whole').is_dir()


def test_a_pipe_is_no_bag(tmp_path):
    os.mkfifo(tmp_path / 'pipe.mcap')
    found, problems = read_episodes(tmp_path / 'pipe.mcap', SPEC)
    assert not found and 'neither a file nor a directory' in reasons(problems)
    with pytest.raises(InputError, match='pipe.mcap: it can not be opened: it is neither'):
        open_bag(tmp_path / 'pipe.mcap')


def test_metadata_that_is_a_pipe(tmp_path, rng):
    path = write_episode(tmp_path, 'bag', random_episode(rng, 10))
    (path / 'metadata.yaml').unlink()
    os.mkfifo(path / 'metadata.yaml')
    [found], problems = read_episodes(path, SPEC)
    assert len(found) == 10 and 'metadata.yaml can not be opened: it is neither' in reasons(problems)


def write_chunk(path, compression, data, declared):
    """An MCAP file of one chunk that says it holds so many bytes."""
    with path.open('wb') as stream:
        writer = Writer(stream)
        writer.start()
        fields = struct.pack('<QQQI', 0, 0, declared, 0)
        fields += struct.pack('<I', len(compression)) + compression.encode() + struct.pack('<Q', len(data)) + data
        stream.write(struct.pack('<BQ', Opcode.CHUNK, len(fields)) + fields)
    return path


BOMB = 3 * 2**30


@pytest.fixture(scope='module')
def bomb():
    """About 100 kB of Zstandard that decompress to 3 GiB."""
    compressor = zstandard.ZstdCompressor().compressobj(size=BOMB)
    block = bytes(2**24)
    return b''.join(compressor.compress(block) for _ in range(BOMB // len(block))) + compressor.flush()


@pytest.mark.parametrize('declared', [BOMB, 1000])
def test_a_chunk_that_would_fill_the_memory(tmp_path, bomb, declared):
    """Read in a process that may not take 1.5 GB."""
    path = write_chunk(tmp_path / 'bomb.mcap', 'zstd', bomb, declared)
    code = (
        'import sys\nfrom pathlib import Path\nfrom dreamer_ros.episodes.bag_reader import Bag\n'
        'print(Bag(Path(sys.argv[1])).report[0].reason)'
    )
    limit = 1500 * 2**20
    ran = subprocess.run(
        [sys.executable, '-c', code, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    assert f'it declares {BOMB} bytes, and at most {mcap_scan.LARGEST} are read' in ran.stdout, ran.stderr


def test_a_bag_with_what_is_not_read_is_not_recovered(tmp_path, bomb, rng):
    """Recovery would delete the file with what it leaves out."""
    path = write_episode(tmp_path, 'bag', random_episode(rng, 10))
    (path / 'metadata.yaml').unlink()
    file = write_chunk(path / 'bag_1.mcap', 'zstd', bomb, BOMB)
    with pytest.raises(InputError, match='bag: not recovered, it holds a record of more than'):
        recover(path)
    assert file.exists() and (path / 'bag_0.mcap').exists()


def test_lz4_that_holds_more_than_it_says(tmp_path):
    path = write_chunk(tmp_path / 'bomb.mcap', 'lz4', lz4.frame.compress(bytes(2**26)), 100)
    assert Bag(path).messages == []


def test_a_compressed_file_that_would_fill_the_disk(tmp_path, bomb, monkeypatch):
    monkeypatch.setattr(bag_reader, 'LARGEST_FILE', 2**20)
    (tmp_path / 'bomb.mcap.zstd').write_bytes(bomb)
    found, problems = read_episodes(tmp_path / 'bomb.mcap.zstd', SPEC)
    assert not found and f'it holds more than {2**20} bytes' in reasons(problems)


def test_a_record_larger_than_any(tmp_path, rng, monkeypatch):
    """Of a chunk and of a message outside of chunks; the others are read."""
    monkeypatch.setattr(mcap_scan, 'LARGEST', 3000)
    rows = cdr_messages(random_episode(rng, 10))
    path = write_raw(tmp_path, 'bag', [*rows, (rows[0][0], bytes(rows[0][1]) + bytes(4000), rows[-1][2])])
    _, problems = read_episodes(path, SPEC)
    assert 'and at most 3000 are read' in reasons(problems)


@pytest.mark.parametrize('time', [2**63 - 1, 2**31 * 10**9, 2**64 - 1])
def test_times_that_are_none(tmp_path, rng, time):
    """A robot's topics without stamps of their own count by their time of publication."""
    agent = played(rng, sensors(rng, 4.0), 30)
    robot = contract()
    rows = list(agent.rows)
    path = write_robot_bag(tmp_path, 'bag', rows, robot)
    file = path / 'bag_0.mcap'
    scan = mcap_scan.scan_mcap(file)
    with file.open('wb') as stream:
        writer = Writer(stream)
        writer.start(profile='ros2')
        numbers = {
            topic.name: writer.register_channel(
                topic.name, 'cdr', writer.register_schema(topic.type, 'ros2msg', topic.definition.encode())
            )
            for topic in scan.topics.values()
        }
        for k, message in enumerate(scan.messages):
            when = time if k == 40 else message.time
            writer.add_message(numbers[message.topic], when, bytes(message.data), when)
        writer.finish()
    found, problems = read_episodes(path, robot.spec)
    assert 'left out, recorded at a time that is none (before 1970 or after 2038): 1 on /' in reasons(problems)
    assert found and all(episode.stamp.max() < 2**31 * 10**9 for episode in found)


def test_stamps_before_1970(tmp_path, rng):
    rows = []
    for k, (name, cdr, stamp) in enumerate(cdr_messages(random_episode(rng, 10))):
        if k == 17:
            cdr = cdr[:4] + (-5).to_bytes(4, 'little', signed=True) + cdr[8:]
        rows.append((name, cdr, stamp))
    found, problems = read_episodes(write_raw(tmp_path, 'bag', rows), SPEC)
    assert [len(episode) for episode in found] == [3, 6]
    assert '1 messages on /sim0/joint_states have a stamp before 1970' in reasons(problems)


def test_a_reward_that_no_learner_can_represent(tmp_path, rng):
    episode = random_episode(rng, 20)
    episode.reward[5] = np.float32(1e20)
    found, problems = read_episodes(write_episode(tmp_path, 'bag', episode), SPEC)
    assert [len(part) for part in found] == [5, 14]
    assert str(problems[0]).startswith('bag: 1 of 20 steps dropped: 1 with a reward beyond ±1e+09 at')
