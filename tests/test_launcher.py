"""A process ends with the launcher that started it, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dreamer_ros import launcher

PROCESS = 'from dreamer_ros.launcher import end_with_launcher; end_with_launcher(); print("went on")'


@pytest.mark.parametrize('alive, code', [(True, 0), (False, -signal.SIGTERM), (None, 0)])
def test_a_launcher_that_ended_while_the_process_was_starting(alive, code):
    """None: the process was started by hand."""
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    environment = dict(os.environ)
    if alive is not None:
        environment[launcher.VARIABLE] = launcher.new_launch() if alive else f'{gone.pid}-0123'
    process = subprocess.run([sys.executable, '-c', PROCESS], env=environment, capture_output=True, text=True)
    assert process.returncode == code and ('went on' in process.stdout) == (code == 0), process.stderr
