"""Learning from bags alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Sequence
from pathlib import Path

from dreamer_ros import options as shared
from dreamer_ros.config import Config, load_preset
from dreamer_ros.episodes.bag_reader import named_spec
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, user_path
from dreamer_ros.options import Options
from dreamer_ros.replay.dataset import bag_folder, check_distinct
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.process import check_learners, learners, prepare_learners
from dreamer_ros.training.progress import Progress
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory, check_run, new_logdir, preset_of
from dreamer_ros.training.schedule import OfflineSchedule, Schedule


class OfflineOptions(Options):
    """Learn from bags alone, without simulator and robot."""

    bags: shared.Bags
    preset: shared.Preset
    overrides: shared.Overrides
    logdir: shared.Logdir
    updates: shared.Updates
    validation: shared.Validation
    robot: shared.BagContract
    seed: shared.Seed
    device: shared.Device
    learners: shared.Learners


@dataclasses.dataclass(frozen=True)
class OfflineRun:
    """What to learn, from what, and where it goes.

    Attributes:
        options: what was asked for.
        contract: of the robot, for bags that do not hold one.
        updates: of the whole run, earlier sessions included.
    """

    options: OfflineOptions
    config: Config
    spec: RobotSpec
    contract: RobotContract | None
    folder: Path
    updates: int


def plan(options: OfflineOptions) -> OfflineRun:
    """Check everything that can be checked before anything is loaded.

    Raises:
        InputError: something of it does not fit.
    """
    saved = user_path(options.logdir).absolute() if options.logdir else None
    resumed = saved is not None and (saved / 'config.yaml').exists()
    overrides = list(options.overrides)
    folders = [bag_folder(text) for text in options.bags]
    check_distinct([*([saved / 'episodes'] if saved else []), *(path for path, _ in folders)])
    if folders:  # absolute, so that the run can be continued from anywhere
        overrides.append(f'replay.bags={json.dumps([f"{path}:{weight:g}" for path, weight in folders])}')
    if options.validation is not None:
        overrides.append(f'replay.validation={options.validation}')
    contract = load_contract(options.robot) if options.robot else None
    if contract is not None:
        spec = contract.spec
    elif resumed:
        spec = RobotSpec.from_json(read_text(saved / 'spec.json'), str(saved / 'spec.json'))
    elif folders:
        spec = find_spec([path for path, _ in folders])
    else:
        raise InputError('bags: expected folders of bags to learn from, got none')
    config = load_preset(preset_of(options.preset, saved), (*overrides, *([] if resumed else senses(spec))))
    check_learners(config, learners(options.learners))
    updates = options.updates
    if updates is None:
        online = Schedule.make(config.schedule, config.schedule.steps, spec.action_repeat)
        updates = online.updates_due(online.budget)
    check_run(saved or Path('runs'), spec, config)
    folder = saved or new_logdir(spec.name, config.preset)
    return OfflineRun(options, config, spec, contract, folder, updates)


def train_from_bags(run: OfflineRun, stop: threading.Event) -> None:
    """Learn until the updates are made or the event is set.

    Raises:
        InputError: the folder, the device or the bags do not fit.
    """
    options = run.options
    with prepare_learners(run.config, robots=0, learners=learners(options.learners)) as team:
        from dreamer_ros.training.loop import Trainer
        from dreamer_ros.training.run_replay import BagReplay

        with contextlib.closing(RunDirectory(run.folder, run.config, run.spec)) as directory:
            Trainer(
                run.config,
                run.spec,
                directory,
                Robots(),
                BagReplay(directory.episodes, run.config, run.spec, options.seed, run.contract),
                OfflineSchedule(run.updates),
                device=options.device,
                seed=options.seed,
                stop=stop,
                progress=Progress(),
                team=team,
                contract=run.contract,
            ).train()


def find_spec(folders: Sequence[Path]) -> RobotSpec:
    """The robot of the first bag that names one.

    Raises:
        InputError: no bag does.
    """
    for folder in folders:
        spec = named_spec(folder)
        if spec is not None:
            return spec
    raise InputError(
        f'bags: expected a bag that names its robot in {", ".join(map(str, folders))}, found none; tell by a '
        'contract which robot it was (robot)'
    )


def senses(spec: RobotSpec) -> list[str]:
    """Overrides that have an agent perceive what the bags hold, also when it goes on with a simulator."""
    options = {**spec.simulator_options(), 'action_repeat': {'default': spec.action_repeat}}
    return [f'env.{key}={json.dumps(value)}' for key, value in options.items()]
