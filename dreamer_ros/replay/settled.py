"""Whether a bag is whole, or still on its way: being recorded by another tool, or copied."""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

import zstandard
from mcap.writer import MCAP0_MAGIC

from dreamer_ros.episodes.bag_reader import bag_files, missing_files, read_metadata
from dreamer_ros.errors import InputError

# A bag without its end may still be recorded or copied; after so many quiet seconds it is taken as it is.
QUIET_SECONDS = 60.0
SQLITE = b'SQLite format 3\0'
_FRAME_HEAD = 18  # bytes that the header of a Zstandard frame takes at most


def is_settled(path: Path) -> bool:
    """Whether a bag directory or file is whole, or has not changed for long enough that it never will be."""
    try:
        files = bag_files(path) if path.is_dir() else [path]
        if files and all(map(_has_end, files)) and (not path.is_dir() or _has_all(path)):
            return True
        newest = max(file.stat().st_mtime for file in ([path, *path.iterdir()] if path.is_dir() else [path]))
    except FileNotFoundError:
        return False  # renamed or deleted this moment
    return time.time() - newest > QUIET_SECONDS


def _has_all(bag: Path) -> bool:
    """Whether every file is there that metadata.yaml tells of."""
    try:
        return not missing_files(bag, read_metadata(bag))
    except InputError:
        return (bag / 'metadata.yaml').exists()  # damaged, and written last


def _has_end(file: Path) -> bool:
    """Whether a file ends as a finished one of its kind does; of unknown kinds, whether there is something."""
    with file.open('rb') as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        head = stream.read(len(SQLITE) + 16)
        if file.name.endswith('.zstd'):
            return _frames_end(stream, size)
        if head.startswith(SQLITE):
            # Bytes per page (1 stands for 65536), and pages; rosbag2 adds both in one transaction.
            page, pages = int.from_bytes(head[16:18], 'big'), int.from_bytes(head[28:32], 'big')
            return size >= (65536 if page == 1 else page) * pages
        if file.suffix == '.mcap':
            stream.seek(max(0, size - len(MCAP0_MAGIC)))
            return stream.read() == MCAP0_MAGIC
        return size > 0


def _frames_end(stream: BinaryIO, size: int) -> bool:
    """Whether the last Zstandard frame of a file is whole, by the lengths of its blocks (RFC 8878, 3.1.1)."""
    place = 0
    while size - place > 0:
        stream.seek(place)
        head = stream.read(_FRAME_HEAD)
        try:
            parameters = zstandard.get_frame_parameters(head)
            place += zstandard.frame_header_size(head)
        except zstandard.ZstdError:
            return False
        is_last = False
        while not is_last:
            stream.seek(place)
            block = int.from_bytes(stream.read(3), 'little')
            is_last, kind, length = block & 1, block >> 1 & 3, block >> 3
            place += 3 + (1 if kind == 1 else length)  # 1: one byte, repeated
            if place > size:
                return False
        place += 4 * parameters.has_checksum
    return 0 < place == size
