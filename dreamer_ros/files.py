"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from dreamer_ros.errors import InputError

MEGABYTE = 10**6
# MB that recorders leave free on a disk unless they are told otherwise.
DISK_RESERVE = 1000


def user_path(text: str | Path) -> Path:
    """The path that somebody means, who may begin it with ~. Where no home directory is known, ~ stays."""
    return Path(os.path.expanduser(text))


def nearest_existing(path: Path) -> Path:
    """The path, or what there is on the way to it."""
    while not path.exists():
        path = path.parent
    return path


def free_megabytes(folder: Path) -> int:
    """MB that are free on the disk where a folder is, or would be made."""
    return shutil.disk_usage(nearest_existing(folder)).free // MEGABYTE


def check_regular(path: Path) -> None:
    """Refuse what is there and is no file: a pipe would hold up its reader for ever, and a device has no end.

    Raises:
        InputError: it is a folder, a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file():
        raise InputError(f'{path}: expected a file, got a {"folder" if path.is_dir() else "pipe, socket or device"}')


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        check_regular(path)
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: expected a text file that can be read ({error})') from error


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary path `.<name>.<random>.partial` beside `path`, for the block to write a file or a folder to.

    At the end of the block it takes the place of `path`, so that `path` is whole at any time. After an exception it is
    removed, and `path` stays as it is.

    Args:
        durable: wait until the disk has all of it. What can be made again does without.
    """
    partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.partial')
    try:
        yield partial
        if durable:
            for written in (partial, *partial.rglob('*')):
                sync(written)
        if partial.is_dir():
            _remove(path)  # no folder can be renamed over one with files in it
        os.replace(partial, path)
    except BaseException as error:
        _remove(partial)
        if isinstance(error, OSError) and error.filename is None:  # a write that the disk refused
            error.filename = str(path)
        raise
    if durable:
        sync(path.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file's content; see `replacing`."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_result(path: Path, content: str) -> Path:
    """Write a file that a user asked for, making its folder if needed. Returns its path.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise InputError(f'{path.parent}: expected a folder that can be written ({error})') from error
    return path


def _remove(path: Path) -> None:
    """Delete a file or a folder, as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Wait until the disk has the content of a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def sha256(path: Path) -> str:
    """Hex digest of a file, read block by block."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
