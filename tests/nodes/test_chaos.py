"""Some seconds of `python -m benchmarks.chaos`; CONTRIBUTING.md tells of longer runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_faults_at_random(ros_domain, seed):
    command = [sys.executable, '-m', 'benchmarks.chaos', '--minutes', '0.1', '--seed', str(seed)]
    command += ['--only', 'kill', 'strange files', 'strangers']  # those from which a run recovers within seconds
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-3000:]
