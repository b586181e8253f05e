"""Reads a bag of any storage, whole or damaged: its files, its messages, and whose they are."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import re
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from dreamer_ros.episodes.episode import embedded_contract
from dreamer_ros.episodes.mcap_scan import CDR, RawMessage, Store, scan_mcap
from dreamer_ros.episodes.report import Problem, left_out
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.schema import load_yaml
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.topics import SENSOR, STEP, QoS, Topic

# Files of bags: MCAP and sqlite3, and either as rosbag2 compresses whole files.
SUFFIXES = ('.mcap', '.db3', '.mcap.zstd', '.db3.zstd')
# Key of custom_data that tells what was lost when the bag was recovered.
DAMAGE = 'damage'
# Name of the MCAP metadata record that keeps custom_data where a crash can't lose it.
CUSTOM_DATA = 'dreamer_ros'


def partial_path(folder: Path, name: str) -> Path:
    """Where a bag lies while it is written; hidden from `ros2 bag` and from the store."""
    return folder / f'.{name}.partial'


def is_partial(path: Path) -> bool:
    """Whether a directory is a bag being written, or left by a crash."""
    return path.name.startswith('.') and path.name.endswith('.partial')


def read_metadata(path: Path) -> dict[str, Any]:
    """`rosbag2_bagfile_information` of a bag directory.

    Raises:
        InputError: metadata.yaml is missing or not what rosbag2 writes.
    """
    file = path / 'metadata.yaml'
    if not file.exists():
        raise InputError(f'{path.name}: metadata.yaml is missing')
    content = load_yaml(file, f'{path.name}: metadata.yaml is damaged', exponents=False)
    information = content.get('rosbag2_bagfile_information') if isinstance(content, dict) else None
    if (
        not isinstance(information, dict)
        or not isinstance(information.get('custom_data') or {}, dict)
        or not isinstance(information.get('relative_file_paths') or [], list)
    ):
        raise InputError(f'{path.name}: metadata.yaml does not describe a bag')
    return information


def missing_files(path: Path, information: Mapping[str, Any]) -> list[str]:
    """Files of a bag directory that its metadata tells of, and that are not in it, compressed or not."""
    found = {name for file in bag_files(path) for name in (file.name, file.stem)}
    return sorted({Path(str(name)).name for name in information.get('relative_file_paths') or ()} - found)


def bag_files(path: Path) -> list[Path]:
    """Every file of a bag directory that holds messages, of any storage, in order."""
    return sorted((file for suffix in SUFFIXES for file in path.glob(f'*{suffix}')), key=_place)


def is_bag(path: Path) -> bool:
    """Whether a directory is a bag with or without its metadata.yaml, rather than a folder of bags: all files in it
    are called as those of one bag are, NAME_0.mcap, NAME_1.mcap, …, and no directory is beside them.
    """
    if (path / 'metadata.yaml').exists():
        return True
    names = {re.sub(r'_\d+$', '', bag_name(file)) for file in bag_files(path)}
    return len(names) == 1 and not any(entry.is_dir() and not entry.name.startswith('.') for entry in path.iterdir())


def bag_name(path: Path) -> str:
    """Of a bag directory, or of a single file of one without its suffix; there may be dots in either."""
    name = path.name
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and not path.is_dir()), '')
    return name[: len(name) - len(suffix)]


def mcap_files(path: Path) -> list[Path]:
    """MCAP files of a bag directory in order: `NAME_2.mcap` comes before `NAME_10.mcap`."""
    return sorted(path.glob('*.mcap'), key=_place)


def _place(file: Path) -> tuple[int, str]:
    return len(file.name), file.name


ZSTD = '.zstd'
# How compressed messages begin, and CDR does.
FRAME = zstandard.FRAME_HEADER
PLAIN = (b'\0\0', b'\0\1')
NOT_CDR = 'not CDR of a known type'
# How the problem begins that `recover` has dealt with.
RECOVERED = 'recovered from damage'
# No message is larger: what claims to be is damaged.
LARGEST_MESSAGE = 2**30


@dataclasses.dataclass
class Recording:
    """What a bag holds.

    Attributes:
        messages: in the order of the files.
        types: of the topics, by name; of topics without messages, too.
        custom_data: what the recorder noted.
        others: whole messages that are not CDR of a known type, which nothing here can decode.
    """

    messages: list[RawMessage]
    types: dict[str, str]
    custom_data: dict[str, str]
    others: list[RawMessage] = dataclasses.field(default_factory=list)


def load_recording(path: Path, problems: list[Problem]) -> Recording:
    """Read a bag: a directory as `ros2 bag` writes it, or a single file of one.

    MCAP and sqlite3, any version of metadata.yaml or none, several files, rosbag2's own compression.

    Args:
        problems: gets what is damaged or missing.

    Raises:
        InputError: nothing in it can be read.
        OSError: the disk refuses.
    """
    information: dict[str, Any] = {}
    if path.is_dir():
        try:
            information = read_metadata(path)
        except InputError as error:
            problems.append(Problem(path, str(error).split(': ', 1)[1]))
        files = bag_files(path)
        if not files:
            raise InputError('no MCAP file and no sqlite3 file is in it')
        problems += [Problem(path, f'{name} is missing') for name in missing_files(path, information)]
    else:
        files = [path]
    recording = Recording([], {}, {})
    for file in files:
        try:
            with _decompressed(file) as plain:
                damage = (_add_sqlite if plain.suffix == '.db3' else _add_mcap)(plain, recording)
        except zstandard.ZstdError as error:
            damage = [f'it can not be decompressed ({error})']
        problems += [Problem(path, f'{file.name}: {sentence}') for sentence in damage]
    first = {message.topic: message for message in reversed(recording.messages)}
    if str(information.get('compression_mode')).upper() == 'MESSAGE' or any(
        message.data[: len(FRAME)] == FRAME for message in first.values()
    ):
        _decompress_messages(path, recording, problems)
    recording.custom_data.update(
        (str(key), str(value)) for key, value in (information.get('custom_data') or {}).items()
    )
    if DAMAGE in recording.custom_data:
        problems.append(Problem(path, f'{RECOVERED}: {recording.custom_data[DAMAGE]}'))
    expected = information.get('message_count')
    found = len(recording.messages) + len(recording.others)
    if isinstance(expected, int) and expected != found:
        problems.append(
            Problem(
                path,
                f'{found} of {expected} messages are whole'
                if found < expected
                else f'{found} messages are in it, but metadata.yaml tells of {expected}',
            )
        )
    if recording.others:
        problems.append(Problem(path, left_out(recording.others, NOT_CDR)))
    return recording


@contextlib.contextmanager
def _decompressed(file: Path) -> Iterator[Path]:
    """A file without rosbag2's compression of whole files; a temporary one while it is used."""
    if file.suffix != ZSTD:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix='dreamer_ros-') as folder:
        plain = Path(folder, file.stem)
        with file.open('rb') as source, plain.open('wb') as target:
            zstandard.ZstdDecompressor().copy_stream(source, target)
        yield plain


def _add_mcap(file: Path, recording: Recording) -> list[str]:
    scan = scan_mcap(file, CUSTOM_DATA)
    for message in scan.messages:
        (recording.messages if scan.topics[message.topic].is_readable else recording.others).append(message)
    recording.types.update((topic.name, topic.type) for topic in scan.topics.values() if topic.is_readable)
    recording.custom_data.update(scan.custom_data)
    return scan.damage


def _add_sqlite(file: Path, recording: Recording) -> list[str]:
    """Rows up to the first one that can not be read."""
    rows: list[tuple[int, int, bytes]] = []
    topics: dict[int, tuple[str, str, str]] = {}
    damage = []
    try:
        with contextlib.closing(sqlite3.connect(f'{file.absolute().as_uri()}?mode=ro', uri=True)) as database:
            database.text_factory = lambda text: text.decode('utf-8', 'replace')
            for number, name, kind, form in database.execute('SELECT id, name, type, serialization_format FROM topics'):
                topics[number] = str(name), str(kind), str(form)
            for row in database.execute('SELECT topic_id, timestamp, data FROM messages ORDER BY id'):
                rows.append(row)
    except (sqlite3.Error, ValueError, MemoryError, OverflowError) as error:
        damage.append(f'it breaks off after {len(rows)} messages ({error})')
    strange = 0
    for number, time, data in rows:
        if number in topics and isinstance(time, int) and isinstance(data, bytes):
            name, _, form = topics[number]
            message = RawMessage(name, time, time, Store(memoryview(data)), 0, len(data))
            (recording.messages if form == CDR else recording.others).append(message)
        else:
            strange += 1
    if strange:
        damage.append(f'{strange} rows are no messages of a known topic')
    recording.types.update((name, kind) for name, kind, form in topics.values() if form == CDR)
    return damage


def _decompress_messages(path: Path, recording: Recording, problems: list[Problem]) -> None:
    """Undo rosbag2's compression of single messages, whatever metadata.yaml says of it."""
    whole: list[RawMessage] = []
    decompressor = zstandard.ZstdDecompressor()
    for message in recording.messages:
        if message.data[:2] in PLAIN:
            whole.append(message)
        elif (data := _plain(decompressor, message.data)) is not None:
            whole.append(message._replace(store=Store(memoryview(data)), start=0, end=len(data)))
    if len(whole) < len(recording.messages):
        problems.append(Problem(path, f'{len(recording.messages) - len(whole)} messages can not be decompressed'))
    recording.messages = whole


def _plain(decompressor: zstandard.ZstdDecompressor, data: memoryview) -> bytes | None:
    try:
        if zstandard.frame_content_size(data) > LARGEST_MESSAGE:
            return None
        return decompressor.decompress(data, max_output_size=LARGEST_MESSAGE)
    except (zstandard.ZstdError, MemoryError):
        return None


# Enums of rmw: numbers up to metadata version 8, words from 9 on.
_BEST_EFFORT, _TRANSIENT_LOCAL = (2, 'best_effort'), (1, 'transient_local')


class Stored(NamedTuple):
    """A message: topic, time of recording in nanoseconds, CDR bytes."""

    topic: str
    time: int
    data: bytes


class OpenBag:
    """What is whole in a bag of any storage. Large MCAP files stay on the disk.

    Args:
        path: a bag directory, or one of its files.

    Attributes:
        topics: by name, as they were offered.
        custom_data: what the recorder noted.
        contract: of the robot, where the bag holds one.
        start, end: time of the first and the last message, nanoseconds.
        problems: what is damaged or missing.

    Raises:
        InputError: nothing in it can be read.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.problems: list[Problem] = []
        try:
            recording = load_recording(self.path, self.problems)
            self.custom_data = recording.custom_data
            self.contract: RobotContract | None = embedded_contract(self.custom_data)
        except InputError as error:
            raise InputError(f'bag {self.path}: {error}') from error
        except OSError as error:
            raise InputError(f'bag {self.path}: expected a bag that can be read ({error})') from error
        if not recording.messages:
            reason = f' ({self.problems[0].reason})' if self.problems else ''
            raise InputError(f'bag {self.path}: expected messages in it, found none{reason}')
        self._messages = sorted(recording.messages, key=operator.attrgetter('time'))
        self.start, self.end = self._messages[0].time, self._messages[-1].time
        offered = self._offered()
        self.topics = {name: Topic(name, kind, offered.get(name, SENSOR)) for name, kind in recording.types.items()}

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Stored]:
        """All messages by time, or those of some topics."""
        for message in self._messages:
            if topics is None or message.topic in topics:
                yield Stored(message.topic, message.time, bytes(message.data))

    def times(self) -> dict[str, list[int]]:
        """When the messages of each topic were recorded, nanoseconds, increasing."""
        times: dict[str, list[int]] = {name: [] for name in self.topics}
        for message in self._messages:
            times[message.topic].append(message.time)
        return times

    def robots(self) -> tuple[str, ...]:
        """Namespaces with a topic `step`, as '/sim0/'; '/' of a robot without one."""
        return tuple(
            sorted(
                topic.name[: -len(STEP.name)]
                for topic in self.topics.values()
                if topic.name.endswith(f'/{STEP.name}') and topic.type == STEP.type
            )
        )

    def spec(self) -> RobotSpec:
        """Of the robot.

        Raises:
            InputError: the bag does not say.
        """
        if self.contract is not None:
            return self.contract.spec
        if 'spec' not in self.custom_data:
            raise InputError(
                f'bag {self.path}: expected custom_data with the spec or the contract of its robot, got '
                f'{", ".join(self.custom_data) or "none"}; `dreamer bag import` adds them'
            )
        return RobotSpec.from_json(self.custom_data['spec'], f'bag {self.path.name}')

    def _offered(self) -> dict[str, QoS]:
        """Quality of service by topic, as far as metadata.yaml tells; nothing is worth an error."""
        try:
            entries = [entry['topic_metadata'] for entry in read_metadata(self.path)['topics_with_message_count']]
            return {entry['name']: _quality(entry['offered_qos_profiles']) for entry in entries}
        except (InputError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            return {}


def _quality(profiles: Any) -> QoS:
    """What the first publisher of a topic offered."""
    profiles = load_yaml(profiles, 'offered_qos_profiles', exponents=False) if isinstance(profiles, str) else profiles
    if not profiles:
        return SENSOR
    return QoS(
        depth=max(int(profiles[0]['depth']), 1),
        reliable=profiles[0]['reliability'] not in _BEST_EFFORT,
        transient_local=profiles[0]['durability'] in _TRANSIENT_LOCAL,
    )
