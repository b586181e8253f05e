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

# What damaged bytes provoke in the libraries that read them.
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
# Of a file whose messages take more than this, the least recently used chunks are read again when needed.
HELD_BYTES = 256 * 2**20
# Bytes of a chunk or a message, decompressed. One that declares more is left out: a few kB can decompress to GBs.
LARGEST = 512 * 2**20
CDR = 'cdr'
_RECORD = struct.Struct('<BQ')  # opcode, length
_MESSAGE = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time


class Oversize(ValueError):
    """A record is larger than `LARGEST`."""


class RawMessage(NamedTuple):
    """A message as stored: topic, log and publish time in ns, and where its CDR bytes are."""

    topic: str
    time: int
    published: int
    store: Store | _ChunkStore
    start: int
    end: int

    @property
    def data(self) -> memoryview:
        """CDR bytes."""
        return self.store.data()[self.start : self.end]


class Store:
    """Bytes in memory that messages are parts of."""

    def __init__(self, data: bytes | memoryview):
        self._data = memoryview(data)

    def data(self) -> memoryview:
        """All of them."""
        return self._data


class _ChunkStore:
    """A chunk of a file. Only the chunks that were used last are in memory."""

    def __init__(self, path: Path, start: int, end: int, recent: _Recent):
        self._path, self._start, self._end, self._recent = path, start, end, recent

    def data(self) -> memoryview:
        """Its bytes, decompressed."""
        return self._recent.get(self)

    def read(self) -> memoryview:
        """The same, from the file.

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
        self._chunks: OrderedDict[_ChunkStore, memoryview] = OrderedDict()
        self._bytes = 0

    def get(self, chunk: _ChunkStore) -> memoryview:
        """A chunk's bytes."""
        data = self._chunks.get(chunk)
        if data is None:
            return self.add(chunk, chunk.read())
        self._chunks.move_to_end(chunk)
        return data

    def add(self, chunk: _ChunkStore, data: memoryview) -> memoryview:
        """Remember a chunk, forget older ones."""
        self._chunks[chunk] = data
        self._bytes += len(data)
        while self._bytes > HELD_BYTES and len(self._chunks) > 1:
            self._bytes -= len(self._chunks.popitem(last=False)[1])
        return data


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
        """Whether its messages are what a type can decode."""
        return self.encoding == CDR and self.type != ''


@dataclasses.dataclass
class Scan:
    """Contents of one MCAP file.

    Attributes:
        topics: by name.
        messages: of all whole chunks, in file order.
        custom_data: as our writer puts it at the head of the file.
        metadata: the records of other writers.
        attachments: see `StoredAttachment.read`.
        damage: what is wrong with the file, one phrase each. Empty for a whole file.
        has_oversize: whether some of it was left out because it is larger than `LARGEST`.
    """

    topics: dict[str, RawTopic]
    messages: list[RawMessage]
    custom_data: dict[str, str]
    metadata: list[Metadata]
    attachments: list[StoredAttachment]
    damage: list[str]
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


# A message before the name of its topic is known: its channel, and the rest of RawMessage.
_Found = tuple[int, int, int, Store | _ChunkStore, int, int]
_NO_SCHEMA = Schema(data=b'', encoding='', id=0, name='')
# Records outside of chunks that are read besides messages.
_SMALL: dict[int, Any] = {Opcode.SCHEMA: Schema, Opcode.CHANNEL: Channel, Opcode.METADATA: Metadata}


def scan_mcap(path: Path, metadata_name: str) -> Scan:
    """Read every whole chunk of an MCAP file. Damage is noted in the result, never raised.

    Args:
        path: the file.
        metadata_name: name of the MCAP metadata record that holds `custom_data`.

    Raises:
        OSError: the file can't be read.
    """
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    found: list[_Found] = []
    custom_data: dict[str, str] = {}
    metadata: list[Metadata] = []
    attachments: list[StoredAttachment] = []
    damage: list[str] = []
    has_oversize = False
    size = path.stat().st_size
    recent = _Recent()
    with path.open('rb') as stream:
        try:
            for opcode, start, end in _records(stream, size):
                if end - start > LARGEST and (opcode in (Opcode.CHUNK, Opcode.MESSAGE) or opcode in _SMALL):
                    damage.append(f'a record at byte {start} has {end - start} bytes, and at most {LARGEST} are read')
                    has_oversize = True
                elif opcode == Opcode.CHUNK:
                    chunk = _ChunkStore(path, start, end, recent)
                    # A damaged chunk must not hide those behind it.
                    try:
                        data = chunk.read()
                        found += _read_chunk(data, chunk, schemas, channels)
                        recent.add(chunk, data)
                    except _DAMAGE as error:
                        damage.append(f'a chunk at byte {start} is damaged ({_phrase(error)})')
                        has_oversize |= isinstance(error, Oversize)
                elif opcode == Opcode.MESSAGE:
                    store = Store(stream.read(end - start))
                    found.append(_message(store.data(), store, 0, end - start))
                elif opcode in _SMALL:
                    record = _SMALL[opcode].read(_fields(stream.read(end - start)))
                    if opcode == Opcode.SCHEMA:
                        schemas.setdefault(record.id, record)
                    elif opcode == Opcode.CHANNEL:
                        channels.setdefault(record.id, record)
                    elif record.name == metadata_name:
                        custom_data = dict(record.metadata)
                    else:
                        metadata.append(record)
                elif opcode == Opcode.ATTACHMENT:
                    attachments.append(StoredAttachment(path, start, end))
        except _DAMAGE as error:
            damage.append(f'it breaks off at byte {stream.tell()} of {size} ({_phrase(error)})')
    # The summary at the end of the file repeats schemas and channels. Those of the chunks count where both are
    # there, because chunks are checked by their CRC.
    topics = {}
    for number, channel in channels.items():
        schema = schemas.get(channel.schema_id, _NO_SCHEMA)
        topics[number] = RawTopic(
            channel.topic,
            schema.name,
            schema.data.decode('utf-8', 'replace'),
            channel.metadata.get('offered_qos_profiles', ''),
            channel.metadata.get('topic_type_hash', ''),
            schema.encoding,
            channel.message_encoding,
        )
    messages = [RawMessage(topics[entry[0]].name, *entry[1:]) for entry in found if entry[0] in topics]
    if len(messages) < len(found):
        damage.append(f'{len(found) - len(messages)} messages are of channels that nothing in it describes')
    return Scan(
        {topic.name: topic for topic in topics.values()},
        messages,
        custom_data,
        metadata,
        attachments,
        damage,
        has_oversize,
    )


def _records(stream: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Records of a file as (opcode, first byte, byte after), the stream standing at the first."""
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


def _message(data: memoryview, store: Store | _ChunkStore, start: int, end: int) -> _Found:
    number, _, time, published = _MESSAGE.unpack_from(data, start)
    return number, time, published, store, start + _MESSAGE.size, end


def _read_chunk(
    data: memoryview, store: _ChunkStore, schemas: dict[int, Schema], channels: dict[int, Channel]
) -> list[_Found]:
    """All messages of a chunk."""
    messages = []
    for opcode, start, end in _split(data):
        if opcode == Opcode.MESSAGE:
            messages.append(_message(data, store, start, end))
        elif opcode == Opcode.SCHEMA:
            schema = Schema.read(_fields(data[start:end]))
            schemas.setdefault(schema.id, schema)
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(_fields(data[start:end]))
            channels.setdefault(channel.id, channel)
    return messages


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
