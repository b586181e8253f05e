"""Processes that stop for a while: the others remember them, and the run goes on by itself when they continue."""

from __future__ import annotations

import signal
import socket
import struct
import time

from dreamer_ros.training.metrics import read_metrics
from tests.nodes.test_trainer import OVERRIDES, REPEAT, listener, nodes, start_robot, start_trainer, wait_for

__all__ = ['listener', 'nodes']  # fixtures

FREEZE = 4.0  # seconds: enough for the robot to walk as far as it may meanwhile
LEASE = 90  # seconds; see fastdds.xml
PREFILL, STEPS = 1000, 1080  # agent steps


def test_processes_that_freeze_in_the_random_steps(nodes, listener, tmp_path):
    run = tmp_path / 'run'
    start_robot(nodes, run)
    overrides = [*OVERRIDES, f'schedule.prefill={PREFILL}']
    trainer = start_trainer(nodes, run, steps=STEPS * REPEAT, overrides=overrides)
    wait_for(
        lambda: any(
            'more random steps' in status.message for told in listener.heard['diagnostics'] for status in told.status
        ),
        listener,
    )
    for frozen in ('simulator', 'trainer'):
        nodes.running[frozen].send_signal(signal.SIGSTOP)
        time.sleep(FREEZE)
        nodes.running[frozen].send_signal(signal.SIGCONT)
    wait_for(lambda: trainer.poll() is not None, listener)
    assert trainer.returncode == 0
    last = read_metrics(run)[-1]
    assert last['updates'] == (STEPS - PREFILL) * 16 // 32
    # What was lost is counted as far as it was allowed, so the budget is kept but for the resets among it.
    assert STEPS <= last['agent_steps'] <= STEPS + 20


def test_a_process_that_may_freeze_asks_others_to_remember_it(start, ros_domain, tmp_path):
    """Otherwise they forget it after 20 s. A trainer and a simulator were tried for longer, see `benchmarks.chaos`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heard.bind(('', 7400 + 250 * ros_domain))  # where participants of the domain announce themselves
        group = socket.inet_aton('239.255.0.1')
        heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton('127.0.0.1'))
        heard.settimeout(30.0)
        recorder = start('recorder', folder=tmp_path)
        said = heard.recv(65536)
        assert recorder.stop() == 0
    key = struct.pack('<HH', 2, 8)  # PID_PARTICIPANT_LEASE_DURATION, of 8 bytes
    assert said.startswith(b'RTPS') and struct.unpack_from('<i', said, said.index(key) + 4) == (LEASE,)
