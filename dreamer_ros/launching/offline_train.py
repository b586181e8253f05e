"""Scenario `offline_train`: learning from bags."""

from __future__ import annotations

from dreamer_ros.launching.processes import Scenario, learner
from dreamer_ros.training.offline import OfflineOptions, plan


def offline_train(options: OfflineOptions) -> Scenario:
    """One process that learns."""
    run = plan(options)
    trainer = {**options.model_dump(), 'logdir': str(run.folder), 'updates': run.updates}
    return Scenario('offline_train', (learner('offline_trainer', trainer),), run.folder)
