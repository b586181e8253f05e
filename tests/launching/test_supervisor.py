"""The supervisor of `dreamer launch`, with real processes that end in every way."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.launching.processes import Process, Scenario
from dreamer_ros.launching.supervisor import Supervisor, launch

ROOT = Path(__file__).resolve().parents[2]


class Supervised:
    """`python -m tests.children WORDS` and what it printed."""

    def __init__(self, *words: str, **options):
        options = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, **options}
        self.popen = subprocess.Popen([sys.executable, '-m', 'tests.children', *words], cwd=ROOT, **options)
        self.output = ''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdout:
            self.popen.stdout.close()

    def read_until(self, pattern: str, count: int = 1) -> list:
        """Matches of the pattern, once there are so many."""
        while len(re.findall(pattern, self.output)) < count:
            assert select.select([self.popen.stdout], [], [], 30)[0], f'nothing more after:\n{self.output}'
            data = os.read(self.popen.stdout.fileno(), 4096).decode()
            assert data, f'ended without {pattern!r} x{count}:\n{self.output}'
            self.output += data
        return re.findall(pattern, self.output)

    def finish(self, timeout: float = 60.0) -> int:
        """Exit code, after reading everything."""
        rest, _ = self.popen.communicate(timeout=timeout)
        self.output += rest.decode()
        return self.popen.returncode


def ended(pid: int, within: float = 5.0) -> bool:
    """Whether the process is gone, or a zombie nobody has collected, in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_ends_when_the_leading_process_finishes(tmp_path):
    done = tmp_path / 'done'
    with Supervised(f'trainer=finish:{done}', 'agent=forever', 'recorder=slow:0.3') as run:
        run.read_until(r'pid \d+', 3)
        done.touch()
        assert run.finish() == 0
    assert run.output.count('saved after SIGTERM') == 2, run.output
    assert 'test has finished; everything is in results' in run.output
    assert '[agent] saved after SIGTERM' in run.output
    # the leading process writes to the terminal as it likes
    assert re.search(r'^pid \d+$', run.output, re.M)


def test_a_failure_takes_the_run_down_and_is_repeated():
    with Supervised('trainer=forever', 'recorder=exit:7', 'agent=forever') as run:
        assert run.finish() == 7
    assert 'error: recorder exited with code 7: error: the disk is full' in run.output
    assert 'Traceback' not in run.output  # of processes that were still starting


def test_a_process_that_ends_early_without_error_is_a_failure():
    with Supervised('trainer=forever', 'agent=finish:') as run:
        assert run.finish() == 1
    assert 'error: agent ended before the run did' in run.output


def test_a_crash_is_restarted(tmp_path):
    with Supervised('trainer=forever', f'agent=crash_once:{tmp_path / "crashed"}') as run:
        run.read_until(r'\[agent\] pid \d+', 2)
        assert 'agent was killed by signal 9: starting it again' in run.output
        run.popen.send_signal(signal.SIGINT)
        assert run.finish() == 130
    assert '[agent] saved after SIGINT' in run.output


def test_repeated_crashes_end_the_run():
    with Supervised('trainer=forever', 'agent=crash:') as run:
        assert run.finish() == 1
    assert len(re.findall(r'\[agent\] pid', run.output)) == 4
    assert 'error: agent was killed by signal 9, for the 4th time in a minute' in run.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_all_in_good_order(number):
    with Supervised('trainer=slow:1', 'agent=forever', 'recorder=forever') as run:
        pids = [int(pid) for pid in run.read_until(r'pid (\d+)', 3)]
        run.popen.send_signal(number)
        assert run.finish() == 130
    # That of a closed terminal is none that nodes know.
    told = 'SIGINT' if number == signal.SIGINT else 'SIGTERM'
    assert run.output.count(f'saved after {told}') == 3, run.output
    assert 'waiting for trainer (saving)' in run.output
    assert 'what was collected is in results' in run.output
    assert 'killing it' not in run.output
    assert all(ended(pid, 0.1) for pid in pids)


def test_ctrl_c_makes_no_traceback_of_a_process_that_starts():
    with Supervised('trainer=forever', 'agent=starting') as run:
        run.read_until(r'pid (\d+)', 2)
        run.popen.send_signal(signal.SIGINT)
        assert run.finish() == 130
    assert 'saved after SIGINT' in run.output and 'Traceback' not in run.output


def test_a_process_that_ignores_signals_is_killed():
    with Supervised('trainer=forever', 'agent=stubborn') as run:
        run.read_until(r'pid (\d+)', 2)
        run.popen.send_signal(signal.SIGINT)
        assert run.finish() == 130
    assert 'agent does not end: killing it' in run.output


def test_a_second_ctrl_c_kills():
    with Supervised('trainer=slow:30', 'agent=forever') as run:
        run.read_until(r'pid (\d+)', 2)
        start = time.monotonic()
        run.popen.send_signal(signal.SIGINT)
        run.read_until('saved after SIGINT')
        run.popen.send_signal(signal.SIGINT)
        assert run.finish() == 130
        assert time.monotonic() - start < 15  # the trainer's patience is 20, it needs 30


def test_what_a_process_left_running_is_ended_too():
    with Supervised('trainer=parent', 'agent=forever') as run:
        pids = [int(pid) for pid in run.read_until(r'pid (\d+)', 3)]
        run.popen.send_signal(signal.SIGINT)
        assert run.finish() == 130
    assert all(ended(pid) for pid in pids)


def test_no_orphan_survives_a_killed_supervisor():
    with Supervised('trainer=forever', 'agent=forever') as run:
        pids = [int(pid) for pid in run.read_until(r'pid (\d+)', 2)]
        run.popen.send_signal(signal.SIGKILL)
        assert run.finish() == -9
        assert all(ended(pid) for pid in pids)


def test_ctrl_c_while_finishing_starts_nothing_more(tmp_path):
    done = tmp_path / 'done'
    with Supervised(f'trainer=finish:{done}', 'recorder=slow:1.5', 'then=/nonexistent') as run:
        run.read_until(r'pid \d+', 2)
        done.touch()
        run.read_until('waiting for recorder')
        run.popen.send_signal(signal.SIGINT)
        assert run.finish() == 130
    assert '/nonexistent' not in run.output


def test_what_follows_is_resolved_afterwards():
    with Supervised('trainer=finish:', 'then=/nonexistent') as run:
        assert run.finish() == 2
    assert 'error: run /nonexistent: expected a policy' in run.output


@pytest.mark.parametrize(
    'package, words',
    [
        ('rclpy', r"rclpy is not installed.*'dreamer_ros\[ros\]', or source a ROS 2 installation"),
        ('torch', r"torch is not installed.*'dreamer_ros\[train\]'$"),
    ],
)
def test_a_package_that_nodes_need_is_told_before_anything_starts(package, words, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.setattr(Supervisor, 'run', lambda _: pytest.fail('started'))
    with pytest.raises(InputError, match=words):
        launch(Scenario('train', (Process('trainer', '/', {}),), tmp_path))


def test_the_leading_process_sees_our_terminal():
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack('HHHH', 30, 123, 0, 0))
    with Supervised('trainer=terminal', 'agent=forever', stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        assert run.popen.wait(60) == 0
    output = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert 'terminal True 123' in output, output
