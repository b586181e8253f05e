"""The messages of a bag, of whatever storage, as far as they are whole."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from dreamer_ros.episodes.bag import CUSTOM_DATA, DAMAGE, bag_files, missing_files, read_metadata
from dreamer_ros.episodes.episode import Problem
from dreamer_ros.episodes.left_out import left_out
from dreamer_ros.episodes.mcap_scan import CDR, RawMessage, Store, scan_mcap
from dreamer_ros.errors import InputError

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
