"""Bags damaged at random, and what reading them may come to.

However a bag is damaged, reading it must end soon and without an exception; every step that comes out must be the one
that went in, next to its own neighbours; and where a step is missing something must be said. Only what nobody could
know is let through: pixels of a message that was written anew with a new checksum, and files that have none (sqlite3,
NumPy) with other numbers in them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from dreamer_ros.episodes import bag_writer
from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.recovery import recover
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import topics
from dreamer_ros.wire.codecs import header_stamp
from dreamer_ros.wire.definitions import typestore
from tests.episodes.bags import SPEC, cdr_messages, random_episode
from tests.episodes.robot_bags import contract, played, sensors, write_robot_bag
from tests.episodes.test_robot_bag import teleoperated, write_foreign

LIMIT = 20  # seconds that reading one small bag may take on a busy machine
ARRAYS = ('image', 'vector', 'action', 'reward', 'is_terminal')
Row = tuple[str, bytes, int]


@dataclasses.dataclass
class Original:
    """A sound bag.

    Attributes:
        rows: its messages, where they can be written anew by `write`.
        checked: whether a checksum guards what its files hold.
    """

    name: str
    path: Path
    spec: RobotSpec
    episodes: list[Episode]
    checked: bool = True
    rows: list[Row] | None = None
    contract: RobotContract | None = None

    def write(self, folder: Path, rows: list[Row], types: dict[str, str]) -> Path:
        """The bag with other messages, and other types of topics."""
        if self.name == 'robot':
            return write_robot_bag(folder, 'bag', rows, contract(), types=types)
        types = {name.partition('/sim0/')[2]: kind for name, kind in types.items()}
        names = [topic.within('sim0') for topic in topics.PER_STEP]
        names = [dataclasses.replace(topic, type=types.get(topic.name, topic.type)) for topic in names]
        writer = EpisodeWriter(folder, 'bag', names, {'spec': self.spec.to_json(), 'spec_hash': self.spec.hash})
        for row in rows:
            writer.write(*row)
        return writer.close({})


def originals(folder: Path, rng: np.random.Generator) -> list[Original]:
    """A bag of each kind: our own topics, a robot's with an agent and without, other storages."""
    with mock.patch.object(bag_writer, 'CHUNK_BYTES', 8000):  # several chunks in bags of this size
        return _originals(folder, rng)


def _originals(folder: Path, rng: np.random.Generator) -> list[Original]:
    episodes = [random_episode(rng, 25), random_episode(rng, 15, start=2 * 10**18)]
    rows = [row for episode in episodes for row in cdr_messages(episode)]
    made = Original('wire', folder / 'bag', SPEC, episodes, rows=rows)
    made.write(folder, rows, {})
    agent = played(rng, sensors(rng, 3.0), 20)
    robot = contract()
    foreign = teleoperated(rng, 3.0)[2]
    kinds = [
        made,
        Original('robot', write_robot_bag(folder, 'robot', agent.rows, robot), robot.spec, [], rows=agent.rows),
        Original('teleoperated', write_robot_bag(folder, 'teleoperated', foreign), robot.spec, [], contract=robot),
        Original(
            'sqlite3', write_foreign(folder / 'sqlite3', foreign, 'sqlite3'), robot.spec, [], False, contract=robot
        ),
    ]
    with Writer(folder / 'plain', version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {
            topic.within('sim0').name: writer.add_connection(
                topic.within('sim0').name, topic.type, typestore=typestore()
            )
            for topic in topics.PER_STEP
        }
        for name, cdr, stamp in rows:
            writer.write(connections[name], stamp, cdr)
    kinds.append(Original('wire in sqlite3', folder / 'plain', SPEC, [], False))
    for kind in kinds[1:]:
        kind.episodes, _ = read_episodes(kind.path, kind.spec, kind.contract)
        assert kind.episodes, kind.name
    return kinds


# Damage to files


def _truncated(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(0, len(data) + 1))]


def _flipped(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.choice([1, 1, 1, 2, 5, 30]))):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def _overwritten(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = _place(data, rng), int(rng.integers(1, 300))
    noise = rng.bytes(length) if rng.integers(2) else bytes(length)
    data[start : start + length] = noise[: len(data[start : start + length])]
    return data


def _without_part(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(data, rng)
    del data[start : start + int(rng.integers(1, 2000))]
    return data


def _repeated_part(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, end = sorted(_place(data, rng) for _ in range(2))
    data[end:end] = data[start:end]
    return data


def _swapped_parts(data: bytearray, rng: np.random.Generator) -> bytearray:
    first, second, third = sorted(_place(data, rng) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """Anywhere, but often near the beginning, where the structure is."""
    return int(rng.integers(0, min(len(data), 600) if rng.integers(3) == 0 else len(data)))


FILE_DAMAGE: dict[str, Callable] = {
    'truncated': _truncated,
    'flipped': _flipped,
    'overwritten': _overwritten,
    'without a part': _without_part,
    'with a repeated part': _repeated_part,
    'with swapped parts': _swapped_parts,
}


def damage_files(original: Original, target: Path, rng: np.random.Generator) -> str:
    """A copy of a bag with a damaged file; says what was done."""
    shutil.copytree(original.path, target)
    files = sorted(target.iterdir())
    file = (
        files[int(rng.integers(len(files)))]
        if rng.integers(5) == 0
        else next(file for file in files if file.name != 'metadata.yaml')
    )
    if rng.integers(20) == 0:
        file.unlink()
        return f'{file.name} deleted'
    what = str(rng.choice(list(FILE_DAMAGE)))
    data = FILE_DAMAGE[what](bytearray(file.read_bytes()), rng)
    file.write_bytes(data)
    return f'{file.name} {what}'


# Damage to messages, under new checksums


def damage_messages(original: Original, folder: Path, rng: np.random.Generator) -> tuple[str, Path]:
    """A bag written anew with wrong messages; says what was done."""
    rows, types = list(original.rows), {}
    what = str(rng.choice(['order', 'lost', 'repeated', 'stamps', 'cut', 'garbage', 'other topic', 'type', 'values']))
    # What has no header has no stamp that could be wrong in it, and is nothing but its value.
    stamped = [k for k, (name, _, _) in enumerate(rows) if name not in ('range', 'cmd_vel')]
    chosen = rng.choice(stamped, int(rng.choice([1, 2, 10])), replace=False)
    if what == 'order':
        rows = [rows[k] for k in rng.permutation(len(rows))]
    elif what == 'lost':
        rows = [row for k, row in enumerate(rows) if k not in chosen]
    elif what == 'repeated':
        rows += [rows[k] for k in chosen]
    elif what == 'type':
        name = rows[int(chosen[0])][0]
        types[name] = str(
            rng.choice(
                [topic.type for topic in topics.PER_STEP if topic.within('sim0').name != name]
                + ['std_msgs/msg/String', 'sensor_msgs/msg/CompressedImage']
            )
        )
    for k in chosen.tolist() if what in ('stamps', 'cut', 'garbage', 'other topic', 'values') else ():
        name, cdr, time = rows[k]
        if what == 'stamps':
            other = header_stamp(rows[int(rng.choice(stamped))][1]) if rng.integers(2) else int(rng.integers(0, 2**62))
            cdr = cdr[:4] + struct.pack('<II', other // 10**9 % 2**31, other % 10**9) + cdr[12:]
        elif what == 'cut':
            cdr = cdr[: int(rng.integers(0, len(cdr)))]
        elif what == 'garbage':
            cdr = cdr[:12] + rng.bytes(int(rng.integers(0, 2 * len(cdr))))
        elif what == 'other topic':
            other = [row[1] for row in original.rows if row[0] != name]
            cdr = cdr[:12] + other[int(rng.integers(len(other)))][12:]
        elif name.endswith(('step', 'action', 'joint_states')):  # not finite
            places = list(range(len(cdr) - 8, 12, -8 if name.endswith(('step', 'states')) else -4))[:2]
            cdr = bytearray(cdr)
            for place in places:
                cdr[place : place + 8] = b'\xff' * 8
        rows[k] = name, bytes(cdr), time
    return f'messages: {what}', original.write(folder, rows, types)


# Judgement


class Wrong(AssertionError):
    """Reading a damaged bag came to something it must not."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_):
        raise Wrong(f'took more than {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(original: Original, path: Path, guarded: bool) -> tuple[int, int]:
    """Read a damaged bag.

    Args:
        guarded: whether checksums guard what steps are made of.

    Returns:
        How many steps were read, and how many problems were told.

    Raises:
        Wrong: see the module.
    """
    with within(LIMIT):
        episodes, problems = read_episodes(path, original.spec, original.contract)
    places = {
        stamp: (number, k)
        for number, episode in enumerate(original.episodes)
        for k, stamp in enumerate(episode.stamp.tolist())
    }
    found = [stamp for episode in episodes for stamp in episode.stamp.tolist()]
    if not problems and len(found) < len(places):
        raise Wrong(f'{len(places) - len(found)} steps vanished in silence')
    if not guarded:
        return len(found), len(problems)
    for episode in episodes:
        last = None
        for k, stamp in enumerate(episode.stamp.tolist()):
            if stamp not in places:
                raise Wrong(f'a step of {stamp} that never was')
            number, row = places[stamp]
            for name in ARRAYS:
                # The action at the last step is no part of the episode, and may be missing.
                if name == 'action' and episode.is_last[k]:
                    continue
                if not np.array_equal(getattr(episode, name)[k], getattr(original.episodes[number], name)[row]):
                    raise Wrong(f'{name} of {stamp} differs')
            if last is not None and (number, row) != (last[0], last[1] + 1):
                raise Wrong(f'{stamp} follows what it did not follow')
            last = number, row
    if len(set(found)) < len(found):
        raise Wrong('a step came twice')
    return len(found), len(problems)


def run(kinds: list[Original], folder: Path, rng: np.random.Generator) -> tuple[str, int, int]:
    """Damage one bag, read it; now and then recover it first.

    Returns:
        What was done, steps read, problems told.

    Raises:
        Wrong: see the module; says what was done.
    """
    original = kinds[int(rng.integers(len(kinds)))]
    target = folder / 'bag'
    shutil.rmtree(target, ignore_errors=True)
    guarded = original.checked
    if original.rows and rng.integers(2):
        what, target = damage_messages(original, folder, rng)
        guarded = 'garbage' not in what
    else:
        what = damage_files(original, target, rng)
        # Where steps are laid, a lost message changes what the next step sees, as it would have in the world.
        guarded = guarded and original.contract is None
    what = f'{original.name}: {what}'
    try:
        if original.checked and rng.integers(8) == 0:
            what += ', recovered'
            with within(LIMIT):
                try:
                    recover(target)
                    guarded = guarded and 'messages: stamps' not in what
                except InputError:
                    return f'{what} in vain', 0, 1
        return (what, *judge(original, target, guarded))
    except Wrong as error:
        raise Wrong(f'{what}: {error}') from error
    except Exception as error:
        raise Wrong(f'{what}: {type(error).__name__}: {error}') from error
