"""What runs in each scenario: processes, parameters, remappings, and what their endings mean.

`dreamer launch` (supervisor.py) and `ros2 launch` (ros2.py) both start what is described here, so that they cannot
differ. Nothing here imports rclpy, torch or launch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from dreamer_ros.errors import InputError
from dreamer_ros.launching import deploy, offline_train, record, replay, robot_train, simulation
from dreamer_ros.launching.processes import Argument, Scenario

# name: (arguments, what makes a Scenario of their values)
SCENARIOS = {
    'sim_train': (simulation.SIM_TRAIN_ARGUMENTS, simulation.sim_train),
    'sim_eval': (simulation.SIM_EVAL_ARGUMENTS, simulation.sim_eval),
    'offline_train': (offline_train.OFFLINE_TRAIN_ARGUMENTS, offline_train.offline_train),
    'deploy': (deploy.DEPLOY_ARGUMENTS, deploy.deploy),
    'robot_train': (robot_train.ROBOT_TRAIN_ARGUMENTS, robot_train.robot_train),
    'record': (record.RECORD_ARGUMENTS, record.record),
    'replay': (replay.REPLAY_ARGUMENTS, replay.replay),
}


def scenario_names() -> tuple[str, ...]:
    """Names that `scenario` accepts."""
    return tuple(SCENARIOS)


def scenario_arguments(name: str) -> tuple[Argument, ...]:
    """Declared arguments of a scenario, in the order to show them."""
    return _find(name)[0]


def scenario(name: str, arguments: Mapping[str, str]) -> Scenario:
    """Resolve a scenario and check everything that can be checked before a process starts.

    Args:
        name: one of `scenario_names()`.
        arguments: `name:=value` pairs as text; what is missing takes its default.

    Raises:
        InputError: unknown scenario or argument, or a value that does not fit.
    """
    declared, build = _find(name)
    known = {argument.name: argument for argument in declared}
    for given in arguments:
        if given not in known:
            near = difflib.get_close_matches(given, known, 3) or known
            raise InputError(f'{name} has no argument {given!r}; did you mean {", ".join(near)}?')
    values = {key: argument.value(arguments.get(key, argument.default)) for key, argument in known.items()}
    return build(**values)


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """['task:=walker_walk', …] -> {'task': 'walker_walk', …}"""
    values = {}
    for word in words:
        name, assigned, value = word.partition(':=')
        if not assigned or not name:
            raise InputError(f'{word!r}: expected name:=value')
        values[name] = value
    return values


def _find(name: str):
    if name not in SCENARIOS:
        raise InputError(f'unknown scenario {name!r}; expected one of {", ".join(SCENARIOS)}')
    return SCENARIOS[name]
