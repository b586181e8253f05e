"""The status line on a terminal and elsewhere."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

import pytest

from dreamer_ros.deploy import status_line
from dreamer_ros.deploy.status_line import StatusLine


@pytest.fixture
def terminal():
    """(our end, a stream to the other one) of a terminal of 20 columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 20, 0, 0))
    os.set_blocking(ours, False)
    with open(theirs, 'w') as stream:
        yield ours, stream
    os.close(ours)


def test_on_a_terminal_it_is_drawn_over(terminal):
    ours, stream = terminal
    line = StatusLine(stream)
    line.clear()
    line.show('a line that is longer than the terminal')
    assert os.read(ours, 1000) == b'\r\x1b[Ka line that is long', 'what wraps cannot be drawn over'
    line.clear()
    line.clear()
    assert os.read(ours, 1000) == b'\r\x1b[K'


def test_a_stopped_terminal_stops_nobody(terminal):
    ours, stream = terminal
    line = StatusLine(stream)
    termios.tcflow(stream.fileno(), termios.TCOOFF)  # as Ctrl-S does
    for _ in range(20_000):
        line.show('16 columns of it')
    termios.tcflow(stream.fileno(), termios.TCOON)


def test_elsewhere_it_is_a_line_once_in_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(status_line, 'LINE_PERIOD', 0.05)
    with (tmp_path / 'log').open('w') as stream:
        line = StatusLine(stream)
        assert not line.due()
        while not line.due():
            pass
        line.show('a line that may be longer than a terminal is wide: ' + 100 * 'x')
        assert not line.due()
        line.clear()
    assert (tmp_path / 'log').read_text() == f'a line that may be longer than a terminal is wide: {100 * "x"}\n'
