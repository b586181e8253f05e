"""`dreamer dream`: what a trained agent predicts."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.cli.options import command, prepare_torch, whole_number
from dreamer_ros.errors import InputError


def add(commands) -> None:
    dream = command(
        commands,
        'dream',
        _dream,
        'have a trained agent watch an episode and predict it: film, curves and numbers',
        'dreamer dream runs/cartpole_swingup-cpu-20260131-120000 --bag EPISODE',
    )
    dream.add_argument('checkpoint', metavar='RUN', help='run directory, or one of its checkpoints')
    dream.add_argument('--bag', metavar='EPISODE', required=True, help='bag with an episode of the same robot')
    dream.add_argument(
        '--context',
        metavar='STEPS',
        type=whole_number,
        default=5,
        help='what the prediction sees before it goes on from actions alone (default: 5)',
    )
    dream.add_argument('--output', metavar='FOLDER', help='for the files (default: dreams/<name of the bag>)')
    dream.add_argument('--publish', action='store_true', help='also play the film on the ROS topic dream')


def _dream(arguments) -> int:
    prepare_torch()
    from dreamer_ros.training.inspection import dream_bag, inspection_film

    bag = Path(arguments.bag)
    folder = Path(arguments.output) if arguments.output else Path('dreams') / bag.resolve().name
    inspection, paths = dream_bag(arguments.checkpoint, bag, arguments.context, folder)
    print('\n'.join(str(path) for path in paths))
    if not arguments.publish:
        return 0
    if inspection.film is None:
        raise InputError(f'--publish: expected a robot with a camera, that of {bag} has none')
    from dreamer_ros.nodes.dream_player import play

    return play(inspection_film(inspection), 1.0 / inspection.period)
