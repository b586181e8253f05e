"""A TCP connection with faults: what it lets through is decided by the test."""

from __future__ import annotations

import contextlib
import socket
import threading


class Link:
    """Forwards a local port to another one.

    Attributes:
        port: to connect to.
        limit: bytes of an answer after which a connection breaks; None for no limit.
        flip: which byte of the next answer's stream arrives wrong; None for none.
        carried: bytes of answers so far.
    """

    def __init__(self, target: int):
        self._target = target
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        self.limit = self.flip = None
        self.carried = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError), client, socket.create_connection(('127.0.0.1', self._target)) as server:
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            carried = 0
            while data := server.recv(4096):
                if self.flip is not None and carried <= self.flip < carried + len(data):
                    data = bytearray(data)
                    data[self.flip - carried] ^= 1
                    self.flip = None
                if self.limit is not None:
                    data = data[: max(0, self.limit - carried)]
                client.sendall(data)
                carried += len(data)
                self.carried += len(data)
                if self.limit is not None and carried >= self.limit:
                    break
            for end in (client, server):
                end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _forward(client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(4096):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def close(self):
        self._listener.close()
