"""Reads the messages of a bag, MCAP or sqlite3, whole or damaged, and tells which robot it is from."""

from __future__ import annotations

import contextlib
import functools
import operator
import re
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

from dreamer_ros.episodes.episode import embedded_contract
from dreamer_ros.episodes.mcap_scan import CDR, LARGEST, RawMessage, Scan, scan_mcap
from dreamer_ros.episodes.report import Report, printable
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.schema import load_yaml
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import OBSERVATION, SENSOR, SPEC, STEP, QoS, Topic

# Of the files of a bag: MCAP or sqlite3, plain or compressed by rosbag2.
SUFFIXES = ('.mcap', '.db3', '.mcap.zstd', '.db3.zstd')
ZSTD = '.zstd'
# Bytes that a compressed file may decompress to.
LARGEST_FILE = 8 * 2**30
# First bytes of a compressed message, and of a plain one: the header of CDR.
FRAME = zstandard.FRAME_HEADER
PLAIN = (b'\0\0', b'\0\1')
# Stamps of ROS messages are int32 seconds: a later or a negative time is no time.
END_OF_TIME = 2**31 * 10**9
# Key of custom_data that tells what was lost when the bag was recovered.
DAMAGE = 'damage'
# Enums of rmw: numbers up to metadata version 8, words from 9 on.
_BEST_EFFORT, _TRANSIENT_LOCAL = (2, 'best_effort'), (1, 'transient_local')


# Files


def partial_path(folder: Path, name: str) -> Path:
    """Where a bag is written, hidden from `ros2 bag` and from the replay store."""
    return folder / f'.{name}.partial'


def is_partial(path: Path) -> bool:
    """Whether a bag is still being written, or was left by a crash."""
    return path.name.startswith('.') and path.name.endswith('.partial')


def is_bag(path: Path) -> bool:
    """Whether a directory is a bag, with or without its metadata.yaml, rather than a folder of bags.

    The files of one bag are called NAME_0.mcap, NAME_1.mcap, …, and no directory lies beside them.
    """
    if (path / 'metadata.yaml').exists():
        return True
    names = {re.sub(r'_\d+$', '', bag_name(file)) for file in bag_files(path)}
    return len(names) == 1 and not any(entry.is_dir() and not entry.name.startswith('.') for entry in path.iterdir())


def bags_in(
    path: Path, also: Callable[[Path], bool] = lambda path: False, expected: str = 'a bag, a folder of bags or a run'
) -> list[Path]:
    """A bag itself, or every bag of a folder (of folders). Of a run only `episodes/` and `evaluation/` are searched.

    Args:
        also: whether something that is no bag counts as well.
        expected: what is searched for, in words.

    Raises:
        InputError: there is none.
    """
    found = list(_bags(path, also)) if path.exists() else []
    if not found:
        but = 'found none' if path.is_dir() else f'but it {"is another file" if path.exists() else "does not exist"}'
        raise InputError(f'{path}: expected {expected}, {but}')
    return found


def _bags(path: Path, also: Callable[[Path], bool]) -> Iterator[Path]:
    if also(path) or (is_partial(path) or is_bag(path) if path.is_dir() else path.name.endswith(SUFFIXES)):
        yield path
    elif path.is_dir():
        run = (path / 'config.yaml').exists()
        for entry in sorted(path.iterdir()):
            if entry.name in ('episodes', 'evaluation') if run else is_partial(entry) or entry.name[0] != '.':
                yield from _bags(entry, also)


def bag_name(path: Path) -> str:
    """Name of a bag directory, or of a single file without its suffix. Either may have dots in it."""
    name = path.name
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix) and not path.is_dir()), '')
    return name[: len(name) - len(suffix)]


def bag_files(path: Path, report: Report | None = None) -> list[Path]:
    """The files of a bag directory that hold messages, in order: `NAME_2.mcap` comes before `NAME_10.mcap`."""
    files = [file for file in entries(path, report) if file.name.endswith(SUFFIXES) and not file.is_dir()]
    return sorted(files, key=lambda file: (len(file.name), file.name))


def entries(folder: Path, report: Report | None = None) -> list[Path]:
    """The safe entries of a folder, by name. `report` gets the others, see `unsafe`.

    Raises:
        OSError: the folder can't be read.
    """
    found = []
    for path in sorted(folder.iterdir()):
        reason = unsafe(path, folder)
        if not reason:
            found.append(path)
        elif report is not None:
            report.add(f'{printable(path.name)} is left out: {reason}')
    return found


def unsafe(path: Path, folder: Path | None = None) -> str:
    """Why a path must not be opened; '' if it may be.

    A pipe or a device would hold up its reader for ever. A link could name any file of the machine.

    Args:
        folder: that links must not lead out of; None for anywhere.
    """
    try:
        path.name.encode()
        link = path.is_symlink()
        if link and folder is not None and not path.resolve().is_relative_to(folder.resolve()):
            return 'it is a link that leads out of its folder'
        mode = path.stat().st_mode
    except UnicodeEncodeError:
        return 'its name is not UTF-8'
    except FileNotFoundError as error:
        return f'it can not be read ({error.strerror})' if link else ''  # deleted this moment
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links
        return f'it can not be read ({getattr(error, "strerror", None) or error})'
    return '' if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else 'it is neither a file nor a directory'


def read_metadata(path: Path) -> dict[str, Any]:
    """`rosbag2_bagfile_information` of a bag directory.

    Raises:
        InputError: metadata.yaml is missing or not what rosbag2 writes.
    """
    file = path / 'metadata.yaml'
    if not file.exists():
        raise InputError(f'{path.name}: metadata.yaml is missing')
    reason = unsafe(file, path)
    if reason:
        raise InputError(f'{path.name}: metadata.yaml can not be opened: {reason}')
    content = load_yaml(file, f'{path.name}: metadata.yaml is damaged', exponents=False)
    information = content.get('rosbag2_bagfile_information') if isinstance(content, dict) else None
    if (
        not isinstance(information, dict)
        or not isinstance(information.get('custom_data') or {}, dict)
        or not isinstance(information.get('relative_file_paths') or [], list)
    ):
        raise InputError(f'{path.name}: metadata.yaml does not describe a bag')
    return information


def named_spec(folder: Path) -> RobotSpec | None:
    """The robot of the first bag in a folder whose metadata names one."""
    for file in sorted(folder.glob('*/metadata.yaml')):
        with contextlib.suppress(InputError, KeyError):
            noted = read_metadata(file.parent).get('custom_data') or {}
            data = {str(key): str(value) for key, value in noted.items()}
            contract = embedded_contract(data)
            return contract.spec if contract else RobotSpec.from_json(data['spec'], str(file))
    return None


def missing_files(path: Path, information: Mapping[str, Any]) -> list[str]:
    """Files that the metadata of a bag names and that its directory lacks, compressed or not."""
    found = {name for file in bag_files(path) for name in (file.name, file.stem)}
    return sorted({Path(str(name)).name for name in information.get('relative_file_paths') or ()} - found)


# Messages


class NoFiles(InputError):
    """A directory without a file of a bag."""


class Bag:
    """What is whole in a bag: a directory as `ros2 bag` writes it, or a single file of one.

    Reads MCAP and sqlite3, any version of metadata.yaml or none, several files, and rosbag2's own compression. The
    messages of large MCAP files stay on the disk.

    Args:
        report: gets the problems, also those that were found before an error.

    Attributes:
        messages: in the order of the files.
        others: whole messages that can't be decoded, because they are not CDR of a known type.
        types: of the topics, by name; also of topics without messages.
        custom_data: what the recorder noted.
        damage: problems of the files.
        scans: what is whole in each of its MCAP files, by path; compressed ones have a temporary path.
        report: these, and what was left out.

    Raises:
        InputError: nothing in it can be read.
        OSError: the disk refuses.
    """

    def __init__(self, path: Path, report: Report | None = None):
        self.path = Path(path)
        self.report = Report(self.path) if report is None else report
        self.messages: list[RawMessage] = []
        self.others: list[RawMessage] = []
        self.types: dict[str, str] = {}
        self.custom_data: dict[str, str] = {}
        self.scans: dict[Path, Scan] = {}
        self._information: dict[str, Any] = {}
        left_out = Report(self.path)
        for file in self._find_files(left_out):
            try:
                with _decompressed(file) as plain:
                    damage = self._add_sqlite(plain) if plain.suffix == '.db3' else self._add_mcap(plain)
            except (zstandard.ZstdError, ValueError) as error:
                damage = [f'it can not be decompressed ({error})']
            for sentence in damage:
                self.report.add(f'{file.name}: {sentence}')
        self._decompress_messages()
        self._compare_with_metadata()
        self.damage = list(self.report)
        self.report += left_out
        if DAMAGE in self.custom_data:
            self.report.add(f'recovered from damage: {self.custom_data[DAMAGE]}')
        self.report.left_out(self.others, 'not CDR of a known type')
        timed: list[RawMessage] = []
        timeless: list[RawMessage] = []
        for message in self.messages:
            has_time = 0 <= message.time < END_OF_TIME and 0 <= message.published < END_OF_TIME
            (timed if has_time else timeless).append(message)
        self.messages = timed
        self.report.left_out(timeless, 'recorded at a time that is none (before 1970 or after 2038)')

    # The robot that it was recorded from

    @functools.cached_property
    def contract(self) -> RobotContract | None:
        """Contract of the robot, if the bag holds one.

        Raises:
            InputError: it is damaged.
        """
        return embedded_contract(self.custom_data)

    def contract_to_read_by(self, given: RobotContract | None) -> RobotContract | None:
        """The given contract, else the bag's own. None for a bag of our own topics, which needs none.

        Those are what an agent saw, or what a simulator or `dreamer bag import` wrote.
        """
        if self.has_observations or ('spec_hash' in self.custom_data and 'contract' not in self.custom_data):
            return None
        return given or self.contract

    def find_spec(self) -> RobotSpec | None:
        """Spec of the robot, from its contract, custom_data or the topic `spec`. None without any of them.

        Raises:
            InputError: it is damaged.
        """
        if self.contract is not None:
            return self.contract.spec
        if 'spec' in self.custom_data:
            return RobotSpec.from_json(self.custom_data['spec'], f'custom_data of bag {self.path.name}')
        for message in self.messages:
            if self.types[message.topic] == SPEC.type and message.topic.rsplit('/', 1)[-1] == SPEC.name:
                return RobotSpec.from_json(decode(message.data, SPEC.type).data, message.topic)
        return None

    def spec(self) -> RobotSpec:
        """Spec of the robot.

        Raises:
            InputError: the bag does not tell it.
        """
        spec = self.find_spec()
        if spec is None:
            raise InputError(
                f'bag {self.path}: expected custom_data with the spec or the contract of its robot, got '
                f'{", ".join(self.custom_data) or "none"}; `dreamer bag import` adds them'
            )
        return spec

    def check_spec(self, spec: RobotSpec) -> None:
        """Raise InputError if the bag is from another robot."""
        found = self.custom_data.get('spec_hash')
        if found is None or found == spec.hash:
            return
        try:
            difference = spec.difference(RobotSpec.from_json(self.custom_data['spec'], 'custom_data'))
        except (InputError, KeyError, TypeError, ValueError):
            difference = ''
        raise InputError(
            f'recorded from another robot: expected spec {spec.hash}, got {found}'
            + (f' ({difference})' if difference else '')
        )

    # What is in it

    @functools.cached_property
    def start(self) -> int:
        """Time of recording of the first message, ns."""
        return min(message.time for message in self.messages)

    @functools.cached_property
    def end(self) -> int:
        """Time of recording of the last message, ns."""
        return max(message.time for message in self.messages)

    @functools.cached_property
    def topics(self) -> dict[str, Topic]:
        """Topics by name, with the QoS that metadata.yaml has of their first publisher."""
        offered: dict[str, QoS] = {}
        with contextlib.suppress(InputError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            for entry in self._information['topics_with_message_count']:
                topic = entry['topic_metadata']
                offered[topic['name']] = _quality(topic['offered_qos_profiles'])
        return {name: Topic(name, kind, offered.get(name, SENSOR)) for name, kind in self.types.items()}

    def by_time(self, topics: Collection[str] | None = None) -> list[RawMessage]:
        """All messages, or those of some topics, in the order of their recording."""
        messages = (message for message in self.messages if topics is None or message.topic in topics)
        return sorted(messages, key=operator.attrgetter('time'))

    @property
    def has_observations(self) -> bool:
        """Whether it holds what the agent of a robot saw, not only the robot's own topics."""
        return any(name.startswith(f'{robot}{OBSERVATION}/') for robot in self.robots() for name in self.types)

    def robots(self) -> tuple[str, ...]:
        """Namespaces of the topics `step`: '/sim0/', or '/' for a robot without a namespace."""
        steps = (name for name, kind in self.types.items() if name.endswith(f'/{STEP.name}') and kind == STEP.type)
        return tuple(sorted(name.removesuffix(STEP.name) for name in steps))

    # Reading

    def _find_files(self, left_out: Report) -> list[Path]:
        if not self.path.is_dir():
            reason = unsafe(self.path) if self.path.exists() else ''
            if reason:
                raise InputError(f'it can not be opened: {reason}')
            return [self.path]
        try:
            self._information = read_metadata(self.path)
        except InputError as error:
            self.report.add(str(error).split(': ', 1)[1])
        files = bag_files(self.path, left_out)
        if not files:
            raise NoFiles('no MCAP file and no sqlite3 file is in it')
        for name in missing_files(self.path, self._information):
            self.report.add(f'{name} is missing')
        return files

    def _add_mcap(self, file: Path) -> list[str]:
        scan = self.scans[file] = scan_mcap(file)
        for message in scan.messages:
            (self.messages if scan.topics[message.topic].is_readable else self.others).append(message)
        self.types.update((topic.name, topic.type) for topic in scan.topics.values() if topic.is_readable)
        self.custom_data.update(scan.custom_data)
        return scan.damage

    def _add_sqlite(self, file: Path) -> list[str]:
        """Add rows up to the first one that can not be read."""
        rows: list[tuple[int, int, bytes]] = []
        topics: dict[int, tuple[str, ...]] = {}
        damage = []
        try:
            with contextlib.closing(sqlite3.connect(f'{file.absolute().as_uri()}?mode=ro', uri=True)) as database:
                database.text_factory = lambda text: text.decode('utf-8', 'replace')
                for number, *topic in database.execute('SELECT id, name, type, serialization_format FROM topics'):
                    topics[number] = tuple(map(str, topic))
                for row in database.execute('SELECT topic_id, timestamp, data FROM messages ORDER BY id'):
                    rows.append(row)
        except (sqlite3.Error, ValueError, MemoryError, OverflowError) as error:
            damage.append(f'it breaks off after {len(rows)} messages ({error})')
        strange = 0
        for number, time, data in rows:
            if number in topics and isinstance(time, int) and isinstance(data, bytes):
                name, _, form = topics[number]
                message = RawMessage(name, time, time, memoryview(data), 0, len(data))
                (self.messages if form == CDR else self.others).append(message)
            else:
                strange += 1
        if strange:
            damage.append(f'{strange} rows are no messages of a known topic')
        self.types.update((name, kind) for name, kind, form in topics.values() if form == CDR)
        return damage

    def _decompress_messages(self) -> None:
        """Undo rosbag2's compression of single messages, even if metadata.yaml does not mention it."""
        first = {message.topic: message for message in reversed(self.messages)}
        if str(self._information.get('compression_mode')).upper() != 'MESSAGE' and not any(
            message.data[: len(FRAME)] == FRAME for message in first.values()
        ):
            return
        whole: list[RawMessage] = []
        decompressor = zstandard.ZstdDecompressor()
        for message in self.messages:
            if message.data[:2] in PLAIN:
                whole.append(message)
                continue
            with contextlib.suppress(zstandard.ZstdError, MemoryError):
                if zstandard.frame_content_size(message.data) <= LARGEST:
                    data = decompressor.decompress(message.data, max_output_size=LARGEST)
                    whole.append(message._replace(source=memoryview(data), start=0, end=len(data)))
        if len(whole) < len(self.messages):
            self.report.add(f'{len(self.messages) - len(whole)} messages can not be decompressed')
        self.messages = whole

    def _compare_with_metadata(self) -> None:
        custom_data = self._information.get('custom_data') or {}
        self.custom_data.update((str(key), str(value)) for key, value in custom_data.items())
        expected = self._information.get('message_count')
        found = len(self.messages) + len(self.others)
        if isinstance(expected, int) and found < expected:
            self.report.add(f'{found} of {expected} messages are whole')
        elif isinstance(expected, int) and found > expected:
            self.report.add(f'{found} messages are in it, but metadata.yaml tells of {expected}')


def open_bag(path: Path) -> Bag:
    """Open a bag to look at it or to play it.

    Raises:
        InputError: no message in it can be read, or its contract is damaged. The text names the bag.
    """
    name = f'bag {printable(str(path))}'
    try:
        bag = Bag(path)
        bag.contract  # noqa: B018 - raises where it is damaged
    except InputError as error:
        raise InputError(f'{name}: {error}') from error
    except OSError as error:
        raise InputError(f'{name}: expected a bag that can be read ({error})') from error
    if not bag.messages:
        reason = f' ({bag.report[0].reason})' if bag.report else ''
        raise InputError(f'{name}: expected messages in it, found none{reason}')
    return bag


@contextlib.contextmanager
def _decompressed(file: Path) -> Iterator[Path]:
    """Yields the file, or a temporary decompressed copy if rosbag2 compressed it."""
    if file.suffix != ZSTD:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix='dreamer_ros-') as folder:
        plain = Path(folder, file.stem)
        size = 0
        with file.open('rb') as source, plain.open('wb') as target:
            for block in zstandard.ZstdDecompressor().read_to_iter(source):
                size += target.write(block)
                if size > LARGEST_FILE:
                    raise ValueError(f'it holds more than {LARGEST_FILE} bytes; `zstd -d` decompresses any size')
        yield plain


def _quality(profiles: Any) -> QoS:
    """The QoS that the first publisher of a topic offered."""
    profiles = load_yaml(profiles, 'offered_qos_profiles', exponents=False) if isinstance(profiles, str) else profiles
    if not profiles:
        return SENSOR
    return QoS(
        depth=max(int(profiles[0]['depth']), 1),
        reliable=profiles[0]['reliability'] not in _BEST_EFFORT,
        transient_local=profiles[0]['durability'] in _TRANSIENT_LOCAL,
    )
