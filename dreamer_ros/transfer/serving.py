"""A read-only HTTP server for finished episode bags and policies.

    GET /bags                 {"bags": [NAME, …]}, oldest first
    GET /bags/NAME            {"files": [{"name": …, "size": …, "sha256": …}, …]}
    GET /bags/NAME/FILE       its bytes, or a part of them (Range)
    GET /policies/FILE        the same of a policy

With a token, only those who send it (Authorization: Bearer) can read anything. Nothing can be written, and nothing is
encrypted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.server
import json
import math
import os
import re
import socket
import threading
import time
import urllib.parse
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.files import sha256

NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._+-]*')  # of bags and their files: no path, nothing hidden
POLICY = re.compile(r'policy_\d+\.onnx')
CONNECTIONS = 16  # at a time; one more closes the one that has been idle longest
IDLE_TIME = 30.0  # seconds until an idle connection is closed, and that sending 64 KiB may take
BLOCK = 1 << 16
CLOSE_TIME = 0.1  # seconds that `close` may take
NICE = 10
_RANGE = re.compile(r'bytes=(\d+)-(\d*)')

Found = bytes | Path | None


class Shelf:
    """What may be read.

    Args:
        bags: folder of episode bags, of which finished ones are served.
        policies: folder of a run's policies.
    """

    def __init__(self, bags: Path | None = None, policies: Path | None = None):
        self._bags, self._policies = bags, policies
        self._whole: set[str] = set()
        self._hashes: dict[Path, tuple[int, int, str]] = {}

    def find(self, path: str) -> Found:
        """A document (JSON), a file, or None for everything else."""
        kind, *names = path.strip('/').split('/')
        if not all(NAME.fullmatch(name) for name in names):
            return None
        if kind == 'policies' and self._policies and len(names) == 1:
            return _file(self._policies / names[0]) if POLICY.fullmatch(names[0]) else None
        if kind != 'bags' or self._bags is None or len(names) > 2:
            return None
        if not names:
            return _document(bags=self.bags())
        bag = self._bags / names[0]
        if bag.is_symlink() or not _is_whole(bag):
            return None
        if len(names) == 2:
            return _file(bag / names[1])
        return _document(files=[self._describe(file) for file in sorted(bag.iterdir()) if _file(file)])

    def bags(self) -> list[str]:
        """Names of finished bags, oldest first."""
        try:
            names = sorted(os.listdir(self._bags))
        except FileNotFoundError:
            return []  # the first bag makes the folder
        self._whole = {
            name for name in names if name in self._whole or NAME.fullmatch(name) and _is_whole(self._bags / name)
        }
        return [name for name in names if name in self._whole]

    def _describe(self, file: Path) -> dict:
        stat = file.stat()
        size, changed, digest = self._hashes.get(file, (-1, -1, ''))
        if (size, changed) != (stat.st_size, stat.st_mtime_ns):
            digest = sha256(file)
            self._hashes[file] = stat.st_size, stat.st_mtime_ns, digest
        return {'name': file.name, 'size': stat.st_size, 'sha256': digest}


def be_nice() -> None:
    """Give this thread, and those that it starts, less priority than a control loop or a learner."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _is_whole(bag: Path) -> bool:
    """Whether a bag is finished: metadata.yaml is written last."""
    return (bag / 'metadata.yaml').is_file()


def _file(path: Path) -> Path | None:
    return path if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink() else None


def _document(**content) -> bytes:
    return json.dumps(content).encode()


class FileServer:
    """Serves a shelf on threads of its own, from construction to `close`.

    Args:
        shelf: what may be read.
        address: to listen at; 127.0.0.1 for this computer only, 0.0.0.0 for the whole network.
        port: 0 picks a free one.
        token: what clients have to send; '' lets everybody read.

    Attributes:
        port: that it listens at.

    Raises:
        InputError: it cannot listen there.
    """

    def __init__(self, shelf: Shelf, address: str, port: int, token: str = ''):
        try:
            self._server = _Server((address, port), _Handler)
        except OSError as error:
            raise InputError(
                f'{address}:{port}: expected an address of this computer and a free port ({error.strerror or error})'
            ) from error
        self._server.shelf, self._server.token = shelf, token
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._serve, name='file server', daemon=True)
        self._thread.start()

    @property
    def requests(self) -> int:
        """How many were answered so far."""
        return self._server.requests

    def _serve(self) -> None:
        be_nice()
        self._server.serve_forever(CLOSE_TIME)

    def close(self) -> None:
        """Stop, also in the middle of transfers."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS
    shelf: Shelf
    token: str
    requests = 0

    def __init__(self, *arguments):
        # Connections, and since when each is idle, in monotonic seconds; infinity while it is answered.
        self._open: dict[socket.socket, float] = {}
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        if len(self._open) >= CONNECTIONS:
            longest, since = min(self._open.items(), key=lambda entry: entry[1])
            if since == math.inf:
                self.shutdown_request(request)
                return
            self._end(longest)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def set_idle(self, request: socket.socket, since: float) -> None:
        """Note since when a connection is idle."""
        if request in self._open:
            self._open[request] = since

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self._open.pop(request, None)

    def server_close(self):
        super().server_close()
        for request in list(self._open):
            self._end(request)

    def _end(self, request: socket.socket) -> None:
        self._open.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)  # its thread notices

    def handle_error(self, request, client_address):
        """A client that is gone is no error of ours."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'  # keeps connections, which saves time on a slow link
    server_version, sys_version = 'dreamer_ros', ''
    timeout = IDLE_TIME
    server: _Server

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self.server.requests += 1
        self.server.set_idle(self.request, math.inf)
        try:
            self._answer()
        finally:
            self.server.set_idle(self.request, time.monotonic())

    def _answer(self) -> None:
        sent, token = self.headers.get('Authorization', ''), self.server.token
        if token and not hmac.compare_digest(sent.encode(errors='replace'), f'Bearer {token}'.encode()):
            self.send_error(401)
            return
        try:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path, errors='strict')
            found = self.server.shelf.find(path)
        except (OSError, ValueError):
            found = None
        if found is None:
            self.send_error(404)
        elif isinstance(found, bytes):
            self._send_document(found)
        else:
            self._send_file(found)

    def _send_document(self, content: bytes) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if self.headers.get('If-None-Match') == tag:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header('ETag', tag)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_file(self, path: Path) -> None:
        try:
            stream = path.open('rb')
        except OSError:
            self.send_error(404)
            return
        with stream:
            size = os.fstat(stream.fileno()).st_size
            first, last = 0, size - 1
            wanted = _RANGE.fullmatch(self.headers.get('Range', ''))
            if wanted:
                first = int(wanted[1])
                last = min(last, int(wanted[2])) if wanted[2] else last
                if first > last:
                    self.send_response(416)
                    self.send_header('Content-Range', f'bytes */{size}')
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                    return
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header('Content-Range', f'bytes {first}-{last}/{size}')
            self.send_header('Content-Type', 'application/octet-stream')
            self.send_header('Content-Length', str(last + 1 - first))
            self.end_headers()
            stream.seek(first)
            left = last + 1 - first
            while left and (block := stream.read(min(BLOCK, left))):
                self.wfile.write(block)
                left -= len(block)

    def log_message(self, *_) -> None:
        """The node reports, not every request."""
