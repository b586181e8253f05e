"""Life of a node's process: start, and stop on signals."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor, ParameterType
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from dreamer_ros.errors import run_main
from dreamer_ros.launcher import end_with_launcher, local_discovery
from dreamer_ros.stopping import StopEvent

ENDING = (signal.SIGINT, signal.SIGTERM)  # in this order: the launcher takes a SIGTERM handler for both
# Python writes the numbers of signals there at once, whatever its threads are doing.
_numbers = os.pipe()
for _end in _numbers:
    os.set_blocking(_end, False)


def run_node(
    name: str,
    body: Callable[[Any, threading.Event], int | None],
    make: Callable[[str], Node] = Node,
    may_freeze: bool = False,
    local: bool = False,
) -> int:
    """Run the main function of a process that is one node, between `rclpy.init` and shutdown.

    SIGINT and SIGTERM only set the event: the ROS context stays alive, so that `body` can still save and
    publish before it returns. The kernel sends SIGTERM when the launcher of the process ends.

    Args:
        name: of the node, unless it is remapped.
        body: gets the node and the stop event, runs until the event is set, and returns the exit code.
        make: makes the node from its name.
        may_freeze: the process may stand still for long. Other processes then keep its subscriptions for 90 s instead
            of 20, also after it was killed, and send it what it missed. Only with Fast DDS, and unless
            FASTDDS_DEFAULT_PROFILES_FILE names other settings.
        local: only nodes of this computer are found, unless the environment says something about the network.

    Returns:
        Exit code; 2 after an InputError, which is printed as one line.
    """
    stop = StopEvent()
    for number in ENDING:
        signal.signal(number, lambda *_: stop.ask())
    signal.set_wakeup_fd(_numbers[1], warn_on_full_buffer=False)
    end_with_launcher()
    if local:
        os.environ.update(local_discovery(os.environ))
    if may_freeze:
        os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', str(Path(__file__).with_name('fastdds.xml')))
    start_ros()

    def serve() -> int | None:
        node = make(name)
        # Clocks and messages before and after the change would not fit together.
        fixed = ParameterDescriptor(name='use_sim_time', type=ParameterType.PARAMETER_BOOL, read_only=True)
        node.set_descriptor(fixed.name, fixed)
        try:
            return body(node, stop)
        finally:
            node.destroy_node()

    try:
        return run_main(serve)
    finally:
        rclpy.try_shutdown()
        # Python drops its handlers while it ends. A second SIGINT would then look like a crash.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def start_ros() -> None:
    """Do what `rclpy.init` does, also where there is no home directory to write logs to. Signals stay as they are."""
    if not os.access(os.path.expanduser('~'), os.W_OK):
        os.environ.setdefault('ROS_LOG_DIR', tempfile.gettempdir())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)


def terminating() -> str:
    """The name of the signal that asked this process to end, told once; '' if none did.

    Any thread can ask. The stop event is set later, once the main thread has run the signal handler.
    """
    try:
        numbers = os.read(_numbers[0], 100)
    except BlockingIOError:
        return ''
    return next((signal.Signals(number).name for number in numbers if number in ENDING), '')
