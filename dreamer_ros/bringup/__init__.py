"""What runs in each scenario: processes, parameters, remappings, and what their endings mean.

`dreamer launch` (processes.py) and `ros2 launch` (ros_launch.py) both start what is described here, so that
they cannot differ. Nothing here imports rclpy, torch or launch.
"""
from __future__ import annotations

import difflib
from typing import Dict, Mapping, Sequence, Tuple

from dreamer_ros.bringup import bags, offline, recording, robot, robot_learning, simulation
from dreamer_ros.bringup.parts import Argument, Scenario
from dreamer_ros.errors import InputError

# name: (arguments, what makes a Scenario of their values)
SCENARIOS = {
    'sim_train': (simulation.SIM_TRAIN_ARGUMENTS, simulation.sim_train),
    'sim_eval': (simulation.SIM_EVAL_ARGUMENTS, simulation.sim_eval),
    'offline_train': (offline.OFFLINE_TRAIN_ARGUMENTS, offline.offline_train),
    'deploy': (robot.DEPLOY_ARGUMENTS, robot.deploy),
    'robot_train': (robot_learning.ROBOT_TRAIN_ARGUMENTS, robot_learning.robot_train),
    'record': (recording.RECORD_ARGUMENTS, recording.record),
    'replay': (bags.REPLAY_ARGUMENTS, bags.replay),
}


def scenario_names() -> Tuple[str, ...]:
    """Names that `scenario` accepts."""
    return tuple(SCENARIOS)


def scenario_arguments(name: str) -> Tuple[Argument, ...]:
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


def parse_assignments(words: Sequence[str]) -> Dict[str, str]:
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
