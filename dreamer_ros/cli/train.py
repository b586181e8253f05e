"""`dreamer train`, `dreamer tasks` and `dreamer presets`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.cli.command import command
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.launcher import torchrun_rank
from dreamer_ros.launching.sim_train import SimTrain, sim_train
from dreamer_ros.options import Options, Word
from dreamer_ros.stopping import StopEvent
from dreamer_ros.training.offline import OfflineOptions, plan, train_from_bags

IN_PROCESS = 'in_process', 'task', 'preset', 'overrides', 'logdir', 'steps', 'seed', 'simulators', 'device'


class Train(OfflineOptions, SimTrain):
    """Options of `dreamer train`."""

    task: Annotated[shared.Task, Word('TASK', positional=True)]
    bags: Annotated[shared.Bags, Word('DIR[:WEIGHT]')]
    overrides: Annotated[shared.Overrides, Word('KEY=VALUE', flags=('--override',))]
    in_process: bool = Field(
        False,
        description='Train in this process alone, without ROS. Episodes are kept in memory, not in bags, so that such '
        'a run cannot be continued: an existing run directory is refused.',
    )


@command('dreamer train walker_walk --preset cpu --steps 500000')
def train(options: Train) -> int | None:
    """Train a robot in simulation, over ROS as `dreamer launch sim_train` does, or in this process with --in-process.

    With --bags it learns from recorded episodes alone, without ROS, as `dreamer launch offline_train` does.
    """
    if torchrun_rank():
        from dreamer_ros.training import worker

        worker.main()
    if _from_bags(options):
        _check_all_read(options, OfflineOptions.model_fields, 'training from bags')
        _train_from_bags(options)
        return None
    if options.in_process:
        _check_all_read(options, IN_PROCESS, 'training with --in-process')
        _train_in_process(options)
        return None
    if torchrun_rank() is not None:
        raise InputError('dreamer train: expected --bags under torchrun, which starts learners but no simulators')
    from dreamer_ros.launching.supervisor import launch

    _check_all_read(options, SimTrain.model_fields, 'training in simulation, without --bags')
    return launch(sim_train(options))


def _from_bags(options: Train) -> bool:
    """Whether the options name bags, an option that only training from bags reads, or a run that learns from bags."""
    if options.bags or options.model_fields_set & {'updates', 'validation', 'robot'}:
        return True
    saved = user_path(options.logdir) / 'config.yaml' if options.logdir else None
    if options.task or options.in_process or saved is None or not saved.exists():
        return False
    from dreamer_ros.config import load_preset

    return bool(load_preset(str(saved)).replay.bags)


def _check_all_read(options: Train, names: Collection[str], where: str) -> None:
    """Refuse options that were given for another way to train."""
    for name in sorted(options.model_fields_set.difference(names)):
        flag = 'TASK' if name == 'task' else '--' + name.replace('_', '-')
        raise InputError(f'dreamer train: {flag} does not go with {where}')


def _train_from_bags(options: Train) -> None:
    run = plan(options)
    print(f'learning {run.spec.name} from bags; everything goes to {run.folder}', flush=True)
    train_from_bags(run, _stop_event())


def _train_in_process(options: Train) -> None:
    from dreamer_ros.config import load_preset
    from dreamer_ros.training.in_process import train_in_process

    run = train_in_process(
        options.task or 'cartpole_swingup',
        load_preset(options.preset or 'cpu', options.overrides),
        options.logdir,
        steps=options.steps,
        seed=options.seed,
        simulators=options.simulators,
        device=options.device,
        stop=_stop_event(),
    )
    print(f'everything is in {run}')


def _stop_event() -> threading.Event:
    """An event that SIGINT and SIGTERM set. The second signal ends the process: every file is whole or not there."""
    stop = StopEvent()
    alone = torchrun_rank() is None  # else one Ctrl-C comes twice: from the terminal and from torchrun

    def end(number: int, _) -> None:
        if stop.asked:
            if alone:
                os._exit(128 + number)
            return
        stop.ask()
        again = '; Ctrl-C again ends at once' * alone
        os.write(sys.stderr.fileno(), f'\nstopping: saving the checkpoint, then drawing{again}\n'.encode())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return stop


@command('dreamer tasks')
def tasks(options: Options) -> None:
    """List the tasks that can be simulated."""
    from dreamer_ros.simulation import task_names

    print('\n'.join(task_names()))


@command('dreamer presets')
def presets(options: Options) -> None:
    """List the presets, each with the first line of its file."""
    from dreamer_ros.config import preset_names
    from dreamer_ros.paths import share

    for name in preset_names():
        first = share('models', f'{name}.yaml').read_text().partition('\n')[0]
        print(f'{name:18}{first.lstrip("# ") if first.startswith("#") else ""}'.rstrip())
