"""`dreamer train`: learn from bags alone, in this process; it needs no ROS."""

from __future__ import annotations

import os
import signal
import sys
import threading

from dreamer_ros.cli.options import command, count, whole_number


def share(text: str) -> float:
    """From 0 to 0.9."""
    value = float(text)
    if not 0.0 <= value <= 0.9:
        raise ValueError(text)
    return value


share.__name__ = 'number from 0 to 0.9'


def add(commands) -> None:
    train = command(
        commands,
        'train',
        _train,
        'learn from bags alone, without a simulator',
        'dreamer train --bags runs/cartpole_swingup-cpu-20260131-120000 recordings:2 --updates 10000',
    )
    train.add_argument(
        '--bags',
        metavar='DIR[:WEIGHT]',
        nargs='+',
        default=[],
        help='folders of bags or run directories, and how often to sample from each (weight 1 if none '
        'is given); default: those of an existing --logdir',
    )
    train.add_argument('--preset', default='', help='default: what an existing --logdir began with, else cpu')
    train.add_argument(
        '--logdir',
        metavar='RUN',
        default='',
        help='run directory; an existing one is continued (default: runs/<task>-<preset>-<time>)',
    )
    train.add_argument('--updates', type=count, help='of the whole run (default: as many as the preset makes online)')
    train.add_argument(
        '--validation', type=share, help='share of the episodes that is held out to measure predictions (default: 0.1)'
    )
    train.add_argument(
        '--robot', metavar='FILE', default='', help='contract of the robot, for bags that do not say which it was'
    )
    train.add_argument('--device', default='auto', help='auto, cpu, cuda, … (default: auto)')
    train.add_argument('--learners', type=count, default=1, help='processes that share every update (default: 1)')
    train.add_argument('--seed', type=whole_number, default=0, help='of parameters and sampling (default: 0)')
    train.add_argument('--override', metavar='KEY=VALUE', nargs='*', default=[], help='changes to the preset')


def _train(arguments) -> int:
    from dreamer_ros.training import process
    from dreamer_ros.training.offline import plan
    from dreamer_ros.training.session import train_from_bags

    if process.torchrun_rank():
        from dreamer_ros.training import worker

        worker.main()
    run = plan(
        arguments.bags,
        arguments.robot,
        arguments.preset,
        arguments.logdir,
        arguments.updates,
        arguments.validation,
        arguments.override,
    )
    print(f'learning {run.spec.name} from bags; everything goes to {run.folder}', flush=True)
    stop = threading.Event()

    def end(number, _) -> None:
        """In good order; at once when asked again. Every file of the run is whole or not there."""
        alone = process.torchrun_rank() is None  # else one Ctrl-C comes twice: from the terminal and from torchrun
        if stop.is_set():
            if alone:
                os._exit(128 + number)
            return
        stop.set()
        again = '; Ctrl-C again ends at once' * alone
        os.write(sys.stderr.fileno(), f'\nstopping: saving the checkpoint, then drawing{again}\n'.encode())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    train_from_bags(run, arguments.device, process.learners(arguments.learners), arguments.seed, stop)
    return 0
