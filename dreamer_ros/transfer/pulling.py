"""Downloads the bags that a robot serves (serving.py), whole and verified."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from dreamer_ros.errors import InputError
from dreamer_ros.files import sha256, sync
from dreamer_ros.run_key import given_key
from dreamer_ros.schema import load_json
from dreamer_ros.transfer.client import Client, Failed
from dreamer_ros.transfer.serving import NAME

PERIOD = 1.0  # seconds between two looks
RETRIES = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts after failures; the last one repeats
DOCUMENT_LIMIT = 64 << 20  # bytes
RESERVE = 10**9  # bytes that stay free on the disk


class _File(NamedTuple):
    name: str
    size: int
    sha256: str


class Puller:
    """Keeps a folder up to date with the bags that a robot serves.

    A bag grows as `.NAME.incoming`, also across interruptions, and becomes `NAME` when every file has the size and
    the SHA-256 that the robot announced. Bags that are there already are left alone.

    Args:
        source: `http://host:port` of the robot, or https behind a proxy.
        folder: for the bags; created if missing.
        stop: ends a transfer.

    Attributes:
        bags, bytes: fetched so far.
        missing: how many bags of the robot the folder lacked at the last look.

    Raises:
        InputError: the address is malformed, or the environment names a file that holds no key.
    """

    def __init__(self, source: str, folder: Path, stop: threading.Event):
        parts = urllib.parse.urlsplit(source)
        try:
            usable = parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment:
            raise InputError(f'{source}: expected http://<host>:<port> of a robot that serves its bags')
        self.source = source.rstrip('/')
        self._folder, self._stop = folder, stop
        key = given_key()
        self._client = Client(stop, key.token if key else '')
        self._index: list[str] = []
        self._tag = ''
        self.bags = self.bytes = self.missing = 0

    def look(self) -> list[str]:
        """Fetch new bags, oldest first. Returns their names.

        Raises:
            Failed: the robot is away, or something else went wrong. What came so far is kept.
        """
        came: list[str] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._read_index()
            present = set(os.listdir(self._folder))
            self._tidy(present)
            wanted = [name for name in self._index if name not in present]
            self.missing = len(wanted)
            for name in wanted:
                try:
                    if not self._fetch(name):
                        break
                    came.append(name)
                    self.bags += 1
                except Failed as error:
                    if error.status != 404:  # 404: no longer served
                        raise
                self.missing -= 1
        except Failed as error:
            if error.status or not error.url.startswith(self.source):
                raise
            # The same problem gets the same words, whatever was requested.
            raise Failed(self.source, error.reason) from error
        except OSError as error:
            raise Failed(self.source, error.strerror or type(error).__name__) from error
        return came

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _read_index(self) -> None:
        found = self._client.document(f'{self.source}/bags', DOCUMENT_LIMIT, self._tag)
        if found is None:
            return
        names = self._json(found[0], '/bags').get('bags')
        if not isinstance(names, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
            raise self._strange('/bags', f'expected names of bags, got {str(names)[:80]}')
        self._index, self._tag = names, found[1]

    def _fetch(self, name: str) -> bool:
        """Fetch a bag. False after `stop`, or if another process fetches it."""
        path = f'/bags/{name}'
        files = self._files(self._json(self._client.document(self.source + path, DOCUMENT_LIMIT)[0], path), path)
        partial = self._folder / f'.{name}.incoming'
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            for file in files:
                if not self._fetch_file(f'{path}/{file.name}', partial / file.name, file):
                    return False
            for stray in set(os.listdir(partial)) - {file.name for file in files}:
                (partial / stray).unlink()
            sync(partial)
            partial.rename(self._folder / name)
            sync(self._folder)
        finally:
            os.close(lock)
        return True

    def _fetch_file(self, path: str, target: Path, file: _File) -> bool:
        """Fetch the rest of a file. False after `stop`."""
        if target.exists() and target.stat().st_size > file.size:
            target.unlink()
        with target.open('ab') as stream:
            have, free = stream.tell(), shutil.disk_usage(self._folder).free
            if free - (file.size - have) < RESERVE:
                raise Failed(str(self._folder), f'{free // 10**6} MB are free, too little for {file.name}')
            if have < file.size:
                try:
                    self.bytes += self._client.download(self.source + path, stream, file.size)
                finally:
                    stream.flush()
                    os.fsync(stream.fileno())
            have = stream.tell()
        if self._stop.is_set():
            return False
        if have < file.size:
            raise self._strange(path, f'the connection ended after {have} of {file.size} bytes')
        if have > file.size or sha256(target) != file.sha256:
            target.unlink()
            raise self._strange(path, 'what came is not what was promised (SHA-256); fetching it again')
        return True

    def _files(self, content: dict, path: str) -> list[_File]:
        try:
            files = [_File(str(entry['name']), int(entry['size']), str(entry['sha256'])) for entry in content['files']]
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange(path, f'expected files with name, size and sha256, got {str(content)[:80]}') from error
        if not files or not all(NAME.fullmatch(file.name) and file.size >= 0 for file in files):
            raise self._strange(path, f'expected names and sizes of files, got {str(files)[:80]}')
        return files

    def _json(self, data: bytes, path: str) -> dict:
        try:
            content = load_json(data, self.source)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise self._strange(path, f'expected a JSON object, got {data[:80]!r}')
        return content

    def _strange(self, path: str, reason: str) -> Failed:
        """An error for an answer that no robot should give."""
        return Failed(self.source + path, reason, 200)

    def _tidy(self, present: set) -> None:
        """Delete unfinished copies of bags that came from elsewhere."""
        for name in present:
            if f'.{name}.incoming' in present:
                shutil.rmtree(self._folder / f'.{name}.incoming', ignore_errors=True)
