"""A small process beside the robot agent that stops the robot when the agent's process dies or freezes.

The agent's watchdog writes to a pipe several times per control period; the guard holds a publisher of the
command topic. Silence means a frozen process, the end of the pipe a dead one, killed in whatever way.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import numpy as np

from dreamer_ros.deploy.realtime import GUARD, take_priority
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.safety import Safety
from dreamer_ros.wire.topics import Topic

LAST_TIME = 0.5  # seconds of stops after the agent's death, and until a pose is reached
LAST_LIMIT = 10.0
START_TIME = 10.0  # seconds that the process may take to start on a small, busy computer
BEATS_READ = 1000
UNREAD_TIME = 1.0  # seconds that beats may lie in the pipe; a frozen guard guards nothing
_BEAT = struct.Struct('<?q')  # armed; nanoseconds that ROS time is ahead of the system's. Then f64[A], the command


class Guard:
    """The agent's end of the pipe. `wait` before the first command.

    Args:
        contract: of the robot.
        topic: of its command, by the full name.
        patience: seconds of silence after which an armed agent counts as frozen.

    Attributes:
        name: of its node, in full.
        alive: whether the process runs.
        matched: how many subscribers of the command it has found.
    """

    def __init__(self, contract: RobotContract, topic: Topic, patience: float):
        reading, self._pipe = os.pipe()
        self._ready, told = os.pipe()
        request = {
            'contract': contract.text,
            'source': contract.source,
            'topic': topic.name,
            'patience': patience,
            'pipe': reading,
            'ready': told,
        }
        try:
            # A session of its own: whoever kills the agent's process group, or presses Ctrl-C, spares it.
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'dreamer_ros.deploy.guard', json.dumps(request)],
                stdin=subprocess.DEVNULL,
                pass_fds=(reading, told),
                start_new_session=True,
            )
        finally:
            os.close(reading)
            os.close(told)
        for end in (self._pipe, self._ready):
            os.set_blocking(end, False)
        self.name = f'/{_node_name(self._process.pid)}'
        self.alive = False
        self.matched = 0
        self._unread = array.array('i', [0])
        self._caught_up = 0.0

    def wait(self) -> bool:
        """Return when it can publish; False if it did not start."""
        if not self.alive:
            select.select([self._ready], [], [], START_TIME)
            self._listen()
        return self.alive

    def beat(self, armed: bool, ahead: int, values: np.ndarray) -> None:
        """This process is alive.

        Args:
            armed: the robot is to be stopped if it dies.
            ahead: nanoseconds of ROS time before the system's, for the stamps of stops.
            values: f64[A] of the last command; where a stop begins.
        """
        try:
            os.write(self._pipe, pack(armed, ahead, values))
        except BlockingIOError:
            pass  # it was suspended: what it has not read says as much as one beat more
        except BrokenPipeError:
            self.alive = False
        self._listen()

    def reads(self, now: float) -> bool:
        """Whether the process has read its beats until lately; at monotonic seconds `now`, before a beat."""
        fcntl.ioctl(self._pipe, termios.FIONREAD, self._unread)
        if not self._unread[0]:
            self._caught_up = now
        return now - self._caught_up <= UNREAD_TIME

    def _listen(self) -> None:
        try:
            told = os.read(self._ready, 100)
        except BlockingIOError:
            return
        self.alive = bool(told)
        self.matched = told[-1] if told else 0

    def close(self) -> None:
        """End the process; say before that it is not armed any more."""
        os.close(self._pipe)
        os.close(self._ready)
        self._process.wait()


def pack(armed: bool, ahead: int, values: np.ndarray) -> bytes:
    """A beat as it travels, see `Guard.beat`."""
    return _BEAT.pack(armed, ahead) + np.asarray(values, np.float64).tobytes()


def _node_name(pid: int) -> str:
    return f'guard_{pid}'


def main() -> int:
    """The guard's process: its request is the only argument."""
    request = json.loads(sys.argv[1])
    # It ends with the agent, not before.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    take_priority(GUARD)
    import rclpy
    from rclpy.node import Node
    from rclpy.signals import SignalHandlerOptions

    from dreamer_ros.ros import qos

    contract = RobotContract.from_text(request['contract'], request['source'])
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(_node_name(os.getpid()), start_parameter_services=False, enable_rosout=False)
    command = contract.command_topic
    publisher = qos.publisher(node, Topic(request['topic'], command.type, command.qos))
    matched = None

    def tell() -> None:
        nonlocal matched
        before, matched = matched, min(publisher.get_subscription_count(), 255)
        if matched != before:
            with contextlib.suppress(BrokenPipeError):  # the agent has ended: `watch` deals with that
                os.write(request['ready'], bytes([matched]))

    tell()
    watch(contract, request['pipe'], request['patience'], publisher.publish, tell)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def watch(
    contract: RobotContract, pipe: int, patience: float, publish: Callable[[bytes], None], heard: Callable[[], None]
) -> None:
    """Read the pipe until it ends; publish stops while an armed agent is silent, and after its death.

    Args:
        heard: called after each beat.
    """
    commands, safety = Commands(contract), Safety(contract)
    size = _BEAT.size + 8 * len(contract.command.axes)
    period = 1.0 / contract.rate
    armed, ahead, due = False, 0, 0.0

    def stop() -> None:
        values = safety.stop(time.monotonic())
        if values is not None:
            publish(commands.encode(values, time.time_ns() + ahead))

    while True:
        if select.select([pipe], [], [], max(0.0, due - time.monotonic()) if armed else None)[0]:
            data = os.read(pipe, BEATS_READ * size)
            if not data:
                break
            # Beats have one length and are written whole, so that no part of one is ever read alone.
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
