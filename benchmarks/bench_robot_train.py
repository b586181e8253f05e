"""A robot and its trainer on two computers (network namespaces): loss, delay, a cut of a minute, restarts.

    python -m benchmarks.bench_robot_train [--cut 60] [--delay 0.03] [--jitter 0.02] [--loss 0.03] [--json FILE]

The wire between them delays every frame by delay and up to jitter more, each way, and loses some. It is cut while
the robot acts; then the trainer is killed and started again; then the robot's computer restarts while the wire is
cut. What counts: the robot goes on with the policy it has, and every episode comes to the trainer whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.network import Network, Unsupported
from tests.nodes.two_computers import Trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cut', type=float, default=60.0, help='seconds')
    parser.add_argument('--delay', type=float, default=0.03, help='seconds each way')
    parser.add_argument('--jitter', type=float, default=0.02, help='seconds on top at most')
    parser.add_argument('--loss', type=float, default=0.03, help='share of the frames')
    parser.add_argument('--json', type=Path, default=Path('runs/bench/robot_train.json'))
    arguments = parser.parse_args()
    domain = int(os.environ.setdefault('ROS_DOMAIN_ID', '39'))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            network = stack.enter_context(Network(arguments.delay, arguments.jitter, arguments.loss, seed=0))
        except Unsupported as reason:
            print(f'left out: {reason}')
            return 0
        trial = stack.enter_context(contextlib.closing(Trial(folder, domain, network)))
        try:
            results = measure(trial, arguments.cut)
        except AssertionError:
            for side in (trial.robot, trial.trainer):
                print(f'--- {side.role}\n{side.output[-5000:]}')
            raise
    for name, value in results.items():
        print(f'{name:60} {value}')
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + '\n')
    return 0


def measure(trial: Trial, cut: float) -> dict:
    results = {'first policy on the robot after [s]': round(trial.begin(), 1), **trial.cut(cut)}

    trial.trainer.kill()
    version, recorded = trial.playing(), trial.robot.bags()
    time.sleep(10.0)
    meanwhile = [name for name in trial.robot.bags() if name not in recorded]
    trial.trainer.start()
    results['episodes recorded while the trainer was dead'] = len(meanwhile)
    results['trainer killed: its next policy on the robot after [s]'] = round(
        trial.until(lambda: trial.playing() > version, 'a policy of the new trainer'), 1
    )
    assert 'resuming at' in trial.trainer.output

    trial.robot.stop()
    trial.network.wire.cut = True
    recorded, begun = trial.robot.bags(), len(trial.robot.output)
    trial.robot.start()
    trial.until(lambda: len(trial.robot.bags()) > len(recorded) + 2, 'episodes of the robot alone')
    results['robot restarted alone plays at once'] = next(
        line.rpartition('; ')[2] for line in trial.robot.output[begun:].splitlines() if ' Hz; policy' in line
    )
    trial.network.wire.cut = False
    recorded = trial.robot.bags()
    trial.until(lambda: set(recorded) <= set(trial.trainer.bags()), 'the last episodes at the trainer')
    different = [name for name in recorded if trial.trainer.content(name) != trial.robot.content(name)]
    wire = trial.network.wire
    return {
        **results,
        'episodes in all, different at the trainer': (len(recorded), len(different)),
        'frames carried, lost or cut': (wire.carried, wire.lost),
    }


if __name__ == '__main__':
    sys.exit(main())
