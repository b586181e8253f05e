"""Reads what is whole in an MCAP file, however the file ends."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, Metadata, Schema
from mcap.writer import MCAP0_MAGIC

# Name of the metadata record, at the head of the file, that keeps custom_data safe from a crash.
CUSTOM_DATA = 'dreamer_ros'
# What the libraries raise when they read damaged bytes.
_DAMAGE = (
    McapError,
    struct.error,
    ValueError,
    zstandard.ZstdError,
    RuntimeError,
    MemoryError,
    OverflowError,
    EOFError,
    KeyError,
)
# Decompressed chunks of one file that stay in memory. The least recently used ones are read again when needed.
HELD_BYTES = 256 * 2**20
# Bytes of a decompressed chunk or message. Larger ones are left out: a few kB can decompress to GBs.
LARGEST = 512 * 2**20
CDR = 'cdr'
_RECORD = struct.Struct('<BQ')  # opcode, length
_MESSAGE = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time


class Oversize(ValueError):
    """A record is larger than `LARGEST`."""


class RawMessage(NamedTuple):
    """A message as stored.

    Attributes:
        time, published: log and publish time, ns.
        source: what holds its CDR bytes, from `start` to `end`.
    """

    topic: str
    time: int
    published: int
    source: memoryview | _Chunk
    start: int
    end: int

    @property
    def data(self) -> memoryview:
        """CDR bytes."""
        return self.source[self.start : self.end]


class _Chunk:
    """A chunk of a file, which can be sliced like its decompressed bytes."""

    def __init__(self, path: Path, start: int, end: int, recent: _Recent):
        self._path, self._start, self._end, self._recent = path, start, end, recent

    def __getitem__(self, part: slice) -> memoryview:
        return self._recent.get(self)[part]

    def read(self) -> memoryview:
        """All its bytes, from the file.

        Raises:
            Oversize: it is larger than `LARGEST`.
            ValueError, zstandard.ZstdError, RuntimeError: it is damaged.
        """
        with self._path.open('rb') as file:
            file.seek(self._start)
            chunk = Chunk.read(_fields(file.read(self._end - self._start)))
        data = _decompress(chunk)
        if chunk.uncompressed_crc and chunk.uncompressed_crc != zlib.crc32(data):
            raise ValueError('its CRC does not fit')
        return memoryview(data)


def _decompress(chunk: Chunk) -> bytes:
    is_zstd = chunk.compression == 'zstd'
    # The decompressor allocates what the frame declares, whatever limit it is given.
    size = max(chunk.uncompressed_size, zstandard.frame_content_size(chunk.data) if is_zstd else 0)
    if size > LARGEST:
        raise Oversize(f'it declares {size} bytes, and at most {LARGEST} are read')
    if is_zstd:
        return zstandard.ZstdDecompressor().decompress(chunk.data, max_output_size=size)
    if chunk.compression == 'lz4':
        return lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=size)
    if chunk.compression:
        raise ValueError(f'its compression {chunk.compression} is not known')
    return chunk.data


class _Recent:
    """The chunks that were used last, within `HELD_BYTES`."""

    def __init__(self):
        self._chunks: OrderedDict[_Chunk, memoryview] = OrderedDict()
        self._bytes = 0

    def get(self, chunk: _Chunk) -> memoryview:
        """A chunk's bytes."""
        if chunk not in self._chunks:
            self._chunks[chunk] = data = chunk.read()
            self._bytes += len(data)
            while self._bytes > HELD_BYTES and len(self._chunks) > 1:
                self._bytes -= len(self._chunks.popitem(last=False)[1])
        self._chunks.move_to_end(chunk)
        return self._chunks[chunk]


class RawTopic(NamedTuple):
    """A topic as stored.

    Attributes:
        type: '' if the file does not tell.
        definition_encoding: of the definition, '' or `ros2idl` from some writers.
        encoding: of the messages.
    """

    name: str
    type: str
    definition: str
    offered_qos: str
    hash: str
    definition_encoding: str = 'ros2msg'
    encoding: str = CDR

    @property
    def is_readable(self) -> bool:
        """Whether its messages can be decoded by its type."""
        return self.encoding == CDR and self.type != ''


@dataclasses.dataclass
class Scan:
    """Contents of one MCAP file.

    Attributes:
        topics: by name.
        messages: of all whole chunks, in file order.
        custom_data: the content of the record `CUSTOM_DATA`.
        metadata: the metadata records of other writers.
        damage: what is wrong with the file, one phrase each. Empty for a whole file.
        has_oversize: whether something was left out because it is larger than `LARGEST`.
    """

    topics: dict[str, RawTopic] = dataclasses.field(default_factory=dict)
    messages: list[RawMessage] = dataclasses.field(default_factory=list)
    custom_data: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: list[Metadata] = dataclasses.field(default_factory=list)
    attachments: list[StoredAttachment] = dataclasses.field(default_factory=list)
    damage: list[str] = dataclasses.field(default_factory=list)
    has_oversize: bool = False


class StoredAttachment(NamedTuple):
    """A file that another writer put into an MCAP file, and where."""

    path: Path
    start: int
    end: int

    def read(self) -> Attachment:
        """The attachment.

        Raises:
            ValueError: it is damaged.
            OSError: the file can't be read.
        """
        with self.path.open('rb') as stream:
            stream.seek(self.start)
            data = stream.read(self.end - self.start)
        crc = int.from_bytes(data[-4:], 'little')
        try:
            attachment = Attachment.read(_fields(data))
        except _DAMAGE as error:
            raise ValueError(f'an attachment at byte {self.start} is damaged ({_phrase(error)})') from error
        if crc and crc != zlib.crc32(data[:-4]):  # 0: not computed
            raise ValueError(f'the attachment {attachment.name} is damaged (its CRC does not fit)')
        return attachment


_NO_SCHEMA = Schema(data=b'', encoding='', id=0, name='')
_PARSED: dict[int, Any] = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel, Opcode.METADATA: Metadata}


def scan_mcap(path: Path) -> Scan:
    """Read every whole chunk of an MCAP file. Damage is noted in the result, never raised.

    Raises:
        OSError: the file can't be read.
    """
    scan = Scan()
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    # Messages as their channel and the fields of RawMessage after the topic, whose name may come later.
    found: list[tuple[int, int, int, memoryview | _Chunk, int, int]] = []

    def take(opcode: int, data: memoryview, source: memoryview | _Chunk, start: int, end: int) -> None:
        if opcode == Opcode.MESSAGE:
            channel, _, time, published = _MESSAGE.unpack_from(data, start)
            found.append((channel, time, published, source, start + _MESSAGE.size, end))
        elif opcode in _PARSED:
            record = _PARSED[opcode].read(_fields(data[start:end]))
            # The summary at the end of the file repeats schemas and channels. Those of the chunks come first and
            # count, because a CRC protects them.
            if opcode == Opcode.SCHEMA:
                schemas.setdefault(record.id, record)
            elif opcode == Opcode.CHANNEL:
                channels.setdefault(record.id, record)
            elif record.name == CUSTOM_DATA:
                scan.custom_data = dict(record.metadata)
            else:
                scan.metadata.append(record)

    size = path.stat().st_size
    recent = _Recent()
    with path.open('rb') as stream:
        try:
            for opcode, start, end in _records(stream, size):
                if opcode == Opcode.ATTACHMENT:
                    scan.attachments.append(StoredAttachment(path, start, end))
                elif opcode not in (Opcode.CHUNK, Opcode.MESSAGE, *_PARSED):
                    continue
                elif end - start > LARGEST:
                    scan.damage.append(
                        f'a record at byte {start} has {end - start} bytes, and at most {LARGEST} are read'
                    )
                    scan.has_oversize = True
                elif opcode == Opcode.CHUNK:
                    chunk, before = _Chunk(path, start, end, recent), len(found)
                    # A damaged chunk must not hide those behind it.
                    try:
                        data = recent.get(chunk)
                        for inner, first, last in _split(data):
                            take(inner, data, chunk, first, last)
                    except _DAMAGE as error:
                        del found[before:]
                        scan.damage.append(f'a chunk at byte {start} is damaged ({_phrase(error)})')
                        scan.has_oversize |= isinstance(error, Oversize)
                else:
                    data = memoryview(stream.read(end - start))
                    take(opcode, data, data, 0, len(data))
        except _DAMAGE as error:
            scan.damage.append(f'it breaks off at byte {stream.tell()} of {size} ({_phrase(error)})')
    names = {number: channel.topic for number, channel in channels.items()}
    for channel in channels.values():
        schema = schemas.get(channel.schema_id, _NO_SCHEMA)
        scan.topics[channel.topic] = RawTopic(
            channel.topic,
            schema.name,
            schema.data.decode('utf-8', 'replace'),
            channel.metadata.get('offered_qos_profiles', ''),
            channel.metadata.get('topic_type_hash', ''),
            schema.encoding,
            channel.message_encoding,
        )
    scan.messages = [
        RawMessage(names[number], time, published, source, start, end)
        for number, time, published, source, start, end in found
        if number in names
    ]
    if len(scan.messages) < len(found):
        scan.damage.append(f'{len(found) - len(scan.messages)} messages are of channels that nothing in it describes')
    return scan


def _records(stream: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Records of a file as (opcode, first byte, byte after). The stream stands at the first byte."""
    if stream.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
        raise ValueError('it does not begin as an MCAP file does')
    opcode = None
    while opcode != Opcode.FOOTER:
        head = stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            raise EOFError('the end is missing')
        opcode, length = _RECORD.unpack(head)
        start = stream.tell()
        if length > size - start:
            raise EOFError('the end of a record is missing')
        yield opcode, start, start + length
        stream.seek(start + length)
    if stream.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
        raise EOFError('the end is missing')


def _fields(data: bytes | memoryview) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(data))


def _split(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Records of a chunk as (opcode, first byte, byte after)."""
    position = 0
    while position < len(data):
        opcode, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if position + length > len(data):
            raise ValueError('a record reaches beyond its chunk')
        yield opcode, position, position + length
        position += length


def _phrase(error: BaseException) -> str:
    return str(error) or type(error).__name__
