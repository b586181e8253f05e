"""What runs in each scenario: processes, parameters, remappings, and what their exits mean.

`dreamer launch` (supervisor.py) and `ros2 launch` (ros2.py) start the same descriptions. The scenarios import neither
rclpy nor torch nor launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dreamer_ros.errors import InputError, hint
from dreamer_ros.launching import deploy, offline_train, record, replay, robot_train, sim_eval, sim_train
from dreamer_ros.launching.processes import Scenario
from dreamer_ros.options import Options
from dreamer_ros.training.offline import OfflineOptions

# name: (options, function that makes the Scenario)
SCENARIOS: dict[str, tuple[type[Options], Callable[[Any], Scenario]]] = {
    'sim_train': (sim_train.SimTrain, sim_train.sim_train),
    'sim_eval': (sim_eval.SimEval, sim_eval.sim_eval),
    'offline_train': (OfflineOptions, offline_train.offline_train),
    'deploy': (deploy.Deploy, deploy.deploy),
    'robot_train': (robot_train.RobotTrain, robot_train.robot_train),
    'record': (record.Record, record.record),
    'replay': (replay.Replay, replay.replay),
}


def scenario_options(name: str) -> type[Options]:
    """The options of a scenario.

    Raises:
        InputError: there is no such scenario.
    """
    if name not in SCENARIOS:
        raise InputError(f'unknown scenario {name!r}; {hint(name, SCENARIOS)}')
    return SCENARIOS[name][0]


def scenario(name: str, arguments: Mapping[str, str]) -> Scenario:
    """Resolve a scenario and check everything that can be checked before a process starts.

    Args:
        name: one of SCENARIOS.
        arguments: values as text, by name. The others take their defaults.

    Raises:
        InputError: unknown scenario or argument, or a value that does not fit.
    """
    options = scenario_options(name).from_texts(arguments, name)
    return SCENARIOS[name][1](options)


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """['task:=walker_walk', …] -> {'task': 'walker_walk', …}"""
    values = {}
    for word in words:
        name, assigned, value = word.partition(':=')
        if not assigned or not name:
            raise InputError(f'{word!r}: expected name:=value')
        values[name] = value
    return values
