"""What signals do to a node's process before and after its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dreamer_ros import launcher

PROCESS = """
import os, signal
from dreamer_ros.ros.runtime import run_node

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)

late = Late()  # goes when Python ends, after it has dropped its signal handlers
raise SystemExit(run_node('ending', lambda node, stop: 0))
"""

WAITING = """
import os, signal, time
from dreamer_ros.ros.runtime import run_node

def body(node, stop):
    with stop._cond:  # as `wait` does for a moment
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # the handler runs here
    return 0 if stop.wait(30) else 1

raise SystemExit(run_node('waiting', body))
"""


def test_an_interrupt_in_the_middle_of_waiting_is_heard(ros_domain):
    assert subprocess.run([sys.executable, '-c', WAITING], timeout=60).returncode == 0


def test_a_second_interrupt_of_a_node_that_is_ending_is_no_crash(ros_domain):
    assert subprocess.run([sys.executable, '-c', PROCESS], timeout=60).returncode == 0


def test_an_interrupt_of_a_launched_node_that_still_imports_is_silent():
    assert interrupted_import('-c', {launcher.VARIABLE: launcher.new_launch()}) == (-signal.SIGINT, b'')


@pytest.mark.parametrize('program', ['-m', '/ws/install/dreamer_ros/lib/dreamer_ros/simulator'])
def test_an_interrupt_of_a_node_that_was_started_by_hand_is_silent_too(program):
    assert interrupted_import(program, {}) == (-signal.SIGINT, b'')


def test_who_imports_a_node_keeps_python_s_answer_to_an_interrupt():
    assert b'KeyboardInterrupt' in interrupted_import('/home/me/my_program.py', {})[1]


def interrupted_import(program: str, variables: dict) -> tuple[int, bytes]:
    """Exit code and errors of a process of this name that gets a SIGINT while it imports a node."""
    code = f'import sys; sys.argv[0] = {program!r}; import dreamer_ros.nodes, os, signal; os.kill(os.getpid(), 2)'
    environment = {**os.environ, **variables}
    ended = subprocess.run(
        [sys.executable, '-c', code],
        env=environment,
        capture_output=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    return ended.returncode, ended.stderr


def test_a_node_starts_without_a_home_directory(ros_domain, tmp_path):
    code = 'from dreamer_ros.ros.runtime import run_node; raise SystemExit(run_node("homeless", lambda node, stop: 0))'
    environment = {**os.environ, 'HOME': '/proc/none'}
    assert subprocess.run([sys.executable, '-c', code], env=environment, timeout=60).returncode == 0
