"""Runs a scenario without `ros2 launch`: starts its processes, watches them, and ends them all.

One thread does everything: it waits with one `select` for the outputs of all children and for a pipe that the signal
handlers write to. Without other threads, no fork can copy a lock that is held.
"""

from __future__ import annotations

import codecs
import collections
import dataclasses
import fcntl
import importlib.util
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
import tty

from dreamer_ros.errors import missing_package
from dreamer_ros.launching import scenario
from dreamer_ros.launching.processes import ExitRules, Process, Scenario, Verdict, child_environment, telling_line
from dreamer_ros.training.run_directory import discard_unused

EXIT_INTERRUPTED = 130
EXIT_FAILED = 1

# Packages besides rclpy that a node needs and that an installation may lack.
_IMPORTS = {'trainer': ('torch',)}

REPORT_EVERY = 3.0  # seconds between two lines about what a stop waits for


@dataclasses.dataclass
class _Child:
    """A running process of the scenario and its unread output."""

    process: Process
    popen: subprocess.Popen
    output: int  # file descriptor
    raw: bool  # it draws on the terminal itself, so that its output is passed on as it comes, not by lines
    decoder: codecs.IncrementalDecoder
    partial: str = ''
    tail: collections.deque[str] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=50))
    kill_at: float = float('inf')


def launch(first: Scenario) -> int:
    """Run a scenario and those that follow it.

    Returns:
        0 when the last one finished, 130 after Ctrl-C, SIGTERM or a closed terminal, else the exit code of
        the process that failed (1 if a signal killed it).

    Raises:
        InputError: a package is not installed that its nodes import.
    """
    with _Signals() as signals:
        following: Scenario | None = first
        while following is not None:
            current = following
            try:
                _check_packages(current)
                code = Supervisor(current, signals).run()
            finally:
                discard_unused(current.folder)
            if code != 0:
                return code
            following = scenario(*current.then) if current.then else None
    return 0


def _check_packages(scenario: Scenario) -> None:
    for process in scenario.processes:
        for package in ('rclpy', *_IMPORTS.get(process.executable, ())):
            if importlib.util.find_spec(package) is None:
                raise missing_package(ModuleNotFoundError(name=package))


class Supervisor:
    """The processes of one scenario, from start to end."""

    def __init__(self, scenario: Scenario, signals: _Signals):
        self._scenario = scenario
        self._signals = signals
        self._rules = ExitRules()
        self._children: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals.descriptor, selectors.EVENT_READ)
        self._stopping = False
        self._code = 0
        self._report_at = float('inf')
        self._interrupts = 0

    def run(self) -> int:
        """Start everything, return the exit code when everything has ended."""
        self._say(
            f'{self._scenario.name} starts {", ".join(p.label for p in self._scenario.processes)}; '
            f'results go to {self._scenario.folder}; Ctrl-C ends it'
        )
        try:
            for process in self._scenario.processes:
                self._start(process)
            while self._children:
                self._wait_for_events()
                self._reap()
                if self._stopping:
                    self._insist()
        finally:
            # Only an error of our own leaves children here.
            for child in self._children:
                _signal_group(child.popen.pid, signal.SIGKILL)
                child.popen.wait()
            self._selector.close()
        if self._code:
            self._say(f'what was collected is in {self._scenario.results()}')
        elif self._scenario.then is None:
            self._say(f'{self._scenario.name} has finished; everything is in {self._scenario.results()}')
        return self._code

    def _start(self, process: Process) -> None:
        command = [sys.executable, '-m', process.module, *process.ros_arguments()]
        raw = process.leads and _terminal()
        ours, theirs = _open_terminal() if raw else os.pipe()
        try:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env=child_environment(process, os.environ),
                # Its own group: a Ctrl-C in the terminal reaches only us, and we ask in the right way.
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        child = _Child(process, popen, ours, raw, codecs.getincrementaldecoder('utf-8')(errors='replace'))
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _wait_for_events(self) -> None:
        deadlines = [child.kill_at for child in self._children] + [self._report_at]
        # At least once a second: a SIGCHLD that came before the pipe was watched must not be lost.
        timeout = max(0.0, min(min(deadlines) - time.monotonic(), 1.0))
        for key, _ in self._selector.select(timeout):
            if key.data is not None:
                self._read(key.data)
                continue
            for number in self._signals.take():
                if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    self._interrupt(number)
                elif number == signal.SIGWINCH:
                    self._resize()

    def _read(self, child: _Child) -> bool:
        """Print what a child wrote. Lines get the child's name, except those of the leading process.

        Returns:
            Whether there may be more to read now.
        """
        try:
            data = os.read(child.output, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:  # a pseudo-terminal whose other side is closed
            data = b''
        if not data:
            self._close_output(child)
        text = child.decoder.decode(data, final=not data)
        if child.raw:
            _write(text)
        *lines, child.partial = (child.partial + text).split('\n')
        if not data and child.partial:
            lines, child.partial = [*lines, child.partial], ''
        for line in lines:
            # A progress bar redraws its line with carriage returns: keep what it showed last.
            shown = line.rstrip('\r').rpartition('\r')[2]
            child.tail.append(shown)
            if not child.raw:
                self._print(shown if child.process.leads else f'[{child.process.label}] {shown}')
        return bool(data)

    def _close_output(self, child: _Child) -> None:
        self._selector.unregister(child.output)
        os.close(child.output)
        child.output = -1

    def _reap(self) -> None:
        for child in list(self._children):
            pid = child.popen.pid
            # Without reaping yet, so that the group's number cannot belong to somebody else.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _signal_group(pid, signal.SIGKILL)  # what the child may have left running
            returncode = child.popen.wait()
            while child.output >= 0 and self._read(child):
                pass
            if child.output >= 0:  # held open by a process that left the group
                self._close_output(child)
            self._children.remove(child)
            self._ended(child, returncode)

    def _ended(self, child: _Child, returncode: int) -> None:
        if self._stopping:
            if returncode > 0:
                self._say(
                    f'{child.process.label} exited with code {returncode} while stopping{telling_line(child.tail)}'
                )
            return
        verdict, sentence = self._rules.decide(child.process, returncode)
        if verdict is Verdict.RESTART:
            self._say(sentence)
            self._start(child.process)
        elif verdict is Verdict.FINISHED:
            self._stop(0)
        else:
            self._say(f'error: {sentence}{telling_line(child.tail)}')
            self._stop(returncode if returncode > 0 else EXIT_FAILED)

    def _interrupt(self, number: int) -> None:
        """The first request ends everything in good order, the second one at once."""
        self._interrupts += 1
        if not self._stopping:
            self._say(f'{signal.Signals(number).name}: stopping')
            self._stop(EXIT_INTERRUPTED, number)
            return
        self._code = self._code or EXIT_INTERRUPTED
        if self._interrupts > 1:
            for child in self._children:
                child.kill_at = time.monotonic()

    def _stop(self, code: int, number: int = signal.SIGTERM) -> None:
        """Ask every process to end. Nodes save their work; a process that is still importing ends at once.

        A node gets the SIGINT that came, so that its log can name the signal. A process that is no node yet gets
        SIGTERM, because Python answers SIGINT with a traceback.
        """
        self._stopping = True
        self._code = code
        now = time.monotonic()
        self._report_at = now + REPORT_EVERY
        for child in self._children:
            interrupt = number == signal.SIGINT and _handles(child.popen.pid, signal.SIGTERM)
            child.popen.send_signal(signal.SIGINT if interrupt else signal.SIGTERM)
            child.kill_at = now + child.process.patience[0]

    def _insist(self) -> None:
        """Kill processes whose patience has run out, and print which ones are still running."""
        now = time.monotonic()
        for child in self._children:
            if now >= child.kill_at:
                child.kill_at = float('inf')
                self._say(f'{child.process.label} does not end: killing it')
                _signal_group(child.popen.pid, signal.SIGKILL)
        if self._children and now >= self._report_at:
            self._report_at = now + REPORT_EVERY
            waits = [f'{child.process.label} ({child.process.patience[1]})' for child in self._children]
            self._say(f'waiting for {", ".join(waits)}; Ctrl-C again kills')

    def _resize(self) -> None:
        for child in self._children:
            if child.raw and child.output >= 0:
                _copy_window_size(child.output)

    def _say(self, sentence: str) -> None:
        self._print(f'[launch] {sentence}')

    @staticmethod
    def _print(line: str) -> None:
        # Take the place of a progress bar, which draws itself again below.
        _write(f'\r\033[K{line}\n' if _terminal() else f'{line}\n')


class _Signals:
    """Turns signals into bytes on a descriptor that `select` can wait for."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH)

    def __enter__(self) -> _Signals:
        self.descriptor, self._write_end = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._write_end, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, lambda *_: None) for number in self.NUMBERS}
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(self._previous_descriptor)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self.descriptor)
        os.close(self._write_end)

    def take(self) -> bytes:
        """Numbers of the signals that came since the last call."""
        try:
            return os.read(self.descriptor, 4096)
        except BlockingIOError:
            return b''


def _open_terminal() -> tuple[int, int]:
    """(our end, the child's end) of a pseudo-terminal of our own terminal's size."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    _copy_window_size(ours)
    return ours, theirs


def _copy_window_size(descriptor: int) -> None:
    try:
        size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, struct.pack('HHHH', 0, 0, 0, 0))
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)
    except OSError:
        pass  # no terminal (any more): the child falls back to its default width


def _terminal() -> bool:
    return sys.stdout.isatty()


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        pass  # the terminal is gone, the children still have to be ended in good order


def _handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: a node has one for SIGTERM, Python alone has none.

    False on systems without /proc.
    """
    try:
        with open(f'/proc/{pid}/status', encoding='ascii', errors='replace') as lines:
            caught = next((line.split()[1] for line in lines if line.startswith('SigCgt:')), '0')
    except OSError:
        return False
    return bool(int(caught, 16) >> (number - 1) & 1)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
