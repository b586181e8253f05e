"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

from dreamer_ros.errors import InputError

MEGABYTE = 10**6
# MB that recorders leave free on a disk unless they are told otherwise.
DISK_RESERVE = 1000


def nearest_existing(path: Path) -> Path:
    """The path, or what there is on the way to it."""
    while not path.exists():
        path = path.parent
    return path


def free_megabytes(folder: Path) -> int:
    """MB that are free on the disk where a folder is, or would be made."""
    return shutil.disk_usage(nearest_existing(folder)).free // MEGABYTE


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: expected a text file that can be read ({error})') from error


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file's content through a temporary name `.<name>.partial`, a sync and a rename."""
    partial = path.with_name(f'.{path.name}.partial')
    with open(partial, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class Locked(Exception):
    """Another process, whose number the message is, holds a lock."""


def lock_file(path: Path) -> int:
    """Hold a lock until the returned descriptor is closed; the kernel releases it even after kill -9.

    Raises:
        Locked: somebody holds it.
        OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 20).decode(errors='replace').strip()
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise Locked(owner) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def sync_folder(path: Path) -> None:
    """Make the names in a folder last: what was created, renamed or deleted there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file, read block by block."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
