"""The end of a node's process."""

from __future__ import annotations

import subprocess
import sys

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
