"""Does a run go on by itself after processes of it have stopped for a while? Freezes two at a time, and waits.

    python -m benchmarks.bench_freeze [--times 4] [--seed 0] [--longest 60] [--json FILE]

Each time a small run of simulator, agent, recorder and trainer is started. Two of them are stopped (SIGSTOP) at random
moments of it, for 1 s to `--longest` each, and continued. The run must end by itself, with its whole budget.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dreamer_ros.training.metrics import read_metrics
from tests.nodes.test_trainer import OVERRIDES, REPEAT, Nodes, start_robot, start_trainer

NAMES = ('simulator', 'agent', 'recorder', 'trainer')
PREFILL, STEPS = 300, 600  # agent steps
RESETS = 20  # of the episodes among them, which count as steps while their messages are lost
LATEST = 20.0  # seconds from the start to a freeze
PATIENCE = 120.0  # seconds from the last continuation to the end of the run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--times', type=int, default=4)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--longest', type=float, default=60.0, help='seconds of a freeze')
    parser.add_argument('--json', type=Path, default=Path('runs/bench/freeze.json'))
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', '38')
    rng, outcomes = np.random.default_rng(arguments.seed), []
    for number in range(arguments.times):
        events = []
        for name in rng.choice(NAMES, 2, replace=False).tolist():
            begin, length = float(rng.uniform(0, LATEST)), float(rng.uniform(1, arguments.longest))
            events += [(begin, name, signal.SIGSTOP), (begin + length, name, signal.SIGCONT)]
        outcomes.append(freeze(sorted(events)))
        print(f'{number + 1}/{arguments.times} {json.dumps(outcomes[-1])}', flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(outcomes) + '\n')
    stuck = sum(not outcome['fine'] for outcome in outcomes)
    print(f'{stuck} of {len(outcomes)} runs did not end by themselves')
    return 1 if stuck else 0


def freeze(events: list[tuple[float, str, signal.Signals]]) -> dict:
    """Make one run with these signals, each given by its seconds, its process and its number; what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        run, nodes = Path(folder) / 'run', Nodes(Path(folder))
        try:
            start_robot(nodes, run)
            trainer = start_trainer(
                nodes, run, steps=STEPS * REPEAT, overrides=[*OVERRIDES, f'schedule.prefill={PREFILL}']
            )
            began = time.monotonic()
            for seconds, name, number in events:
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                nodes.running[name].send_signal(number)
            continued = time.monotonic()
            while trainer.poll() is None and time.monotonic() - continued < PATIENCE:
                time.sleep(0.1)
            steps = max((line['agent_steps'] for line in read_metrics(run)), default=0)
            return {
                'fine': trainer.poll() == 0 and STEPS <= steps <= STEPS + RESETS,
                'steps': steps,
                'seconds': round(time.monotonic() - continued, 1),
                'last line': nodes.log('trainer').strip().rpartition('\n')[2],
                'signals': [(round(seconds, 1), name, number.name) for seconds, name, number in events],
            }
        finally:
            nodes.close()


if __name__ == '__main__':
    sys.exit(main())
