"""A small process that stops the robot when the robot agent's process dies or freezes.

The agent's watchdog writes to a pipe several times per control period. The guard can send stops to all who are
commanded. A silent pipe means that the agent is frozen, a closed one that it is dead.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import functools
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence

import numpy as np

from dreamer_ros.deploy.realtime import GUARD, take_priority
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.safety import Safety

LAST_TIME, LAST_LIMIT = 0.5, 10.0  # seconds of stops after the agent's death; at most, until a pose is reached
START_TIME = 30.0  # seconds that the process may take to start on a small, busy computer
BEATS_READ = 1000
UNREAD_TIME = 1.0  # seconds that beats may lie in the pipe before the guard counts as frozen
_BEAT = struct.Struct('<?q')  # armed, nanoseconds that ROS time is ahead of the system's; f64[A] follows, the command


class Guard:
    """Starts the guard's process; the agent's end of the pipe. Call `wait` before the first command.

    Args:
        contract: of the robot.
        agent: full name of its node. The guard's is beside it.
        receivers: full names of the topics and actions that are commanded, in the order of the contract.
        patience: seconds of silence after which an armed agent counts as frozen.
        enclave: of the agent (SROS 2), whose rights the guard needs.

    Attributes:
        name: full name of the guard's node.
        alive: whether the process runs.
        matched: how many subscribers it has found of each topic, and whether of each action the server.
    """

    def __init__(self, contract: RobotContract, agent: str, receivers: Sequence[str], patience: float, enclave: str):
        reading, self._pipe = os.pipe()
        self._ready, told = os.pipe()
        request = {
            'contract': contract.text,
            'source': contract.source,
            'node': f'{agent}_guard',
            'receivers': receivers,
            'patience': patience,
            'enclave': enclave,
            'pipe': reading,
            'ready': told,
        }
        try:
            # A session of its own: Ctrl-C, or killing the agent's process group, does not reach it.
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'dreamer_ros.deploy.guard'],
                stdin=subprocess.PIPE,
                pass_fds=(reading, told),
                start_new_session=True,
            )
        finally:
            os.close(reading)
            os.close(told)
        assert self._process.stdin is not None
        # Not as an argument, whose length is limited.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        for end in (self._pipe, self._ready):
            os.set_blocking(end, False)
        self.name = f'{agent}_guard'
        self.alive = False
        self.matched: tuple[int, ...] = (0,) * len(receivers)
        self._unread = array.array('i', [0])
        self._caught_up = 0.0

    def wait(self) -> bool:
        """Wait until the guard can publish; False if it did not start."""
        if not self.alive:
            select.select([self._ready], [], [], START_TIME)
            self._listen()
        return self.alive

    def beat(self, armed: bool, ahead: int, values: np.ndarray) -> None:
        """Tell the guard that this process is alive.

        Args:
            armed: stop the robot if this process dies.
            ahead: nanoseconds that ROS time is ahead of the system's, for the stamps of stops.
            values: f64[A], the last command, from which a stop begins.
        """
        try:
            os.write(self._pipe, pack(armed, ahead, values))
        except BlockingIOError:
            pass  # the pipe is full, since the guard was suspended: one more beat would tell it nothing new
        except BrokenPipeError:
            self.alive = False
        self._listen()

    def reads(self, now: float) -> bool:
        """Whether the guard has read all beats within `UNREAD_TIME`. Call it before a beat; `now` is monotonic."""
        fcntl.ioctl(self._pipe, termios.FIONREAD, self._unread)
        if not self._unread[0]:
            self._caught_up = now
        return now - self._caught_up <= UNREAD_TIME

    def _listen(self) -> None:
        try:
            # Whole answers, since each is written at once.
            told = os.read(self._ready, BEATS_READ * len(self.matched))
        except BlockingIOError:
            return
        self.alive = bool(told)
        self.matched = tuple(told[-len(self.matched) :]) or (0,) * len(self.matched)

    def close(self) -> None:
        """End the process; disarm it by a beat first."""
        os.close(self._pipe)
        os.close(self._ready)
        self._process.wait()


def pack(armed: bool, ahead: int, values: np.ndarray) -> bytes:
    """The bytes of a beat, see `Guard.beat`."""
    return _BEAT.pack(armed, ahead) + np.asarray(values, np.float64).tobytes()


def main() -> int:
    """Run the guard's process; its input is the request in JSON."""
    request = json.load(sys.stdin)
    # It ends with the agent, not before.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    take_priority(GUARD)
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from dreamer_ros.deploy.outlets import outlet, stop

    contract = RobotContract.from_text(request['contract'], request['source'])
    rclpy.init(args=['--ros-args', '--enclave', request['enclave']], signal_handler_options=SignalHandlerOptions.NO)
    namespace, _, name = request['node'].rpartition('/')
    node = Node(name, namespace=namespace, start_parameter_services=False, enable_rosout=False)
    parts = zip(contract.command.parts, request['receivers'])
    outlets = [outlet(node, part, name, alone=True) for part, name in parts]
    matched = None

    def tell() -> None:
        nonlocal matched
        before, matched = matched, bytes(min(each.matched, 255) for each in outlets)
        if matched != before:
            with contextlib.suppress(BrokenPipeError):  # the agent has ended, which `watch` handles
                os.write(request['ready'], matched)

    tell()
    watch(contract, request['pipe'], request['patience'], functools.partial(stop, outlets), tell)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def watch(
    contract: RobotContract,
    pipe: int,
    patience: float,
    send_stop: Callable[[Sequence[bytes | None]], None],
    heard: Callable[[], None],
) -> None:
    """Read the pipe until it closes. Send stops while an armed agent is silent, and after its death.

    Args:
        send_stop: see `outlets.stop`.
        heard: called after each beat.
    """
    commands, safety = Commands(contract), Safety(contract)
    size = _BEAT.size + 8 * len(contract.command.axes)
    period = 1.0 / contract.rate
    armed, ahead, due = False, 0, 0.0

    def stop() -> None:
        send_stop(commands.encode(safety.stop(time.monotonic()), time.time_ns() + ahead))

    while True:
        if select.select([pipe], [], [], max(0.0, due - time.monotonic()) if armed else None)[0]:
            data = os.read(pipe, BEATS_READ * size)
            if not data:
                break
            # Beats have one length and are written whole, so the last bytes are always a whole beat.
            beat = data[-size:]
            armed, ahead = _BEAT.unpack_from(beat)
            values = np.frombuffer(beat, np.float64, offset=_BEAT.size)
            if not np.isnan(values).any():
                safety.start(values)
            due = time.monotonic() + patience
            heard()
        else:
            stop()
            due = time.monotonic() + period
    if armed:
        died = time.monotonic()
        while (elapsed := time.monotonic() - died) < LAST_TIME or (elapsed < LAST_LIMIT and not safety.stopped):
            stop()
            time.sleep(period)


if __name__ == '__main__':
    sys.exit(main())
