"""Scenario `robot_train`: the robot's side, the trainer's side, or both on one computer."""

from __future__ import annotations

import os
import socket
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, user_path
from dreamer_ros.launching.deploy import mock_robot, robot_agent
from dreamer_ros.launching.processes import (
    Process,
    Scenario,
    given_key_file,
    keep_local,
    learner,
    load_named_contract,
    recorder,
    robot_namespace,
    with_variables,
)
from dreamer_ros.options import Options
from dreamer_ros.policy.loader import load, policy_path
from dreamer_ros.run_key import NAME, VARIABLE, key_of
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.offline import senses
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run_directory import check_run, new_logdir, preset_of
from dreamer_ros.training.schedule import Schedule

LOCAL = '127.0.0.1'
EVERYWHERE = '0.0.0.0'


class RobotTrain(Options):
    """Learn on a robot."""

    renamed = {'hardware': 'mock'}

    robot: shared.Contract
    role: Literal['all', 'robot', 'trainer'] = Field(
        'all', description='robot: act and record. trainer: learn from the bags of a robot elsewhere. all: both here.'
    )
    bags: tuple[str, ...] = Field(
        (), description='Role trainer: addresses of the robots that serve their bags, each http://<host>:<port>.'
    )
    address: shared.Address
    port: int = Field(8075, ge=1, le=65535, description='Port at which bags and policies can be read.')
    key: shared.RunKeyFile
    trust: shared.Trust
    discovery: shared.Discovery
    policy: Annotated[
        shared.Policy,
        Field(
            description='What the robot plays until the trainer offers another: an ONNX file, its manifest, or the '
            'name of a released policy. Default: what it played last, or random actions.'
        ),
    ]
    mock: bool = Field(False, description='Whether a simulator mocks the robot.')
    task: Annotated[shared.Task, Field(description='Task that the mock robot simulates.')]
    namespace: shared.Namespace
    evaluate_every: shared.EvaluateEvery
    pause: shared.Pause
    raw: shared.Raw
    begin: shared.Begin
    preset: shared.Preset
    overrides: shared.Overrides
    logdir: shared.Logdir
    steps: shared.Steps
    seed: shared.Seed
    device: shared.Device
    learners: shared.Learners
    signing_key: shared.SigningKey


def robot_train(options: RobotTrain) -> Scenario:
    """The processes of a role."""
    if not options.robot:
        raise InputError('expected robot:=<contract>')
    if options.bags and options.role != 'trainer':
        raise InputError('expected bags:=… with role:=trainer alone')
    contract, source = load_named_contract(options.robot)
    logdir = user_path(options.logdir).absolute() if options.logdir else None
    resumed = logdir is not None and (logdir / 'config.yaml').exists()
    begin = user_path(options.begin).absolute() if options.begin and not resumed else None
    if begin:
        contract.check(RobotSpec.from_json(read_text(begin / 'spec.json'), str(begin / 'spec.json')))
    key = given_key_file(options.key)
    place = robot_namespace(options.namespace, contract)
    path = policy_path(options.policy) if options.policy else None
    if options.role != 'trainer':
        if path:
            contract.check(load(path).spec)
        if options.mock and not options.task:
            raise InputError('expected task:=<what the mock robot simulates>')
        if options.task and not options.mock:
            raise InputError('task:=… is for mock:=true')
    preset = preset_of(options.preset, begin or logdir)
    overrides = (*options.overrides, *senses(contract.spec))
    config = None
    if options.role != 'robot':
        config = load_preset(preset, overrides)
        check_learners(config, options.learners)
        Schedule.make(config.schedule, options.steps or config.schedule.steps, 1)  # refuses what teaches nothing
    policies_url = _policies_url(options) if options.role == 'trainer' else None
    if options.role == 'trainer' and options.trust == 'key' and not key and not (logdir and (logdir / NAME).exists()):
        raise InputError(
            'role:=trainer expects key:=<copy of the file `key` in the folder of the robot>, or trust:=lan'
        )
    # A start that is refused leaves no folder behind.
    check_run(logdir or Path('runs'), contract.spec, config)  # the trainer does so too, but by then a robot here moves
    folder = logdir or new_logdir(contract.name, config.preset if config else 'robot')
    variables = {VARIABLE: str(key or key_of(folder))} if options.trust == 'key' else {}
    processes: list[Process] = []
    if options.role != 'trainer':
        processes += _robot_side(options, place, source, folder, path)
    if options.role == 'robot':
        processes.append(_file_server({'bags': str(folder / 'episodes')}, options, place))
        return _scenario(options, processes, variables, folder)
    trainer = {
        **options.pick('steps', 'device', 'learners', 'seed'),
        'contract': source,
        'logdir': str(folder),
        'preset': preset,
        'overrides': overrides,
        'free_running': True,
        'begin': str(begin) if begin else None,
        'signing_key': str(user_path(options.signing_key).absolute()) if options.signing_key else None,
        'policies_url': policies_url,
    }
    if options.role == 'all':
        trainer['threads'] = max(1, (os.cpu_count() or 1) - 1)  # the robot's control loop comes first
    else:
        processes += _bag_pullers(options.bags, folder / 'episodes')
        processes.append(_file_server({'policies': str(folder / 'policies')}, options, '/'))
    return _scenario(options, [*processes, learner('trainer', trainer)], variables, folder)


def _scenario(
    options: RobotTrain, processes: Sequence[Process], variables: Mapping[str, str], folder: Path
) -> Scenario:
    if (options.mock and options.role == 'all') or options.discovery != 'auto':
        processes = keep_local(processes, options.discovery)
    return Scenario('robot_train', with_variables(processes, variables), folder)


def _robot_side(options: RobotTrain, place: str, source: str, folder: Path, policy: Path | None) -> list[Process]:
    """What runs on the robot's computer."""
    alone = options.role == 'robot'  # else the trainer owns the terminal, and says how it goes
    agent = {
        **options.pick('evaluate_every', 'pause', 'seed', 'trust'),
        'robot': source,
        'mode': 'train',
        'keep': str(folder / 'robot'),
        'show': alone,
        'policy': str(policy) if policy else None,
    }
    return [
        *([mock_robot(place, options.task, source, options.seed)] if options.mock else []),
        recorder(place, folder / 'episodes', contract=source, raw=options.raw or None),
        robot_agent(place, agent, leads=alone),
    ]


def _bag_pullers(bags: Sequence[str], folder: Path) -> list[Process]:
    """What brings the bags of robots elsewhere into a folder here."""
    return [
        Process(
            'bag_puller',
            '/',
            {'source': url, 'folder': str(folder)},
            node='bag_puller' if len(bags) == 1 else f'bag_puller_{number}',
        )
        for number, url in enumerate(bags)
    ]


def _file_server(shown: dict, options: RobotTrain, namespace: str) -> Process:
    return Process('file_server', namespace, {**shown, **options.pick('address', 'port', 'trust')})


def _policies_url(options: RobotTrain) -> str:
    """Where robots elsewhere find the policies of the trainer here.

    Raises:
        InputError: `bags` names no robot, or robots elsewhere cannot reach the address.
    """
    if not options.bags:
        raise InputError('role:=trainer expects bags:=http://<host of the robot>:<port>')
    own, address = _own_address(options.bags[0]), options.address
    if address == LOCAL and own != LOCAL:
        raise InputError(
            f'the robot at {options.bags[0]} cannot fetch policies from {LOCAL}: expected '
            f'address:={own} or address:={EVERYWHERE}'
        )
    return f'http://{own if address == EVERYWHERE else address}:{options.port}/policies'


def _own_address(url: str) -> str:
    """The address from which this computer reaches a host."""
    host, port = _host(url)
    try:
        kind, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing
            own = probe.getsockname()[0]
    except OSError as error:
        raise InputError(f'bags:={url}: expected a host that can be found ({error})') from error
    return LOCAL if own.startswith('127.') else own


def _host(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise InputError(f'bags:={url}: expected http://<host of the robot>:<port>')
    return parts.hostname, parts.port or 80
