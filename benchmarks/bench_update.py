"""Seconds per update of the presets, against the machine's matrix-product peak and, where given, against a peer.

    python -m benchmarks.bench_update [--preset dreamerv3_1m …] [--threads 2] [--peer CHECKOUT_OF_r2dreamer]
    python -m benchmarks.bench_update --device cuda --preset dreamerv3_12m --peer CHECKOUT_OF_r2dreamer

Every subject is a process of its own, in float32 and in bfloat16, on the same synthetic batch of the preset's size;
subjects of one preset take turns. Figures are medians. FLOPs are those of matrix products and convolutions, forward
and backward; the peak is that of a square matrix product in the same type, threads and run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from pathlib import Path

from benchmarks.turns import Subject
from dreamer_ros.config import load_preset, preset_names

OURS, PEER = 'benchmarks.learner_subject', 'benchmarks.peers.r2dreamer'
PEER_SIZES = {
    'dreamerv3_1m': {'deter': 512, 'hidden': 64, 'discrete': 4, 'depth': 4, 'units': 64},
    'dreamerv3_12m': {'deter': 2048, 'hidden': 256, 'discrete': 16, 'depth': 16, 'units': 256},
}
PEER_LOSSES = {'reconstruction': 'dreamer', 'redundancy': 'r2dreamer'}
DECODER_FREE = ('loss.representation=redundancy', 'loss.image_scale=0.05')  # as models/r2dreamer.yaml
# one of each system, and two sizes more; the others take minutes on two cores
PRESETS = ('cpu', 'dreamerv2_cpu', 'planet_cpu', 'world_models_cpu', 'dreamerv3_1m', 'dreamer', 'dreamerv3_12m')
LIMIT = 60.0  # seconds that two warming updates may take
COMPILING = 1800.0  # seconds that the peer may take to compile its update for a GPU
PATIENCE = 120.0  # for anything later: the first update has shown that it works


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--preset', nargs='+', default=PRESETS, help=f'default: {" ".join(PRESETS)}')
    parser.add_argument('--precision', nargs='+', default=['float32', 'bfloat16'], choices=['float32', 'bfloat16'])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--threads', type=int, default=min(16, len(os.sched_getaffinity(0))))
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--actions', type=int, default=6)
    parser.add_argument(
        '--peer',
        type=Path,
        help='a checkout of github.com/NM512/r2dreamer to race, which needs tensordict and omegaconf installed',
    )
    parser.add_argument('--override', nargs='*', default=[], help='section.key=value of the presets')
    parser.add_argument('--json', type=Path, default=Path('runs/bench/update.json'))
    arguments = parser.parse_args()
    results = []
    for preset in arguments.preset:
        raced = arguments.peer is not None and preset in PEER_SIZES
        for variant in [(), DECODER_FREE] if raced else [()]:
            measured = measure(preset, (*variant, *arguments.override), arguments)
            if measured:
                report(measured)
            else:
                print(f'\n{preset}: two updates take more than {LIMIT:.0f} s, left out')
            results += measured
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + '\n')
    print(f'\nwritten to {arguments.json}')
    left_out = sorted(set(preset_names()) - set(arguments.preset))
    if left_out:
        print(f'not measured, to be named with --preset: {", ".join(left_out)}')


def measure(preset: str, overrides: tuple[str, ...], arguments: argparse.Namespace) -> list[dict]:
    """One result per precision and subject; none when the preset is too slow for this machine."""
    shared = {'device': arguments.device, 'threads': arguments.threads, 'actions': arguments.actions}
    limit = COMPILING if arguments.device == 'cuda' and arguments.peer else LIMIT
    with contextlib.ExitStack() as stack:
        subjects: dict[tuple, Subject] = {}
        for precision in arguments.precision:
            ours = {**shared, 'preset': preset, 'precision': precision, 'overrides': overrides}
            subjects['dreamer_ros', precision] = stack.enter_context(Subject(OURS, ours))
            if arguments.peer is not None and preset in PEER_SIZES:
                theirs = {
                    **shared,
                    'precision': precision,
                    'path': str(arguments.peer.resolve()),
                    'size': PEER_SIZES[preset],
                    'loss': PEER_LOSSES[load_preset(preset, overrides).loss.representation],
                }
                subjects['r2dreamer', precision] = stack.enter_context(Subject(PEER, theirs))
        warmed = {key: subject.ask('warm', limit) for key, subject in subjects.items()}
        if None in warmed.values():
            return []
        seconds = {key: {'wall': [], 'cpu': []} for key in subjects}
        for _ in range(arguments.turns):
            for key, subject in subjects.items():
                for clock, values in subject.ask('turn', PATIENCE).items():
                    seconds[key][clock] += values
        results = []
        for (system, precision), values in seconds.items():
            result = {
                'preset': preset,
                'overrides': overrides,
                'system': system,
                'precision': precision,
                'device': arguments.device,
                'threads': arguments.threads,
                **warmed[system, precision],
                'seconds': statistics.median(values['wall']),
                'cpu_seconds': statistics.median(values['cpu']),
                'fastest': min(values['wall']),
                'updates': len(values['wall']),
            }
            if system == 'dreamer_ros':
                subject = subjects[system, precision]
                result.update(subject.ask('peak', PATIENCE))
                result['share_of_peak'] = result['flops'] / result['seconds'] / result['peak']
                result['parts'] = subject.ask('parts', PATIENCE)
                for name, own in (('peer', precision), ('float32_peer', 'float32')):
                    if ('r2dreamer', own) in seconds:
                        peer = statistics.median(seconds['r2dreamer', own]['wall'])
                        result[f'times_faster_than_{name}'] = peer / result['seconds']
            results.append(result)
    return results


def report(results: list[dict]) -> None:
    """Print one preset's table."""
    print('\n' + ', '.join((results[0]['preset'], *results[0]['overrides'], f'{results[0]["threads"]} threads')))
    print(
        f'{"":14}{"precision":>10}{"s/update":>10}{"fastest":>9}{"CPU s":>8}{"GFLOP":>8}{"GFLOP/s":>9}'
        f'{"of peak":>9}{"vs peer":>9}{"vs its float32":>16}'
    )
    for result in results:
        line = (
            f'{result["system"]:14}{result["precision"]:>10}{result["seconds"]:10.3f}{result["fastest"]:9.3f}'
            f'{result["cpu_seconds"]:8.3f}'
        )
        if 'flops' in result:
            line += (
                f'{result["flops"] / 1e9:8.1f}{result["flops"] / result["seconds"] / 1e9:9.0f}'
                f'{result["share_of_peak"]:9.0%}'
            )
        if 'times_faster_than_peer' in result:
            line += f'{result["times_faster_than_peer"]:8.2f}x'
        if 'times_faster_than_float32_peer' in result:
            line += f'{result["times_faster_than_float32_peer"]:15.2f}x'
        print(line)
    for result in results:
        if result.get('parts'):
            parts = ', '.join(f'{name} {1e3 * value:.0f}' for name, value in result['parts'].items())
            print(f'  parts alone in {result["precision"]} [ms]: {parts}')


if __name__ == '__main__':
    try:
        main()
    except RuntimeError as error:  # a subject has said why
        sys.exit(f'error: {error}')
