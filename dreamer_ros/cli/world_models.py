"""`dreamer evolve` and `dreamer temperature`: controllers of World Models."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.cli.options import command, count, positive_number, prepare_torch, whole_number


def add(commands) -> None:
    evolve = command(
        commands,
        'evolve',
        _evolve,
        "evolve a new controller for a World Models run into the run's policies",
        'dreamer evolve runs/cartpole_swingup-world_models_cpu-20260131-120000 --in dream --temperature 1.15',
    )
    evolve.add_argument(
        '--in',
        dest='place',
        choices=['dream', 'simulator'],
        default='dream',
        help='where candidates are scored (default: dream)',
    )
    evolve.add_argument('--temperature', type=positive_number, metavar='T', help="of dreams (default: the run's)")
    temperature = command(
        commands,
        'temperature',
        _temperature,
        'evolve controllers in dreams of several temperatures, compare their scores in dream and simulator',
        'dreamer temperature runs/cartpole_swingup-world_models_cpu-20260131-120000 --values 0.1 1.0 1.3',
    )
    temperature.add_argument(
        '--values',
        type=positive_number,
        nargs='+',
        metavar='T',
        default=[0.1, 0.5, 1.0, 1.15, 1.3],
        help='default: 0.1 0.5 1.0 1.15 1.3',
    )
    temperature.add_argument('--episodes', type=count, default=10, metavar='N', help='of each score (default: 10)')
    for parser in (evolve, temperature):
        parser.add_argument('run_directory', metavar='RUN', help='run directory')
        parser.add_argument('--generations', type=count, default=100, metavar='N', help='of CMA-ES (default: 100)')
        parser.add_argument('--seed', type=whole_number, default=0, metavar='N', help='default: 0')


def _evolve(arguments) -> int:
    prepare_torch()
    from dreamer_ros.training.evolution import evolve

    run = Path(arguments.run_directory)
    print(evolve(run, arguments.place, arguments.temperature, arguments.generations, arguments.seed))
    return 0


def _temperature(arguments) -> int:
    prepare_torch()
    from dreamer_ros.training.temperature import measure

    run = Path(arguments.run_directory)
    paths = measure(run, arguments.values, arguments.generations, arguments.episodes, arguments.seed)
    print('\n'.join(map(str, paths)))
    return 0
