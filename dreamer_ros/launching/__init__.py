"""What runs in each scenario: processes, parameters, remappings, and what their exits mean.

`dreamer launch` (supervisor.py) and `ros2 launch` (ros2.py) start the same descriptions. The scenarios import neither
rclpy nor torch nor launch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field, create_model

from dreamer_ros.errors import InputError, hint
from dreamer_ros.launching import deploy, offline_train, record, replay, robot_train, sim_eval, sim_train
from dreamer_ros.launching.processes import Scenario
from dreamer_ros.options import Options, as_text
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


class Common(Options):
    """Options of every scenario, passed on to all of its nodes."""

    use_sim_time: bool = Field(
        False, description='Whether the time is that of a simulator such as Gazebo, which publishes it on /clock.'
    )


def scenario_options(name: str) -> type[Options]:
    """All options of a scenario.

    Raises:
        InputError: there is no such scenario.
    """
    if name not in SCENARIOS:
        raise InputError(f'unknown scenario {name!r}; {hint(name, SCENARIOS)}')
    model = SCENARIOS[name][0]
    fields: dict[str, Any] = {key: (field.annotation, field) for key, field in Common.model_fields.items()}
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def scenario(name: str, arguments: Mapping[str, str]) -> Scenario:
    """Resolve a scenario and check everything that can be checked before a process starts.

    Args:
        name: one of SCENARIOS.
        arguments: values as text, by name. The others take their defaults.

    Raises:
        InputError: unknown scenario or argument, or a value that does not fit.
    """
    scenario_options(name).from_texts(arguments, name)  # refuses what is unknown
    common = Common.from_texts({key: text for key, text in arguments.items() if key in Common.model_fields}, name)
    own = {key: text for key, text in arguments.items() if key not in Common.model_fields}
    made = SCENARIOS[name][1](SCENARIOS[name][0].from_texts(own, name))
    parameters = {key: value for key, value in common.model_dump().items() if key in common.model_fields_set}
    processes = [
        dataclasses.replace(process, parameters={**process.parameters, **parameters}) for process in made.processes
    ]
    then = made.then and (made.then[0], {**made.then[1], **{key: as_text(value) for key, value in parameters.items()}})
    return dataclasses.replace(made, processes=tuple(processes), then=then)


def parse_assignments(words: Sequence[str]) -> dict[str, str]:
    """['task:=walker_walk', …] -> {'task': 'walker_walk', …}"""
    values = {}
    for word in words:
        name, assigned, value = word.partition(':=')
        if not assigned or not name:
            raise InputError(f'{word!r}: expected name:=value')
        values[name] = value
    return values
