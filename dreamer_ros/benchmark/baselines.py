"""What every learning system should be held against: chance, doing nothing, and a model-free agent from pixels.

They see the task as the `cpu` preset does, with its image size and action repeat.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamer_ros.benchmark.results import Outcome, Protocol
from dreamer_ros.config import Config, load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.policy.actions import random_action, still_action
from dreamer_ros.seeds import evaluation_seed
from dreamer_ros.training.rollout import Player

UNTRAINED = {'random': random_action, 'still': still_action}
BASELINES = (*UNTRAINED, 'sac_pixels')


def baseline_config() -> Config:
    """The preset whose `env` section the baselines use."""
    return load_preset('cpu')


def train_baseline(name: str, task: str, seed: int, protocol: Protocol, report: Callable[[Outcome], None]) -> Outcome:
    """Run one of BASELINES; arguments as of `train_in_process`.

    Raises:
        InputError: unknown task, or stable-baselines3 is not installed.
    """
    config = baseline_config()
    repeat = config.action_repeat_for(task)
    if name in UNTRAINED:
        return _untrained(name, config, task, repeat, seed, protocol)
    try:
        from dreamer_ros.benchmark.sac_pixels import train_sac
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, which {name} needs: pip install 'dreamer_ros[baselines]'"
        ) from error
    return train_sac(task, config.env.image_size, repeat, seed, protocol, report)


def _untrained(name: str, config: Config, task: str, repeat: int, seed: int, protocol: Protocol) -> Outcome:
    """There is nothing to train."""
    player = Player(task, config.env, repeat, evaluation_seed(seed), UNTRAINED[name])
    try:
        return Outcome(returns=player.play(protocol.episodes, policy=None).result())
    finally:
        player.close()
