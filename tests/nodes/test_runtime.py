"""What signals do to a node's process before and after its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

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


def test_a_second_interrupt_of_a_node_that_is_ending_is_no_crash(ros_domain):
    assert subprocess.run([sys.executable, '-c', PROCESS], timeout=60).returncode == 0


def test_an_interrupt_of_a_launched_node_that_still_imports_is_silent():
    code = 'import dreamer_ros.nodes, os, signal; os.kill(os.getpid(), signal.SIGINT)'
    environment = {**os.environ, launcher.VARIABLE: launcher.new_launch()}
    ended = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b'')
