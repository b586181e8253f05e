"""Scenario `deploy`: a policy on a robot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.launching.processes import (
    Process,
    Scenario,
    given_key_file,
    keep_local,
    load_named_contract,
    recorder,
    robot_namespace,
    with_variables,
)
from dreamer_ros.options import Options
from dreamer_ros.policy.loader import load, policy_path
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.simulated_contract import simulated_contract
from dreamer_ros.run_key import VARIABLE
from dreamer_ros.training.run_directory import new_logdir, saved_task


class Deploy(Options):
    """Play a policy on a robot, or on a mock one."""

    renamed = {'hardware': 'mock'}

    policy: Annotated[
        shared.Policy,
        Field(
            description='Policy to play: an ONNX file, its manifest, or the name of a released one in '
            'models/policies/. Default: what a trainer offers on /policy.'
        ),
    ]
    robot: Annotated[
        shared.Contract,
        Field(
            description='Robot contract: a YAML file, or the name of a robot of sim/ or robots/. Default: a '
            'simulated robot as the policy knows it.'
        ),
    ]
    mock: Literal['auto', 'true', 'false'] = Field(
        'auto', description='Whether a simulator mocks the robot. auto: only without a contract.'
    )
    task: Annotated[
        shared.Task, Field(description='Task that the mock robot simulates. Default: what the policy was trained for.')
    ]
    namespace: shared.Namespace
    key: Annotated[
        shared.RunKeyFile,
        Field(description='File of the key of the trainer whose policies are played. Default: $DREAMER_ROS_KEY.'),
    ]
    trust: shared.Trust
    discovery: shared.Discovery
    record: bool = Field(False, description="Record the episodes as bags in the scenario's folder.")
    raw: shared.Raw
    autostart: shared.Autostart
    seed: Annotated[shared.Seed, Field(description='Random seed of the initial states of a mock robot.')]


def deploy(options: Deploy) -> Scenario:
    """The agent on a robot, or on a mock one, and a recorder if asked for."""
    if not options.policy and not options.robot:
        raise InputError('expected policy:=<ONNX file>, robot:=<contract>, or both')
    key = given_key_file(options.key)
    path = policy_path(options.policy) if options.policy else None
    spec = load(path).spec if path else None
    source = ''
    if options.robot:
        contract, source = load_named_contract(options.robot)
    else:
        text = simulated_contract(spec, rewarded=options.mock != 'false')
        contract = RobotContract.from_text(text, 'the simulated robot')
    if spec:
        contract.check(spec)
    mocked = options.mock == 'true' or (options.mock == 'auto' and not options.robot)
    task = options.task or (path and saved_task(path)) or (spec.name if spec else '')
    if mocked and not task:
        raise InputError('expected task:=<what the mock robot simulates>')
    if not (path or key or contract.public_key or options.trust == 'lan'):
        raise InputError(
            'expected policy:=<ONNX file>, or key:=<the file `key` of the run whose trainer offers policies>, '
            'or trust:=lan to play the policies of anybody in the ROS domain'
        )
    place = robot_namespace(options.namespace, contract)
    folder = new_logdir(Path(options.robot).stem if options.robot else spec.name, 'deploy')
    # A copy for the record. The nodes read the user's file, so that their errors name it.
    write_file(folder / 'robot.yaml', contract.text)
    source = source or str(folder / 'robot.yaml')
    processes = [mock_robot(place, task, source, options.seed)] if mocked else []
    if options.record or options.raw:
        processes.append(recorder(place, folder / 'episodes', contract=source, raw=options.raw or None))
    agent = {'robot': source, 'policy': str(path) if path else None, **options.pick('autostart', 'trust')}
    processes.append(robot_agent(place, agent, leads=True, restarts=False))
    if mocked or options.discovery != 'auto':
        processes = [*keep_local(processes, options.discovery)]
    return Scenario('deploy', with_variables(processes, {VARIABLE: str(key)} if key else {}), folder)


def mock_robot(namespace: str, task: str, contract: str, seed: int) -> Process:
    """The process that simulates a robot."""
    return Process('mock_robot', namespace, {'task': task, 'robot': contract, 'seed': seed})


def robot_agent(namespace: str, parameters: Mapping[str, object], leads: bool, restarts: bool = True) -> Process:
    """The process that plays a policy on a robot."""
    return Process(
        'robot_agent',
        namespace,
        parameters,
        remappings=(('policy', '/policy'),),
        leads=leads,
        patience=(15.0, 'stopping the robot'),
        node='agent',
        restarts=restarts,
        lifecycle=True,
    )
