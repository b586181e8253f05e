"""A ROS 2 control stack that learns to control a robot from its camera by dreaming.

    environment = dreamer_ros.make('cartpole_swingup')     # Gymnasium's API
    run = dreamer_ros.train('cartpole_swingup')            # in this process, into a run directory
    run = dreamer_ros.open_run('runs/…')                   # its metrics, checkpoints, episodes and newest policy
    policy = dreamer_ros.load_policy('runs/…')             # plays: policy.act(observation)
    episodes = dreamer_ros.read_episodes('runs/…')         # bags as numpy arrays

Names are imported when they are first used, so that `import dreamer_ros` is instant and needs no extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer_ros.api import Policy, Run, load_policy, make, open_run, read_episodes, train
    from dreamer_ros.episodes.episode import Episode
    from dreamer_ros.errors import InputError
    from dreamer_ros.spec import RobotSpec

__all__ = [
    'Episode',
    'InputError',
    'Policy',
    'RobotSpec',
    'Run',
    'load_policy',
    'make',
    'open_run',
    'read_episodes',
    'train',
]

_ELSEWHERE = {'Episode': 'episodes.episode', 'InputError': 'errors', 'RobotSpec': 'spec'}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = importlib.import_module(f'{__name__}.{_ELSEWHERE.get(name, "api")}')
    return getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
