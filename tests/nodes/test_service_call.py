"""`dreamer call` against a running simulator."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.ros import service_call
from dreamer_ros.ros.service_call import call


def test_services_of_a_simulator(start):
    simulator = start('simulator', task='cartpole_swingup', action_repeat=8)
    command = [sys.executable, '-m', 'dreamer_ros.cli', 'call', '/sim0/simulator/pause', 'true']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'paused\n', '')
    assert call('/sim0/simulator/pause', 'false') == 'running'
    assert call('/sim0/simulator/reset', None) == 'the next observation ends the running episode'
    with pytest.raises(InputError, match='^service /sim0/simulator/pause: expected true or false, got nothing$'):
        call('/sim0/simulator/pause', None)
    with pytest.raises(InputError, match='expected type Trigger or SetBool or ChangeState, got rcl_interfaces/srv/'):
        call('/sim0/simulator/get_parameters', None)
    assert not simulator.ended


def test_nobody_offers_it(ros_domain, monkeypatch):
    monkeypatch.setattr(service_call, 'DISCOVERY_TIME', 1.0)
    with pytest.raises(InputError, match='^service /nowhere/reset: expected a node that offers it'):
        call('/nowhere/reset', None)
