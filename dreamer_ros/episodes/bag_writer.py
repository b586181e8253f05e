"""Writes an episode as a rosbag2 directory, of which a crash loses one chunk at most."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from mcap.records import Attachment, Metadata
from mcap.writer import CompressionType, Writer

from dreamer_ros.episodes.bag_reader import partial_path
from dreamer_ros.episodes.mcap_scan import CUSTOM_DATA, RawTopic
from dreamer_ros.errors import InputError
from dreamer_ros.files import sync, write_file
from dreamer_ros.wire.definitions import definition
from dreamer_ros.wire.topics import Topic

# A chunk is what a crash can lose: about 20 frames of 64x64 RGB, and never more than a second.
CHUNK_BYTES = 256 * 1024
CHUNK_SECONDS = 1.0
# A larger bag is split into files of this size, because the index of a file stays in memory until its end.
FILE_BYTES = 2**30
# So much is synced at once, so that closing a large file does not take long.
SYNC_BYTES = 32 * 2**20


def episode_name(robot: str, number: int, now: datetime.datetime) -> str:
    """Directory name of an episode; names sort by time. `now` carries its time zone."""
    utc = now.astimezone(datetime.timezone.utc)
    who = robot.strip('/').replace('/', '_')
    return f'{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}-{who}-{number:06d}'


class BagExists(InputError):
    """A bag of that name exists."""


class EpisodeWriter:
    """Writes one bag from serialised messages.

    The bag grows as `.NAME.partial`, locked for as long as this process lives, and becomes `NAME` when it is
    whole. `recover` finishes what a crash leaves.

    Args:
        folder: of all bags; created if missing.
        name: of the bag's directory, see `episode_name`.
        topics: with their full names, see `Topic.within`.
        custom_data: what is known so far; `close` adds to it.

    Attributes:
        name: of the bag.

    Raises:
        BagExists: there is one of that name.
        InputError: a type is unknown, or the disk refuses.
    """

    def __init__(self, folder: Path, name: str, topics: Iterable[Topic], custom_data: Mapping[str, str]) -> None:
        self.name = name
        self._path = Path(folder) / name
        self._partial = partial_path(Path(folder), name)
        self._custom_data = dict(custom_data)
        self._lock: int | None = None
        self._failure: InputError | None = None
        self._files: list[McapFile] = []
        self._topics: list[RawTopic] = []
        for topic in topics:
            text, digest = definition(topic.type)
            self._topics.append(RawTopic(topic.name, topic.type, text, topic.qos.offered(), digest))
        with self._telling_disk_errors():
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            try:
                if self._path.exists():
                    raise FileExistsError
                self._partial.mkdir()  # another process may do so at the same time
            except FileExistsError:
                raise BagExists(f'episode bag {self._path}: expected a new name, but it exists') from None
            self._lock = lock_directory(self._partial, wait=True)
            self._begin_file()

    def write(self, topic: str, cdr: bytes, stamp_ns: int) -> None:
        """Append a serialised message; `stamp_ns` becomes its log and publish time.

        Raises:
            InputError: the disk refuses, now or earlier, for instance because it is full. The bag is closed then.
                Its whole chunks stay for `recover`.
        """
        with self._telling_disk_errors():
            if self._files[-1].size >= FILE_BYTES:
                self._files[-1].finish()
                self._begin_file()
            self._files[-1].write(topic, cdr, stamp_ns, stamp_ns)

    def close(self, custom_data: Mapping[str, str]) -> Path:
        """Finish the bag and give it its name.

        Raises:
            InputError: the disk refuses, as in `write`.
        """
        self._custom_data.update(custom_data)
        with self._telling_disk_errors():
            self._files[-1].finish()
            write_metadata(self._partial, self._files, self._custom_data)
            publish(self._partial, self._path)
        self._release()
        return self._path

    def abort(self) -> None:
        """Delete the bag, unless it is closed already."""
        if self._lock is None:
            return
        self._files[-1].discard()
        shutil.rmtree(self._partial, ignore_errors=True)
        self._release()

    def _begin_file(self) -> None:
        path = self._partial / f'{self._path.name}_{len(self._files)}.mcap'
        self._files.append(McapFile(path, self._topics, self._custom_data))

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _telling_disk_errors(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except OSError as error:
            if self._files:
                self._files[-1].discard()
            self._release()
            self._failure = InputError(
                f'episode bag {self._path}: writing failed ({error.strerror}); '
                'this episode is cut here, earlier ones are untouched'
            )
            raise self._failure from error


def new_episode(
    folder: Path, robot: str, number: int, topics: list[Topic], custom_data: Mapping[str, str]
) -> EpisodeWriter:
    """Begin an episode's bag now, under the first free name from `number` on: others may record to the folder, too.

    Raises:
        InputError: see EpisodeWriter.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    while True:
        try:
            return EpisodeWriter(folder, episode_name(robot, number, now), topics, custom_data)
        except BagExists:
            number += 1


class McapFile:
    """One MCAP file of a bag, and the counts that metadata.yaml needs."""

    def __init__(self, path: Path, topics: Iterable[RawTopic], custom_data: Mapping[str, str]) -> None:
        self.path = path
        self.topics = list(topics)
        self.counts: Counter = Counter()
        self.first_time: int | None = None
        self.last_time = 0
        self._stream = path.open('wb')
        # `write` ends the chunks, because only `flush` makes sure that they have left this process.
        self._writer = Writer(self._stream, chunk_size=2**62, compression=CompressionType.ZSTD)
        self._pending = self._unsynced = 0
        self._flushed = time.monotonic()
        self._channels: dict[str, int] = {}
        self._writer.start(profile='ros2', library='dreamer_ros')
        self._writer.add_metadata(CUSTOM_DATA, dict(custom_data))
        schemas: dict[str, int] = {}
        for topic in self.topics:
            if topic.type not in schemas:
                text = topic.definition.encode()
                schemas[topic.type] = (
                    self._writer.register_schema(topic.type, topic.definition_encoding, text) if topic.type else 0
                )
            self._channels[topic.name] = self._writer.register_channel(
                topic.name,
                topic.encoding,
                schemas[topic.type],
                {'offered_qos_profiles': topic.offered_qos, 'topic_type_hash': topic.hash},
            )

    @property
    def size(self) -> int:
        """Bytes that have left this process."""
        return self._stream.tell()

    def write(self, topic: str, cdr: bytes, stamp: int, published: int) -> None:
        sequence = self.counts[topic]
        self._writer.add_message(self._channels[topic], stamp, cdr, published, sequence)
        self.counts[topic] += 1
        self.first_time = stamp if self.first_time is None else min(self.first_time, stamp)
        self.last_time = max(self.last_time, stamp)
        self._pending += len(cdr)
        now = time.monotonic()
        if self._pending >= CHUNK_BYTES or now - self._flushed > CHUNK_SECONDS:
            self._writer.flush()
            self._unsynced += self._pending
            self._pending, self._flushed = 0, now
        if self._unsynced >= SYNC_BYTES:
            os.fdatasync(self._stream.fileno())
            self._unsynced = 0

    def add_foreign(self, metadata: list[Metadata], attachments: list[Attachment]) -> None:
        """Append the metadata records and attachments of other writers, equal ones once."""
        for number, record in enumerate(metadata):
            if record not in metadata[:number]:
                self._writer.add_metadata(record.name, record.metadata)
        for number, file in enumerate(attachments):
            if file not in attachments[:number]:
                self._writer.add_attachment(file.create_time, file.log_time, file.name, file.media_type, file.data)

    def finish(self) -> None:
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def discard(self) -> None:
        """Close the file, finished or not."""
        # Closing flushes, which fails again on a full disk.
        with contextlib.suppress(OSError):
            self._stream.close()


def write_metadata(directory: Path, files: list[McapFile], custom_data: Mapping[str, str]) -> None:
    """Write metadata.yaml, version 8: the newest that every ROS 2 since Humble reads."""
    start = min((file.first_time for file in files if file.first_time is not None), default=0)
    counts = sum((file.counts for file in files), Counter())
    information = {
        'version': 8,
        'storage_identifier': 'mcap',
        'duration': {'nanoseconds': max(file.last_time for file in files) - start if counts else 0},
        'starting_time': {'nanoseconds_since_epoch': start},
        'message_count': sum(counts.values()),
        'topics_with_message_count': [
            {
                'topic_metadata': {
                    'name': topic.name,
                    'type': topic.type,
                    'serialization_format': topic.encoding,
                    'offered_qos_profiles': topic.offered_qos,
                    'type_description_hash': topic.hash,
                },
                'message_count': counts[topic.name],
            }
            for topic in files[0].topics
        ],
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [file.path.name for file in files],
        'files': [
            {
                'path': file.path.name,
                'starting_time': {'nanoseconds_since_epoch': file.first_time or 0},
                'duration': {'nanoseconds': file.last_time - (file.first_time or 0)},
                'message_count': sum(file.counts.values()),
            }
            for file in files
        ],
        'custom_data': {str(key): str(value) for key, value in custom_data.items()},
        'ros_distro': os.environ.get('ROS_DISTRO', 'unknown'),
    }
    text = yaml.safe_dump({'rosbag2_bagfile_information': information}, sort_keys=False, allow_unicode=True)
    write_file(directory / 'metadata.yaml', text)


def publish(partial: Path, path: Path) -> None:
    """Give a whole bag its name, for good."""
    sync(partial)
    partial.rename(path)
    sync(path.parent)


def lock_directory(path: Path, wait: bool) -> int | None:
    """Lock a directory for as long as the returned descriptor is open.

    The kernel frees the lock when its owner dies, so a held lock means a live writer.

    Returns:
        None if another process has the lock, or has just renamed or removed the directory.
    """
    with contextlib.suppress(BlockingIOError, FileNotFoundError), contextlib.ExitStack() as on_failure:
        handle = os.open(path, os.O_RDONLY)
        on_failure.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # The lock belongs to the directory, whatever it is called by now.
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            on_failure.pop_all()
            return handle
    return None
