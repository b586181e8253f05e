"""The `dreamer` command.

Every command imports what it needs when it runs, so that `dreamer --help` is instant and a robot without
torch and mujoco has the commands that need neither.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dreamer_ros.cli import bag, benchmark, call, dream, policy, record, replay, train, view, world_models
from dreamer_ros.cli.options import command, whole_number
from dreamer_ros.errors import InputError, missing_package, run_main


def entry_point() -> int:
    """Console script."""
    try:
        code = run_main(main)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `dreamer bag info RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def main(argv: list[str] | None = None) -> int:
    """Run one command; `argv` without the program's name. Returns the exit code, raises InputError."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


def _launch(arguments) -> int:
    from dreamer_ros import launching

    if arguments.scenario is None or arguments.show:
        names = [arguments.scenario] if arguments.scenario else launching.SCENARIOS
        print('\n\n'.join(_describe(name) for name in names))
        return 0
    from dreamer_ros.launching.supervisor import launch

    return launch(launching.scenario(arguments.scenario, launching.parse_assignments(arguments.assignments)))


def _describe(scenario: str) -> str:
    """A scenario's arguments as `ros2 launch --show-args` would list them."""
    from dreamer_ros.launching import scenario_options
    from dreamer_ros.options import as_arguments

    lines = [f'{scenario}:']
    for argument in as_arguments(scenario_options(scenario)):
        choices = f' [{"|".join(argument.choices)}]' if argument.choices else ''
        lines.append(f'  {argument.name}:={argument.default or "…"}{choices}\n      {argument.help}')
    return '\n'.join(lines)


def _eval(arguments) -> int:
    from dreamer_ros.launching import scenario
    from dreamer_ros.launching.supervisor import launch

    return launch(
        scenario(
            'sim_eval',
            {'run': arguments.run_directory, 'episodes': str(arguments.episodes), 'seed': str(arguments.seed)},
        )
    )


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='dreamer',
        description='Robots learn control from their camera by dreaming, over ROS 2.',
        epilog='example: dreamer launch sim_train task:=walker_walk',
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    launch = command(
        commands,
        'launch',
        _launch,
        'start all processes of a scenario, as `ros2 launch` would',
        'dreamer launch sim_train task:=walker_walk preset:=cpu simulators:=2',
    )
    launch.add_argument(
        'scenario', nargs='?', help='sim_train, sim_eval, deploy, …; without one: all of them with their arguments'
    )
    launch.add_argument('assignments', nargs='*', metavar='name:=value', help='arguments of the scenario')
    launch.add_argument('-s', '--show-args', dest='show', action='store_true', help='list the arguments')

    evaluate = command(
        commands,
        'eval',
        _eval,
        "play a run's latest policy in simulation and print its mean return",
        'dreamer eval runs/cartpole_swingup-cpu-20260131-120000 --episodes 20',
    )
    evaluate.add_argument('run_directory', metavar='RUN', help='run directory')
    evaluate.add_argument('--episodes', type=whole_number, default=10, help='how many (default: 10)')
    evaluate.add_argument('--seed', type=whole_number, default=0, help='of the initial states (default: 0)')

    plot = command(
        commands, 'plot', _plot, 'draw learning curves again', 'dreamer plot runs/cartpole_swingup-cpu-20260131-120000'
    )
    plot.add_argument('run_directories', metavar='RUN', nargs='+', help='run directory')
    plot.add_argument('--compare', metavar='FILE', help='draw the evaluations of all runs into one PNG file')

    for group in (train, benchmark, world_models, dream, bag, view, record, replay, policy, call):
        group.add(commands)

    command(commands, 'tasks', _tasks, 'list the tasks that can be simulated', 'dreamer tasks')
    command(commands, 'presets', _presets, 'list the presets', 'dreamer presets')
    return parser
