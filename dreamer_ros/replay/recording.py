"""The messages of a bag, of whatever storage, as far as they are whole."""
from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import zstandard

from dreamer_ros.errors import InputError
from dreamer_ros.replay.bag import CUSTOM_DATA, DAMAGE, bag_files, read_metadata
from dreamer_ros.replay.episode import Problem
from dreamer_ros.replay.scan import RawMessage, Store, scan_mcap

ZSTD = '.zstd'
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
    """

    messages: List[RawMessage]
    types: Dict[str, str]
    custom_data: Dict[str, str]


def load_recording(path: Path, problems: List[Problem]) -> Recording:
    """Read a bag: a directory as `ros2 bag` writes it, or a single file of one.

    MCAP and sqlite3, any version of metadata.yaml or none, several files, rosbag2's own compression.

    Args:
        problems: gets what is damaged or missing.

    Raises:
        InputError: nothing in it can be read.
        OSError: the disk refuses.
    """
    information: Dict[str, Any] = {}
    if path.is_dir():
        try:
            information = read_metadata(path)
        except InputError as error:
            problems.append(Problem(path, str(error).split(': ', 1)[1]))
        files = bag_files(path)
        if not files:
            raise InputError('no MCAP file and no sqlite3 file is in it')
        listed = {Path(str(name)).name for name in information.get('relative_file_paths') or ()}
        missing = sorted(listed - {file.name for file in files} - {file.stem for file in files})
        problems += [Problem(path, f'{name} is missing') for name in missing]
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
    if str(information.get('compression_mode')).upper() == 'MESSAGE':
        _decompress_messages(path, recording, problems)
    recording.custom_data.update(
        (str(key), str(value)) for key, value in (information.get('custom_data') or {}).items())
    if DAMAGE in recording.custom_data:
        problems.append(Problem(path, f'{RECOVERED}: {recording.custom_data[DAMAGE]}'))
    expected = information.get('message_count')
    if isinstance(expected, int) and expected != len(recording.messages):
        problems.append(Problem(path, f'{len(recording.messages)} of {expected} messages are whole'))
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


def _add_mcap(file: Path, recording: Recording) -> List[str]:
    scan = scan_mcap(file, CUSTOM_DATA)
    recording.messages += scan.messages
    recording.types.update((topic.name, topic.type) for topic in scan.topics.values())
    recording.custom_data.update(scan.custom_data)
    return scan.damage


def _add_sqlite(file: Path, recording: Recording) -> List[str]:
    """Rows up to the first one that can not be read."""
    rows: List[Tuple[int, int, bytes]] = []
    topics: Dict[int, Tuple[str, str]] = {}
    damage = []
    try:
        with contextlib.closing(sqlite3.connect(f'{file.absolute().as_uri()}?mode=ro', uri=True)) as database:
            database.text_factory = lambda text: text.decode('utf-8', 'replace')
            for number, name, kind, form in database.execute(
                    'SELECT id, name, type, serialization_format FROM topics'):
                if form == 'cdr':
                    topics[number] = (str(name), str(kind))
            for row in database.execute('SELECT topic_id, timestamp, data FROM messages ORDER BY id'):
                rows.append(row)
    except (sqlite3.Error, ValueError, MemoryError, OverflowError) as error:
        damage.append(f'it breaks off after {len(rows)} messages ({error})')
    strange = 0
    for number, time, data in rows:
        if number in topics and isinstance(time, int) and isinstance(data, bytes):
            store = Store(memoryview(data))
            recording.messages.append(RawMessage(topics[number][0], time, time, store, 0, len(data)))
        else:
            strange += 1
    if strange:
        damage.append(f'{strange} rows are no CDR messages of a known topic')
    recording.types.update(topics.values())
    return damage


def _decompress_messages(path: Path, recording: Recording, problems: List[Problem]) -> None:
    """Undo rosbag2's compression of single messages."""
    whole: List[RawMessage] = []
    decompressor = zstandard.ZstdDecompressor()
    for message in recording.messages:
        data = _plain(decompressor, message.data)
        if data is not None:
            whole.append(message._replace(store=Store(memoryview(data)), start=0, end=len(data)))
    if len(whole) < len(recording.messages):
        problems.append(Problem(path, f'{len(recording.messages) - len(whole)} messages can not be decompressed'))
    recording.messages = whole


def _plain(decompressor: zstandard.ZstdDecompressor, data: memoryview) -> Optional[bytes]:
    try:
        if zstandard.frame_content_size(data) > LARGEST_MESSAGE:
            return None
        return decompressor.decompress(data, max_output_size=LARGEST_MESSAGE)
    except (zstandard.ZstdError, MemoryError):
        return None
