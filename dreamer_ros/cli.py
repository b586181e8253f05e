"""The `dreamer` command.

Every command imports what it needs when it runs, so that `dreamer --help` is instant and a robot without
torch and mujoco has the commands that need neither.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional

from dreamer_ros.errors import InputError, run_main


def entry_point() -> int:
    """Console script."""
    try:
        code = run_main(main)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `dreamer bag info RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; `argv` without the program's name. Returns the exit code, raises InputError."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except ModuleNotFoundError as error:
        from dreamer_ros.bringup import missing_package
        raise missing_package(error) from error


def _launch(arguments) -> int:
    from dreamer_ros import bringup
    if arguments.scenario is None or arguments.show:
        names = [arguments.scenario] if arguments.scenario else bringup.scenario_names()
        print('\n\n'.join(_describe(name) for name in names))
        return 0
    from dreamer_ros.processes import launch
    return launch(bringup.scenario(arguments.scenario, bringup.parse_assignments(arguments.assignments)))


def _describe(scenario: str) -> str:
    """A scenario's arguments as `ros2 launch --show-args` would list them."""
    from dreamer_ros.bringup import scenario_arguments
    lines = [f'{scenario}:']
    for argument in scenario_arguments(scenario):
        choices = f' [{"|".join(argument.choices)}]' if argument.choices else ''
        lines.append(f"  {argument.name}:={argument.default or '…'}{choices}\n      {argument.help}")
    return '\n'.join(lines)


def _eval(arguments) -> int:
    from dreamer_ros.bringup import scenario
    from dreamer_ros.processes import launch
    return launch(scenario('sim_eval', {
        'run': arguments.run_directory, 'episodes': str(arguments.episodes), 'seed': str(arguments.seed)}))


def _plot(arguments) -> int:
    from dreamer_ros.training.plots import plot_comparison, plot_run
    runs = [Path(run) for run in arguments.run_directories]
    for run in runs:
        if not (run / 'metrics.jsonl').exists():
            raise InputError(f'run directory {run}: expected metrics.jsonl in it, found none')
    if arguments.compare:
        print(plot_comparison(runs, Path(arguments.compare)))
        return 0
    for run in runs:
        print(plot_run(run))
    return 0


def _benchmark(arguments) -> int:
    from dreamer_ros.training.benchmark import run_benchmark
    from dreamer_ros.training.plan import OPTIONS, Plan
    given = {key: value for key, value in vars(arguments).items() if key in OPTIONS and value is not None}
    plan = Plan.make(arguments.plan, given)
    try:
        run_benchmark(plan)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from the runs that have finished', file=sys.stderr)
        return 130
    print(_compare([plan.output], None, plan.output))
    return 0


def _benchmark_table(arguments) -> int:
    print(_compare(arguments.results, arguments.at, arguments.output))
    return 0


def _compare(results: List[Path], at: Optional[int], output: Optional[Path]) -> str:
    """Tables of benchmarks; with an output folder, written there beside the plots."""
    from dreamer_ros.training.comparison import Comparison
    comparison = Comparison(results, at)
    tables = comparison.tables()
    if output:
        paths = comparison.plot(output / 'plots')
        (output / 'table.md').write_text(tables)
        tables += f'\nwrote {output / "table.md"}, {", ".join(map(str, paths))}'
    return tables


def _dream(arguments) -> int:
    from dreamer_ros.training import process
    process.prepare()  # before torch is imported
    from dreamer_ros.replay.reading import read_longest
    from dreamer_ros.training.checkpoint import find_checkpoint
    from dreamer_ros.training.inspection import film_with_curves, inspect_episode, write_inspection
    from dreamer_ros.training.learner import Learner
    process.configure_torch(process.pick_threads(robots=0))
    bag, checkpoint = Path(arguments.bag), find_checkpoint(arguments.checkpoint)
    learner = Learner.open(checkpoint)
    inspection = inspect_episode(learner, read_longest(bag, learner.spec), arguments.context)
    facts = {
        'checkpoint': str(checkpoint), 'preset': learner.config.preset, 'updates': learner.updates,
        'robot': learner.spec.name, 'bag': str(bag)}
    folder = Path(arguments.output) if arguments.output else Path('dreams') / bag.resolve().name
    title = f'{learner.spec.name}, {learner.config.preset}, {learner.updates} updates'
    print('\n'.join(str(path) for path in write_inspection(inspection, folder, title, facts)))
    if not arguments.publish:
        return 0
    if inspection.film is None:
        raise InputError(f'--publish: expected a robot with a camera, {learner.spec.name} has none')
    from dreamer_ros.nodes.dream_player import play
    return play(film_with_curves(inspection), 1.0 / inspection.period)


def _evolve(arguments) -> int:
    from dreamer_ros.training import process
    process.prepare()  # before torch is imported
    from dreamer_ros.training.evolution import evolve
    process.configure_torch(process.pick_threads(robots=0))
    run = Path(arguments.run_directory)
    print(evolve(run, arguments.place, arguments.temperature, arguments.generations, arguments.seed, print))
    return 0


def _temperature(arguments) -> int:
    from dreamer_ros.training import process
    process.prepare()  # before torch is imported
    from dreamer_ros.training.temperature import measure
    process.configure_torch(process.pick_threads(robots=0))
    run = Path(arguments.run_directory)
    paths = measure(run, arguments.values, arguments.generations, arguments.episodes, arguments.seed, print)
    print('\n'.join(map(str, paths)))
    return 0


def _bag_info(arguments) -> int:
    from dreamer_ros.replay.info import describe, format_table
    print(format_table(describe(Path(arguments.path))))
    return 0


def _tasks(_arguments) -> int:
    from dreamer_ros.simulation import task_names
    print('\n'.join(task_names()))
    return 0


def _presets(_arguments) -> int:
    from dreamer_ros.config import preset_names
    from dreamer_ros.paths import share
    for name in preset_names():
        first = share('models', f'{name}.yaml').read_text().partition('\n')[0]
        print(f'{name:18}{first.lstrip("# ") if first.startswith("#") else ""}'.rstrip())
    return 0


def _whole_number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_whole_number.__name__ = 'whole number'  # argparse names the type in its error


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float('inf'):
        raise ValueError(text)
    return value


_count.__name__, _positive_number.__name__ = 'positive whole number', 'positive number'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='dreamer', description='Robots learn control from their camera by dreaming, over ROS 2.',
        epilog='example: dreamer launch sim_train task:=walker_walk')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def command(into, name: str, run, help: str, example: str) -> argparse.ArgumentParser:
        sub = into.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + '.', epilog=f'example: {example}')
        sub.set_defaults(run=run)
        return sub

    launch = command(commands, 'launch', _launch, 'start all processes of a scenario, as `ros2 launch` would',
                     'dreamer launch sim_train task:=walker_walk preset:=cpu simulators:=2')
    launch.add_argument('scenario', nargs='?', help='sim_train, sim_eval; without one: list them all')
    launch.add_argument('assignments', nargs='*', metavar='name:=value', help='arguments of the scenario')
    launch.add_argument('-s', '--show-args', dest='show', action='store_true', help='list the arguments')

    evaluate = command(commands, 'eval', _eval,
                       "play a run's latest policy in simulation and print its mean return",
                       'dreamer eval runs/cartpole_swingup-cpu-20260131-120000 --episodes 20')
    evaluate.add_argument('run_directory', metavar='RUN', help='run directory')
    evaluate.add_argument('--episodes', type=_whole_number, default=10, help='how many (default: 10)')
    evaluate.add_argument('--seed', type=_whole_number, default=0, help='of the initial states (default: 0)')

    plot = command(commands, 'plot', _plot, "draw learning curves again",
                   'dreamer plot runs/cartpole_swingup-cpu-20260131-120000')
    plot.add_argument('run_directories', metavar='RUN', nargs='+', help='run directory')
    plot.add_argument('--compare', metavar='FILE', help='draw the evaluations of all runs into one PNG file')

    _benchmark_parsers(commands, command)
    _world_models_parsers(commands, command)

    dream = command(commands, 'dream', _dream,
                    'have a trained agent watch an episode and predict it: film, curves and numbers',
                    'dreamer dream runs/cartpole_swingup-cpu-20260131-120000 --bag EPISODE')
    dream.add_argument('checkpoint', metavar='RUN', help='run directory, or one of its checkpoints')
    dream.add_argument('--bag', metavar='EPISODE', required=True, help='bag with an episode of the same robot')
    dream.add_argument('--context', metavar='STEPS', type=_whole_number, default=5,
                       help='what the prediction sees before it goes on from actions alone (default: 5)')
    dream.add_argument('--output', metavar='FOLDER', help='for the files (default: dreams/<name of the bag>)')
    dream.add_argument('--publish', action='store_true', help='also play the film on the ROS topic dream')

    bag = commands.add_parser('bag', help='look into episode bags',
                              epilog='example: dreamer bag info runs/cartpole_swingup-cpu-20260131-120000')
    bag_commands = bag.add_subparsers(metavar='COMMAND', required=True)
    info = command(bag_commands, 'info', _bag_info, 'list the episodes in a bag or a folder of bags',
                   'dreamer bag info runs/cartpole_swingup-cpu-20260131-120000')
    info.add_argument('path', metavar='PATH', help='a bag, a folder of bags, or a run directory')

    command(commands, 'tasks', _tasks, 'list the tasks that can be simulated', 'dreamer tasks')
    command(commands, 'presets', _presets, 'list the presets', 'dreamer presets')
    return parser


def _benchmark_parsers(commands, command) -> None:
    benchmark = command(
        commands, 'benchmark', _benchmark, 'train systems on tasks and compare their scores',
        'dreamer benchmark --systems cpu random --tasks cartpole_balance --seeds 0 1 --steps 100000 '
        '--output benchmarks/first')
    # Defaults and checks are the plan's: a YAML file may say what the command line does not.
    benchmark.add_argument('--plan', type=Path, metavar='FILE',
                           help='YAML file with these options as keys (task_set, curve_episodes, …)')
    benchmark.add_argument('--systems', nargs='+', metavar='NAME',
                           help='presets (`dreamer presets`, or files) and the baselines random, still, sac_pixels')
    benchmark.add_argument('--tasks', nargs='+', metavar='TASK', help='what to learn')
    benchmark.add_argument('--task-set', metavar='NAME', help='visual: the 20 visual control tasks')
    benchmark.add_argument('--seeds', nargs='+', type=_whole_number, metavar='N', help='default: 0')
    benchmark.add_argument('--steps', type=_whole_number, metavar='N', help='env steps of each run')
    benchmark.add_argument('--minutes', type=float, metavar='M',
                           help='of training after which a run ends even so')
    for name, help in (
            ('evaluations', 'points of each learning curve (default: 20)'),
            ('curve-episodes', 'deterministic episodes of each point (default: 5)'),
            ('episodes', 'deterministic episodes of the final score (default: 10)'),
            ('jobs', 'runs side by side, which share the cores (default: 1)'),
            ('simulators', 'that collect for one learner (default: 1)')):
        benchmark.add_argument(f'--{name}', type=_whole_number, metavar='N', help=help)
    benchmark.add_argument('--ros', action='store_true', default=None,
                           help='train with `dreamer launch sim_train` instead of in one process')
    benchmark.add_argument('--output', metavar='FOLDER', help='for results.json, runs, table and plots; an '
                           'existing one is continued')
    table = command(
        benchmark.add_subparsers(metavar='table'), 'table', _benchmark_table,
        'compare finished benchmarks with each other and with published scores',
        'dreamer benchmark table benchmarks/first benchmarks/second --at 100000')
    table.add_argument('results', nargs='+', type=Path, metavar='RESULTS', help='results.json, or its folder')
    table.add_argument('--at', type=_whole_number, metavar='N',
                       help='compare at so many env steps (default: final scores)')
    table.add_argument('--output', type=Path, metavar='FOLDER', help='for table.md and plots')


def _world_models_parsers(commands, command) -> None:
    evolve = command(
        commands, 'evolve', _evolve, "evolve a new controller for a World Models run into the run's policies",
        'dreamer evolve runs/cartpole_swingup-world_models_cpu-20260131-120000 --in dream --temperature 1.15')
    evolve.add_argument('--in', dest='place', choices=['dream', 'simulator'], default='dream',
                        help='where candidates are scored (default: dream)')
    evolve.add_argument('--temperature', type=_positive_number, metavar='T',
                        help="of dreams (default: the run's)")
    temperature = command(
        commands, 'temperature', _temperature,
        'evolve controllers in dreams of several temperatures, compare their scores in dream and simulator',
        'dreamer temperature runs/cartpole_swingup-world_models_cpu-20260131-120000 --values 0.1 1.0 1.3')
    temperature.add_argument('--values', type=_positive_number, nargs='+', metavar='T',
                             default=[0.1, 0.5, 1.0, 1.15, 1.3], help='default: 0.1 0.5 1.0 1.15 1.3')
    temperature.add_argument('--episodes', type=_count, default=10, metavar='N',
                             help='of each score (default: 10)')
    for parser in (evolve, temperature):
        parser.add_argument('run_directory', metavar='RUN', help='run directory')
        parser.add_argument('--generations', type=_count, default=100, metavar='N',
                            help='of CMA-ES (default: 100)')
        parser.add_argument('--seed', type=_whole_number, default=0, metavar='N', help='default: 0')


if __name__ == '__main__':
    sys.exit(entry_point())
