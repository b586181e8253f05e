"""A process that stops for longer than its peers remember it: the run goes on by itself when it continues."""

from __future__ import annotations

import signal
import time

import pytest

from dreamer_ros.training.metrics import read_metrics
from tests.nodes.test_trainer import OVERRIDES, REPEAT, listener, nodes, start_robot, start_trainer, wait_for

__all__ = ['listener', 'nodes']  # fixtures

FREEZE = 22.0  # seconds; after 10 to 20 of them the middleware forgets a process, and what it was sent is lost
PREFILL, STEPS = 1000, 1080  # agent steps


@pytest.mark.parametrize('frozen', ['trainer', 'simulator'])
def test_a_process_that_freezes_in_the_random_steps(frozen, nodes, listener, tmp_path):
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
    process = nodes.running[frozen]
    process.send_signal(signal.SIGSTOP)
    time.sleep(FREEZE)
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: trainer.poll() is not None, listener)
    assert trainer.returncode == 0
    last = read_metrics(run)[-1]
    assert last['updates'] == (STEPS - PREFILL) * 16 // 32
    # What was lost is counted as far as it was allowed, so the budget is kept but for the resets among it.
    assert STEPS <= last['agent_steps'] <= STEPS + 20
