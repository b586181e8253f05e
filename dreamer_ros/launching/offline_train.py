"""Scenario `offline_train`: learning from bags."""

from __future__ import annotations

from dreamer_ros import options as shared
from dreamer_ros.launching.processes import Scenario, learner
from dreamer_ros.options import Options
from dreamer_ros.training.offline import plan
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run_directory import write_description


class OfflineTrain(Options):
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


def offline_train(options: OfflineTrain) -> Scenario:
    """One process that learns."""
    run = plan(
        options.bags,
        options.robot,
        options.preset,
        options.logdir,
        options.updates,
        options.validation,
        options.overrides,
    )
    check_learners(run.config, options.learners)
    write_description(run.folder, run.config, run.spec)
    trainer = {
        'logdir': str(run.folder),
        'updates': run.updates,
        'robot': options.robot or None,
        'device': options.device,
        'learners': options.learners,
        'seed': options.seed,
    }
    return Scenario('offline_train', (learner('offline_trainer', trainer),), run.folder)
