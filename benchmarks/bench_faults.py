"""Does the robot stop in time? Injects faults of every kind into a running robot agent and times the stops.

    python -m benchmarks.bench_faults [--faults 1000] [--rate 20] [--json FILE]

Camera, agent and listener are processes of their own. A stop is in time when it has arrived in the listener's
process within one control period of the fault: for a camera, of the moment its image is missed (older than the
contract allows). A corrupt policy and a stranger's must be refused, and the robot go on with the one it has. When
nobody subscribes the command any more, the agent must hold it until somebody does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.nodes.faults import CLOCK, ENDS_THE_AGENT, FAULTS, INSTEAD, inject, scene, summary

SLOW = (*ENDS_THE_AGENT, *INSTEAD)  # the agent is started anew, or waited for, each time
SLOW_SHARE = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--faults', type=int, default=1000)
    parser.add_argument('--rate', type=float, default=20.0, help='control rate in Hz')
    parser.add_argument('--kinds', nargs='*', default=[*FAULTS, CLOCK, *INSTEAD])
    parser.add_argument('--json', type=Path, default=Path('runs/bench/faults.json'))
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', '39')
    domain = int(os.environ['ROS_DOMAIN_ID'])
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for clock in (False, True):
            wanted = {
                kind: count
                for kind, count in shares(arguments.kinds, arguments.faults).items()
                if (kind == CLOCK) == clock
            }
            if not wanted:
                continue
            with scene(Path(folder), domain, arguments.rate, clock=clock) as robot:
                while any(wanted.values()):  # in turn, so that they meet every state of the machine
                    for kind in [kind for kind, left in wanted.items() if left]:
                        wanted[kind] -= 1
                        outcomes.append(inject(robot, kind))
                        if not outcomes[-1].fine:
                            print(f'late: {outcomes[-1]}', flush=True)
    print(summary(outcomes))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([vars(outcome) for outcome in outcomes]) + '\n')
    return 0 if all(outcome.fine for outcome in outcomes) else 1


def shares(kinds, faults: int) -> dict:
    """How many of each kind: of those that need a new agent each time only a few."""
    slow = [kind for kind in kinds if kind in SLOW]
    quick = [kind for kind in kinds if kind not in SLOW]
    each_slow = max(1, round(faults * SLOW_SHARE / len(slow))) if slow and quick else -(-faults // max(1, len(slow)))
    counts = dict.fromkeys(slow, each_slow)
    left = faults - sum(counts.values())
    for number, kind in enumerate(quick):
        counts[kind] = max(1, left // len(quick) + (number < left % len(quick)))
    return counts


if __name__ == '__main__':
    sys.exit(main())
