"""`dreamer benchmark`: train systems on tasks and compare them."""

from __future__ import annotations

import sys
from pathlib import Path

from dreamer_ros.cli.options import command, whole_number


def add(commands) -> None:
    benchmark = command(
        commands,
        'benchmark',
        _benchmark,
        'train systems on tasks and compare their scores',
        'dreamer benchmark --systems cpu random --tasks cartpole_balance --seeds 0 1 --steps 100000 '
        '--output benchmarks/first',
    )
    # Defaults and checks are the plan's: a YAML file may say what the command line does not.
    benchmark.add_argument(
        '--plan', type=Path, metavar='FILE', help='YAML file with these options as keys (task_set, curve_episodes, …)'
    )
    benchmark.add_argument(
        '--systems',
        nargs='+',
        metavar='NAME',
        help='presets (`dreamer presets`, or files) and the baselines random, still, sac_pixels',
    )
    benchmark.add_argument('--tasks', nargs='+', metavar='TASK', help='what to learn')
    benchmark.add_argument('--task-set', metavar='NAME', help='visual: the 20 visual control tasks')
    benchmark.add_argument('--seeds', nargs='+', type=whole_number, metavar='N', help='default: 0')
    benchmark.add_argument('--steps', type=whole_number, metavar='N', help='env steps of each run')
    benchmark.add_argument('--minutes', type=float, metavar='M', help='of training after which a run ends even so')
    for name, help in (
        ('evaluations', 'points of each learning curve (default: 20)'),
        ('curve-episodes', 'deterministic episodes of each point (default: 5)'),
        ('episodes', 'deterministic episodes of the final score (default: 10)'),
        ('jobs', 'runs side by side, which share the cores (default: 1)'),
        ('simulators', 'that collect for one learner (default: 1)'),
    ):
        benchmark.add_argument(f'--{name}', type=whole_number, metavar='N', help=help)
    benchmark.add_argument(
        '--ros',
        action='store_true',
        default=None,
        help='train with `dreamer launch sim_train` instead of in one process',
    )
    benchmark.add_argument(
        '--output',
        metavar='FOLDER',
        help='needed: for results.json, runs, table and plots; an existing one is continued',
    )
    table = command(
        benchmark.add_subparsers(metavar='[table]'),
        'table',
        _benchmark_table,
        'compare finished benchmarks with each other and with published scores',
        'dreamer benchmark table benchmarks/first benchmarks/second --at 100000',
    )
    table.add_argument('results', nargs='+', type=Path, metavar='RESULTS', help='results.json, or its folder')
    table.add_argument(
        '--at', type=whole_number, metavar='N', help='compare at so many env steps (default: final scores)'
    )
    table.add_argument('--output', type=Path, metavar='FOLDER', help='for table.md and plots')


def _benchmark(arguments) -> int:
    from dreamer_ros.benchmark.plan import OPTIONS, Plan
    from dreamer_ros.benchmark.sweep import run_benchmark

    given = {key: value for key, value in vars(arguments).items() if key in OPTIONS and value is not None}
    plan = Plan.make(arguments.plan, given)
    try:
        results = run_benchmark(plan)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from the runs that have finished', file=sys.stderr)
        return 130
    print(f'{_compare([plan.output], None, plan.output)}, {results.path}')
    return 0


def _benchmark_table(arguments) -> int:
    print(_compare(arguments.results, arguments.at, arguments.output))
    return 0


def _compare(results: list[Path], at: int | None, output: Path | None) -> str:
    """Tables of benchmarks; with an output folder, written there beside the plots."""
    from dreamer_ros.benchmark.comparison import Comparison

    comparison = Comparison(results, at)
    tables = comparison.tables()
    if output:
        paths = comparison.plot(output / 'plots')
        (output / 'table.md').write_text(tables)
        tables += f'\nwrote {output / "table.md"}, {", ".join(map(str, paths))}'
    return tables
