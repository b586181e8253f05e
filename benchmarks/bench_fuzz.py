"""Damaged bags by the thousands: no crash, no hang, no wrong step, nothing lost in silence; and other files.

    python -m benchmarks.bench_fuzz [--bags 10000] [--files 1000] [--seed N] [--processes 2]

See tests/episodes/fuzz.py for what is done to bags, and tests/mutations.py for the others. A failure names its seed
and trial, which `--seed N --only TRIAL` repeats.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests import mutations
from tests.episodes import fuzz

BATCH = 250


def trials(job: tuple[int, range]) -> list[tuple[int, str, int, int, str]]:
    """Trials of a seed: number, what was done, steps, problems, what went wrong."""
    seed, numbers = job
    results = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = fuzz.originals(Path(folder, 'originals'), np.random.default_rng(seed))
        for number in numbers:
            try:
                what, steps, problems = fuzz.run(kinds, Path(folder, 'trial'), np.random.default_rng((seed, number)))
                results.append((number, what, steps, problems, ''))
            except fuzz.Wrong as error:
                results.append((number, '', 0, 0, str(error)))
    return results


def damaged_files(seed: int, numbers: range) -> int:
    """Mutations of every other kind of file; how many readers broke their rule."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, subject in mutations.subjects(Path(folder, 'originals')).items():
            began, refused = time.monotonic(), 0
            for number in numbers:
                try:
                    rng = np.random.default_rng((seed, number))
                    refused += bool(mutations.trial(subject, Path(folder, 'trial'), rng))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                    wrong += 1
                    print(f'{kind}: trial {number}: {error!r}', flush=True)
            print(f'  {len(numbers):6} {kind}: {refused} refused, in {time.monotonic() - began:.0f} s', flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--bags', type=int, default=10_000)
    parser.add_argument('--files', type=int, default=1000, help='of each other kind')
    parser.add_argument('--seed', type=int, default=int(np.random.default_rng().integers(2**31)))
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    parser.add_argument('--only', type=int, default=None, metavar='TRIAL')
    arguments = parser.parse_args()
    print(f'seed {arguments.seed}', flush=True)
    numbers = range(arguments.bags) if arguments.only is None else range(arguments.only, arguments.only + 1)
    jobs = [(arguments.seed, numbers[start : start + BATCH]) for start in range(0, len(numbers), BATCH)]
    began = time.monotonic()
    done, wrong, steps, noticed = Counter(), [], 0, 0
    with multiprocessing.get_context('spawn').Pool(arguments.processes) as pool:
        for results in pool.imap(trials, jobs):
            for number, what, found, problems, error in results:
                if error:
                    wrong.append(error)
                    print(f'trial {number}: {error}', flush=True)
                done[what.replace(', recovered', '')] += 1
                steps += found
                noticed += problems > 0
    print(
        f'{len(numbers)} damaged bags in {time.monotonic() - began:.0f} s: {len(wrong)} wrong, '
        f'{noticed} with problems told, {steps} steps read'
    )
    for what, count in sorted(done.items()):
        print(f'  {count:6} {what or "wrong"}')
    files = damaged_files(arguments.seed, range(arguments.files) if arguments.only is None else numbers)
    return 1 if wrong or files else 0


if __name__ == '__main__':
    sys.exit(main())
