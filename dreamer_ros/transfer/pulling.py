"""Fetches the bags of a robot that serves them (serving.py), whole and verified, for as long as it takes."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import threading
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from dreamer_ros.errors import InputError
from dreamer_ros.files import sha256, sync
from dreamer_ros.transfer.serving import NAME

PERIOD = 1.0  # seconds between two looks
RETRIES = (1.0, 2.0, 4.0, 8.0)  # after failures; the last one again and again
TIMEOUT = 10.0  # seconds without a byte
DOCUMENT_LIMIT = 64 << 20  # bytes
BLOCK = 1 << 16
RESERVE = 10**9  # bytes that stay free on the disk


class Failed(Exception):
    """One sentence about what went wrong; the next attempt may succeed."""


class _Gone(Failed):
    """It is not served any more."""


class _File(NamedTuple):
    name: str
    size: int
    sha256: str


class Puller:
    """Keeps a folder up to date with what a robot serves.

    A bag grows as `.NAME.incoming`, from where it stopped after an interruption of whatever kind, and becomes
    `NAME` when every file has the size and the SHA-256 that its robot told. Bags that are there already, whoever
    put them there, are left alone.

    Args:
        source: `http://host:port` of the robot; https where a proxy of the user's adds it.
        folder: for the bags; created if missing.
        stop: ends a transfer.

    Attributes:
        bags, bytes: fetched so far.
        missing: bags that the robot has and the folder has not, as of the last look.

    Raises:
        InputError: no such address can be.
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
        kind = http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=TIMEOUT)
        self._base = parts.path.rstrip('/')
        self._index: list[str] = []
        self._tag = ''
        self.bags = self.bytes = self.missing = 0

    def look(self) -> list[str]:
        """Fetch what is new, oldest first; names of the bags that came.

        Raises:
            Failed: the robot is away, or something else went wrong; what came so far is kept.
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
                with contextlib.suppress(_Gone):
                    if not self._fetch(name):
                        break
                    came.append(name)
                    self.bags += 1
                self.missing -= 1
        except Failed:
            self._connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
            raise Failed(f'{self.source}: {reason}') from error
        return came

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()

    def _read_index(self) -> None:
        response = self._request('/bags', {'If-None-Match': self._tag} if self._tag else {})
        if response.status == 304:
            response.read()
            return
        content = self._document(response, '/bags')
        names = content.get('bags')
        if not isinstance(names, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
            raise Failed(f'{self.source}/bags: expected names of bags, got {str(names)[:80]}')
        self._index, self._tag = names, response.headers.get('ETag', '')

    def _fetch(self, name: str) -> bool:
        """One bag; False when asked to stop, or when somebody else fetches it."""
        path = f'/bags/{name}'
        files = self._files(self._document(self._request(path), path), path)
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
        """The rest of a file; False when asked to stop."""
        have = target.stat().st_size if target.exists() else 0
        if have > file.size:
            target.unlink()
            have = 0
        free = shutil.disk_usage(self._folder).free
        if free - (file.size - have) < RESERVE:
            raise Failed(f'{self._folder}: {free // 10**6} MB are free, too little for {file.name}')
        if have < file.size or file.size == 0:
            response = self._request(path, {'Range': f'bytes={have}-'} if have else {})
            if response.status == 206 and not response.headers.get('Content-Range', '').startswith(f'bytes {have}-'):
                raise Failed(
                    f'{self.source}{path}: expected the bytes from {have} on, got '
                    f'{response.headers.get("Content-Range")}'
                )
            with target.open('ab' if response.status == 206 else 'wb') as stream:
                while block := response.read1(min(BLOCK, file.size + 1 - stream.tell())):
                    stream.write(block)
                    self.bytes += len(block)
                    if self._stop.is_set() or stream.tell() > file.size:
                        self._connection.close()
                        break
                response.close()
                stream.flush()
                os.fsync(stream.fileno())
                have = stream.tell()
            if self._stop.is_set():
                return False
        if have < file.size:
            raise Failed(f'{self.source}{path}: the connection ended after {have} of {file.size} bytes')
        if have > file.size or sha256(target) != file.sha256:
            target.unlink()
            raise Failed(f'{self.source}{path}: what came is not what was promised (SHA-256); fetching it again')
        return True

    def _files(self, content: dict, path: str) -> list[_File]:
        try:
            files = [_File(str(entry['name']), int(entry['size']), str(entry['sha256'])) for entry in content['files']]
        except (KeyError, TypeError, ValueError) as error:
            raise Failed(
                f'{self.source}{path}: expected files with name, size and sha256, got {str(content)[:80]}'
            ) from error
        if not files or not all(NAME.fullmatch(file.name) and file.size >= 0 for file in files):
            raise Failed(f'{self.source}{path}: expected names and sizes of files, got {str(files)[:80]}')
        return files

    def _request(self, path: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        try:
            self._connection.request('GET', self._base + path, headers=headers or {})
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # The server gives up connections that rest for a while.
            self._connection.close()
            self._connection.request('GET', self._base + path, headers=headers or {})
            response = self._connection.getresponse()
        if response.status in (200, 206, 304):
            return response
        response.read()
        if response.status == 404 and path.count('/') > 1:
            raise _Gone(f'{self.source}{path} is gone')
        raise Failed(
            f'{self.source}{path}: expected bags of a robot, but the server answers {response.status} {response.reason}'
        )

    def _document(self, response: http.client.HTTPResponse, path: str) -> dict:
        data = response.read(DOCUMENT_LIMIT + 1)
        try:
            content = json.loads(data)
        except ValueError:
            content = None
        if not isinstance(content, dict) or len(data) > DOCUMENT_LIMIT:
            self._connection.close()
            raise Failed(f'{self.source}{path}: expected a JSON object, got {data[:80]!r}')
        return content

    def _tidy(self, present: set) -> None:
        """Throw away beginnings of bags that came whole from elsewhere."""
        for name in present:
            if name.startswith('.') and name.endswith('.incoming'):
                bag = name[1 : -len('.incoming')]
                if bag in present:
                    shutil.rmtree(self._folder / name, ignore_errors=True)
