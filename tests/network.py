"""Two computers on one: network namespaces, joined by a wire that delays, loses and can be cut.

The wire is two TAP devices and a thread that carries their frames, so that it needs no kernel module beside `tun`.
Without root it takes user namespaces and a /dev/net/tun that everybody may open.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME = 65536
ADDRESSES = ('10.77.0.1', '10.77.0.2')


class Unsupported(Exception):
    """Why this machine lets nobody make namespaces."""


class Computer:
    """A network namespace with one interface, which lives as long as its holder process.

    Attributes:
        address: of its interface.
        tap: file descriptor of its frames.
    """

    def __init__(self, address: str):
        self.address = address
        for tool in ('unshare', 'nsenter', 'ip'):
            if not shutil.which(tool):
                raise Unsupported(f'the command {tool} is not installed')
        self._root = os.geteuid() == 0
        ours, theirs = socket.socketpair()
        unshare = ['unshare', '--net'] if self._root else ['unshare', '--net', '--user', '--map-root-user']
        with ours, theirs:
            self._holder = subprocess.Popen(
                [*unshare, sys.executable, '-m', 'tests.network', str(theirs.fileno()), address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            ours.settimeout(30)
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        if not ancillary:
            self._holder.wait()
            said = self._holder.stdout.read().strip().splitlines() or ['unshare is refused']
            raise Unsupported(f'no network namespace: {said[-1]}')
        self.tap = array.array('i', ancillary[0][2])[0]

    def command(self, *words: str) -> list[str]:
        """A command line that runs another one on this computer."""
        user = [] if self._root else ['--user', '--preserve-credentials']
        return ['nsenter', f'--target={self._holder.pid}', '--net', *user, '--', *words]

    def close(self) -> None:
        self._holder.stdin.close()
        self._holder.wait()
        self._holder.stdout.close()
        os.close(self.tap)


class Wire:
    """Carries frames between two computers.

    Args:
        ends: the computers.
        delay: seconds each way.
        jitter: seconds, of which each frame gets a random part on top; frames overtake each other.
        loss: share of the frames that are lost.
        seed: of both.

    Attributes:
        cut: nothing passes while it is set.
        carried, lost: frames so far.
    """

    def __init__(self, ends: tuple[Computer, Computer], delay: float, jitter: float, loss: float, seed: int):
        self._ends, self._delay, self._jitter, self._loss = ends, delay, jitter, loss
        self._random = random.Random(seed)
        self.cut = False
        self.carried = self.lost = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        way = {self._ends[0].tap: self._ends[1].tap, self._ends[1].tap: self._ends[0].tap}
        under_way: list = []
        number = 0
        while not self._closed.is_set():
            patience = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            for tap in select.select(list(way), [], [], min(patience, 0.1))[0]:
                frame = os.read(tap, FRAME)
                if self.cut or self._random.random() < self._loss:
                    self.lost += 1
                    continue
                number += 1
                at = time.monotonic() + self._delay + self._jitter * self._random.random()
                heapq.heappush(under_way, (at, number, way[tap], frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, tap, frame = heapq.heappop(under_way)
                if not self.cut:
                    os.write(tap, frame)
                    self.carried += 1

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


class Network:
    """Two computers and the wire between them; closed by `with`.

    Raises:
        Unsupported: not on this machine.
    """

    def __init__(self, delay: float, jitter: float, loss: float, seed: int):
        self.robot: Computer | None = None
        self.trainer: Computer | None = None
        try:
            self.robot, self.trainer = (Computer(address) for address in ADDRESSES)
        except BaseException:
            self._close_computers()
            raise
        self.wire = Wire((self.robot, self.trainer), delay, jitter, loss, seed)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_) -> None:
        self.wire.close()
        self._close_computers()

    def _close_computers(self) -> None:
        for computer in (self.robot, self.trainer):
            if computer:
                computer.close()


def _hold(sender: int, address: str) -> None:
    """In the namespace: make the interface, hand its frames over, and live until standard input ends."""
    tap = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH', b'wire', IFF_TAP | IFF_NO_PI))
    for words in (
        f'addr add {address}/24 dev wire',
        'link set lo up',
        'link set wire up',
        'route add 224.0.0.0/4 dev wire',
    ):
        subprocess.run(['ip', *words.split()], check=True)
    with socket.socket(fileno=sender) as connection:
        connection.sendmsg([b'.'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [tap]))])
    sys.stdin.read()


if __name__ == '__main__':
    _hold(int(sys.argv[1]), sys.argv[2])
