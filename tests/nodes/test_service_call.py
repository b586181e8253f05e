"""`dreamer call` against a running simulator."""

from __future__ import annotations

import subprocess
import sys


def dreamer_call(*words):
    done = subprocess.run(
        [sys.executable, '-m', 'dreamer_ros.cli', 'call', *words], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_services_of_a_simulator(start):
    simulator = start('simulator', task='cartpole_swingup', action_repeat=8)
    assert dreamer_call('/sim0/simulator/pause', 'true') == (0, 'paused\n')
    assert dreamer_call('/sim0/simulator/pause', 'false') == (0, 'running\n')
    assert dreamer_call('/sim0/simulator/reset') == (0, 'the next observation ends the running episode\n')
    assert dreamer_call('/sim0/simulator/pause') == (
        2,
        'error: service /sim0/simulator/pause: expected true or false, got nothing\n',
    )
    assert dreamer_call('/sim0/simulator/get_parameters')[0] == 2
    assert not simulator.ended


def test_nobody_offers_it(ros_domain):
    code, said = dreamer_call('/nowhere/reset')
    assert code == 2 and said.startswith('error: service /nowhere/reset: expected a node that offers it')
