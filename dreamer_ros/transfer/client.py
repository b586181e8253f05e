"""A small HTTP client that bounds the size and the duration of everything, for networks that can't be trusted.

The usual libraries do not bound how long the head of an answer takes.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from dreamer_ros.run_key import VARIABLE

TIMEOUT = 10.0  # seconds without a byte
HEAD_TIME = 20.0  # seconds that the head of an answer may take
DOCUMENT_TIME = 60.0  # seconds that a document may take
SLOWEST = 1000.0  # bytes per second; a slower file is given up
GRACE = 10.0  # seconds before the speed of a file counts
REDIRECTS = 5
BLOCK = 1 << 16
_REDIRECTED = (301, 302, 303, 307, 308)


class Failed(Exception):
    """A request failed. The next attempt may succeed.

    Attributes:
        url: of the request.
        reason: one sentence.
        status: HTTP status of the answer; 0 without one.
    """

    def __init__(self, url: str, reason: str, status: int = 0):
        super().__init__(f'{url}: {reason}')
        self.url, self.reason, self.status = url, reason, status


class Client:
    """Keeps the connection to the last server. Follows redirects to http and https only. Not thread-safe.

    Args:
        stop: ends a transfer between two blocks.
        token: is sent to the server of the address alone, not to those that it leads to.
    """

    def __init__(self, stop: threading.Event | None = None, token: str = ''):
        self._stop, self._token = stop or threading.Event(), token
        self._connection: http.client.HTTPConnection | None = None
        self._server: tuple = ()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def document(self, url: str, limit: int, tag: str = '') -> tuple[bytes, str] | None:
        """A small answer and its ETag, or None if the answer with the ETag `tag` is still current.

        Args:
            limit: largest size in bytes.

        Raises:
            Failed: there is no answer, or a larger one.
            ValueError: the address is malformed.
        """
        with self._get(url, {'If-None-Match': tag} if tag else {}) as response:
            data, ends = bytearray(), time.monotonic() + DOCUMENT_TIME
            while block := _read(url, response, BLOCK):
                data += block
                if len(data) > limit or time.monotonic() > ends:
                    reason = f'expected at most {limit} bytes within {DOCUMENT_TIME:.0f} s, got {len(data)} and more'
                    raise Failed(url, reason, response.status)
            return None if response.status == 304 else (bytes(data), response.headers.get('ETag', ''))

    def download(self, url: str, file: BinaryIO, size: int, slowest: float = SLOWEST) -> int:
        """Download a file, or the rest of one.

        Args:
            file: open for writing, at the end of what is there.
            size: expected size in bytes; at most one byte more is written.
            slowest: bytes per second.

        Returns:
            How many bytes came. They are fewer if the server has fewer, or after `stop`.

        Raises:
            Failed: no answer, the connection ended early, or it is too slow. The file keeps what came.
            ValueError: the address is malformed.
            OSError: the file cannot be written.
        """
        have = file.tell()
        with self._get(url, {'Range': f'bytes={have}-'} if have else {}) as response:
            if response.status == 206 and not response.headers.get('Content-Range', '').startswith(f'bytes {have}-'):
                raise Failed(
                    url, f'expected the bytes from {have} on, got {response.headers.get("Content-Range")}', 206
                )
            if response.status != 206 and have:
                file.seek(0)
                file.truncate()
            begin = file.tell()
            promised = response.headers.get('Content-Length', '')
            end = min(size, begin + int(promised)) if promised.isdecimal() else 0
            began = time.monotonic()
            while not self._stop.is_set() and (block := _read(url, response, min(BLOCK, size + 1 - file.tell()))):
                file.write(block)
                elapsed, came = time.monotonic() - began, file.tell() - begin
                if elapsed > GRACE and came < elapsed * slowest:
                    raise Failed(url, f'{came} bytes in {elapsed:.0f} s are too slow')
            if file.tell() < end and not self._stop.is_set():
                raise Failed(url, f'the connection ended after {file.tell()} of {end} bytes')
            return file.tell() - begin

    @contextlib.contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request: 200, 206 or 304."""
        try:
            with _failing(url):
                response = self._follow(url, headers)
            if response.status == 401:
                raise Failed(url, f'the server asks for the key of its run: give it in {VARIABLE}, or key:=FILE', 401)
            if response.status not in (200, 206, 304):
                raise Failed(url, f'the server answers {response.status} {response.reason}', response.status)
            yield response
        except BaseException:
            self.close()
            raise
        if response.length:  # not read to its end
            self.close()
        response.close()

    def _follow(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        first = _server(url)
        for _ in range(REDIRECTS + 1):
            own = {'Authorization': f'Bearer {self._token}'} if self._token and _server(url) == first else {}
            response = self._request(url, {**headers, **own})
            if response.status not in _REDIRECTED:
                return response
            self.close()
            url = urllib.parse.urljoin(url, response.headers.get('Location', ''))
            if urllib.parse.urlsplit(url).scheme not in ('http', 'https'):
                raise Failed(url, 'the server sends us there, but only http and https are followed')
        raise Failed(url, f'the server sends us on more than {REDIRECTS} times')

    def _request(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        parts, server = urllib.parse.urlsplit(url), _server(url)
        target = urllib.parse.urlunsplit(('', '', parts.path or '/', parts.query, ''))
        while True:
            fresh = self._connection is None or self._server != server
            if fresh:
                self.close()
                kind = http.client.HTTPSConnection if parts.scheme == 'https' else http.client.HTTPConnection
                self._connection, self._server = kind(parts.hostname or '', parts.port, timeout=TIMEOUT), server
            try:
                # A server that sends a byte now and then would never time out.
                late = threading.Event()
                timer = threading.Timer(HEAD_TIME, self._cut, [self._connection, late])
                timer.daemon = True
                timer.start()
                try:
                    self._connection.request('GET', target, headers=headers)
                    response = self._connection.getresponse()
                finally:
                    timer.cancel()
                if late.is_set():
                    raise TimeoutError(f'no whole head of an answer within {HEAD_TIME:g} s')
                return response
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # A server closes idle connections, but a fresh one must not fail.
                self.close()
                if fresh:
                    raise

    @staticmethod
    def _cut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
        late.set()
        with contextlib.suppress(OSError, AttributeError):  # closed already; not connected yet
            connection.sock.shutdown(socket.SHUT_RDWR)


def _server(url: str) -> tuple:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


@contextlib.contextmanager
def _failing(url: str) -> Iterator[None]:
    """Turns what the network raises into Failed."""
    try:
        yield
    except http.client.InvalidURL as error:
        raise ValueError(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
        raise Failed(url, f'its server does not answer ({reason})') from error


def _read(url: str, response: http.client.HTTPResponse, size: int) -> bytes:
    with _failing(url):
        return response.read1(size)
