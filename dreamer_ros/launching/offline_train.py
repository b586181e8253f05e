"""Learning from bags alone: no simulator and no robot."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dreamer_ros.launching.processes import SAVING, Argument, Process, Scenario, number, optional, whole, without_empty
from dreamer_ros.training.offline import plan
from dreamer_ros.training.process import check_learners

OFFLINE_TRAIN_ARGUMENTS = (
    Argument(
        'bags',
        '',
        'folders of bags or run directories, separated by spaces, each with a weight if it is not 1: '
        '"runs/a runs/b:2"; default: those of an existing logdir',
        shlex.split,
        'folders separated by spaces',
    ),
    Argument(
        'preset',
        '',
        'how to learn: a preset of models/ or a path to a YAML file (`dreamer presets`); default: '
        'what an existing logdir began with, else cpu',
    ),
    Argument('logdir', '', 'run directory; an existing one is resumed; default: runs/<task>-<preset>-<time>'),
    Argument(
        'updates',
        '',
        'of the whole run; default: as many as the preset makes online',
        optional(whole(1)),
        'a whole number from 1',
    ),
    Argument(
        'validation',
        '',
        'share of the episodes that is held out to measure predictions; default: 0.1',
        optional(number(0.0, 0.9)),
        'a number from 0 to 0.9',
    ),
    Argument('robot', '', 'contract of the robot, for bags that do not say which it was'),
    Argument(
        'device', 'auto', 'where the learner computes; auto: the GPU if there is one', choices=('auto', 'cpu', 'cuda')
    ),
    Argument(
        'learners',
        '1',
        'processes that share every update, each with a GPU of its own or, on a CPU, a part of its cores',
        whole(1),
        'a whole number from 1',
    ),
    Argument('seed', '0', 'of parameters and sampling', whole(0), 'a whole number from 0'),
    Argument(
        'overrides',
        '',
        'changes to the preset, separated by spaces: "schedule.batch=8 rssm.deter=64"',
        shlex.split,
        'section.key=value words separated by spaces',
    ),
)


def offline_train(
    bags: Sequence[str],
    preset: str,
    logdir: str,
    updates: int | None,
    validation: float | None,
    robot: str,
    device: str,
    learners: int,
    seed: int,
    overrides: Sequence[str],
) -> Scenario:
    run = plan(bags, robot, preset, logdir, updates, validation, overrides)
    check_learners(run.config, learners)
    trainer = {
        'bags': list(run.config.replay.bags),
        'preset': preset,
        'logdir': str(run.folder),
        'updates': run.updates,
        'validation': run.config.replay.validation,
        'robot': robot,
        'device': device,
        'learners': learners,
        'seed': seed,
        'overrides': list(overrides),
    }
    process = Process('offline_trainer', '/', without_empty(trainer), leads=True, patience=SAVING)
    return Scenario('offline_train', (process,), run.folder)
