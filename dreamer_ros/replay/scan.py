"""What is whole in an MCAP file, however it ends."""
from __future__ import annotations

import dataclasses
import io
import struct
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, get_chunk_data_stream

_DAMAGE = (
    McapError, struct.error, ValueError, zstandard.ZstdError, MemoryError, OverflowError, EOFError, KeyError,
)
_RECORD = struct.Struct('<BQ')    # opcode, length
_MESSAGE = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time


class RawMessage(NamedTuple):
    """A message as stored: topic, log time in ns, CDR bytes."""

    topic: str
    time: int
    data: memoryview


class RawTopic(NamedTuple):
    """A topic as stored."""

    name: str
    type: str
    definition: str
    offered_qos: str
    hash: str


@dataclasses.dataclass
class Scan:
    """Contents of one MCAP file.

    Attributes:
        topics: by name.
        messages: of all whole chunks, in file order.
        custom_data: what our writer put at the head of the file.
        damage: what is wrong with the file, one phrase each; empty for a whole file.
    """

    topics: Dict[str, RawTopic]
    messages: List[RawMessage]
    custom_data: Dict[str, str]
    damage: List[str]


def scan_mcap(path: Path, metadata_name: str) -> Scan:
    """Read every whole chunk of an MCAP file; damage is told, never raised.

    Args:
        path: the file.
        metadata_name: name of the MCAP metadata record that holds `custom_data`.

    Raises:
        OSError: the file can't be read.
    """
    schemas: Dict[int, Schema] = {}
    channels: Dict[int, Channel] = {}
    found: List[Tuple[int, int, memoryview]] = []
    custom_data: Dict[str, str] = {}
    damage: List[str] = []
    size = path.stat().st_size
    with path.open('rb') as stream:
        try:
            # emit_chunks: a chunk that is damaged must not hide those behind it.
            for record in StreamReader(stream, emit_chunks=True, record_size_limit=size).records:
                if isinstance(record, Chunk):
                    try:
                        found += _read_chunk(record, schemas, channels)
                    except _DAMAGE as error:
                        size_of = f'a chunk of {record.uncompressed_size} bytes'
                        damage.append(f'{size_of} is damaged ({_phrase(error)})')
                elif isinstance(record, Schema):
                    schemas.setdefault(record.id, record)
                elif isinstance(record, Channel):
                    channels.setdefault(record.id, record)
                elif isinstance(record, Message):
                    found.append((record.channel_id, record.log_time, memoryview(record.data)))
                elif isinstance(record, Metadata) and record.name == metadata_name:
                    custom_data = dict(record.metadata)
        except _DAMAGE as error:
            damage.append(f'it breaks off at byte {stream.tell()} of {size} ({_phrase(error)})')
    # The summary at the end of the file repeats what a damaged chunk would have said; the first word counts,
    # because chunks are checked by their CRC.
    topics = {}
    for number, channel in channels.items():
        schema = schemas.get(channel.schema_id)
        if schema is not None and channel.message_encoding == 'cdr' and schema.encoding == 'ros2msg':
            topics[number] = RawTopic(
                channel.topic,
                schema.name,
                schema.data.decode('utf-8', 'replace'),
                channel.metadata.get('offered_qos_profiles', ''),
                channel.metadata.get('topic_type_hash', ''),
            )
    messages = [
        RawMessage(topics[number].name, time, data) for number, time, data in found if number in topics
    ]
    return Scan({topic.name: topic for topic in topics.values()}, messages, custom_data, damage)


def _read_chunk(
    chunk: Chunk, schemas: Dict[int, Schema], channels: Dict[int, Channel]
) -> List[Tuple[int, int, memoryview]]:
    """Messages of a chunk as (channel, log time, CDR bytes); all or, when it is damaged, none."""
    stream, _ = get_chunk_data_stream(chunk, validate_crc=True)
    data = memoryview(stream.read(chunk.uncompressed_size))
    messages = []
    for opcode, start, end in _split(data):
        if opcode == Opcode.MESSAGE:
            number, _, time, _ = _MESSAGE.unpack_from(data, start)
            messages.append((number, time, data[start + _MESSAGE.size:end]))
        elif opcode == Opcode.SCHEMA:
            schema = Schema.read(ReadDataStream(io.BytesIO(data[start:end])))
            schemas.setdefault(schema.id, schema)
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(ReadDataStream(io.BytesIO(data[start:end])))
            channels.setdefault(channel.id, channel)
    return messages


def _split(data: memoryview) -> Iterator[Tuple[int, int, int]]:
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
