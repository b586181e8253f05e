"""`dreamer benchmark`: train systems on tasks and compare them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dreamer_ros.benchmark.plan import BenchmarkOptions, Plan
from dreamer_ros.cli.command import Group, command
from dreamer_ros.options import Options, Word
from dreamer_ros.schema import Count


class Benchmark(BenchmarkOptions):
    """Options of `dreamer benchmark`."""

    plan: Annotated[str, Word('FILE')] = Field(
        '', description='YAML file with these options as keys. What is given on the command line goes first.'
    )


@command(
    'dreamer benchmark --systems cpu random --tasks cartpole_balance --seeds 0 1 --steps 100000 '
    '--output runs/benchmark-first'
)
def run(options: Benchmark) -> int:
    """Train systems on tasks and compare their scores. `dreamer benchmark table` compares finished benchmarks."""
    from dreamer_ros.benchmark.sweep import run_benchmark

    given = {name: getattr(options, name) for name in options.model_fields_set - {'plan'}}
    plan = Plan.make(Path(options.plan) if options.plan else None, given)
    try:
        results = run_benchmark(plan)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from the runs that have finished', file=sys.stderr)
        return 130
    print(f'{_compare([plan.output], None, plan.output)}, {results.path}')
    return 0


class Table(Options):
    """Options of `dreamer benchmark table`."""

    results: Annotated[tuple[str, ...], Word('RESULTS', positional=True)] = Field(
        description='Files results.json, or their folders.'
    )
    at: Count | None = Field(None, description='Compare at so many env steps. Default: final scores.')
    output: Annotated[str, Word('FOLDER')] = Field('', description='Folder for table.md and plots.')


@command('dreamer benchmark table runs/benchmark-first runs/benchmark-second --at 100000')
def table(options: Table) -> None:
    """Compare finished benchmarks with each other and with published scores."""
    print(
        _compare([Path(path) for path in options.results], options.at, Path(options.output) if options.output else None)
    )


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


benchmark = Group((table,), '', '', alone=run)
