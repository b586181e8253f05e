"""Scenario that learns on a robot: the robot's side, the trainer's side, or both on one computer."""

from __future__ import annotations

import os
import shlex
import socket
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.launching.deploy import STOPPING
from dreamer_ros.launching.processes import (
    ONE_THREAD,
    SAVING,
    Argument,
    Process,
    Scenario,
    optional,
    whole,
    without_empty,
)
from dreamer_ros.policy.loader import find_manifest, load, policy_path
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.offline import senses
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run_directory import check_run, new_logdir
from dreamer_ros.training.schedule import Schedule

LOCAL = '127.0.0.1'
EVERYWHERE = '0.0.0.0'
_FLAG = ('true', 'false')

ROBOT_TRAIN_ARGUMENTS = (
    Argument('robot', '', 'robot contract: a YAML file, or the name of a robot of sim/'),
    Argument(
        'role',
        'all',
        'robot: act and record; trainer: learn from the bags of a robot elsewhere; all: both here',
        choices=('all', 'robot', 'trainer'),
    ),
    Argument(
        'bags',
        '',
        'role trainer: http://<host>:<port> of the robot, several separated by spaces',
        str.split,
        'addresses separated by spaces',
    ),
    Argument(
        'address',
        LOCAL,
        'roles robot and trainer: address of this computer at which the other side may read '
        'bags and policies, without a password; 0.0.0.0: any address of it; 127.0.0.1: this computer alone',
    ),
    Argument('port', '8075', 'and the port', whole(1), 'a whole number from 1'),
    Argument(
        'policy',
        '',
        'what the robot plays until the trainer offers another: ONNX file, manifest, or name of a '
        'released policy in models/policies/; default: what it played last, or random actions',
    ),
    Argument(
        'hardware', 'false', 'whether a simulator stands in for the robot', lambda text: text == 'true', choices=_FLAG
    ),
    Argument('task', '', 'what the stand-in simulates'),
    Argument('namespace', '', "of the robot's topics; default: its name"),
    Argument(
        'evaluate_every',
        '10',
        'every n-th episode is played deterministically and gives the learning curve; 0: none',
        whole(0),
        'a whole number from 0',
    ),
    Argument(
        'pause',
        'false',
        'hold the robot after every episode until ~/enable is called, so that somebody can set it up again',
        lambda text: text == 'true',
        choices=_FLAG,
    ),
    Argument('begin', '', 'run directory of sim_train or another robot_train whose learner goes on here'),
    Argument(
        'preset',
        '',
        'how to learn: a preset of models/ or a path to a YAML file (`dreamer presets`); default: '
        'what an existing logdir or begin was made with, else cpu',
    ),
    Argument(
        'logdir',
        '',
        'run directory, on either side; an existing one is continued; default: runs/<robot>-<preset>-<time>',
    ),
    Argument(
        'steps',
        '',
        'steps of the robot to learn from; default: what the preset says',
        optional(whole(1)),
        'a whole number from 1',
    ),
    Argument(
        'device', 'auto', 'where the learner computes; auto: the GPU if there is one', choices=('auto', 'cpu', 'cuda')
    ),
    Argument('learners', '1', 'processes that share every update', whole(1), 'a whole number from 1'),
    Argument('signing_key', '', 'file of the private key that signs the policies, for contracts with a public_key'),
    Argument('seed', '0', 'of parameters, sampling and random actions', whole(0), 'a whole number from 0'),
    Argument(
        'overrides',
        '',
        'changes to the preset, separated by spaces: "schedule.batch=8 rssm.deter=64"',
        shlex.split,
        'section.key=value words separated by spaces',
    ),
)


def robot_train(
    robot: str,
    role: str,
    bags: Sequence[str],
    address: str,
    port: int,
    policy: str,
    hardware: bool,
    task: str,
    namespace: str,
    evaluate_every: int,
    pause: bool,
    begin: str,
    preset: str,
    logdir: str,
    steps: int | None,
    device: str,
    learners: int,
    signing_key: str,
    seed: int,
    overrides: Sequence[str],
) -> Scenario:
    if not robot:
        raise InputError('robot_train: expected robot:=<contract>')
    contract = load_contract(robot)
    source = str(Path(robot).expanduser().absolute()) if Path(robot).suffix else robot
    resumed = bool(logdir) and (Path(logdir).expanduser() / 'config.yaml').exists()
    earlier = Path(begin).expanduser().absolute() if begin and not resumed else None
    if earlier:
        contract.check(RobotSpec.from_json(read_text(earlier / 'spec.json'), str(earlier / 'spec.json')))
    run = Path(logdir).expanduser() if resumed else earlier
    preset = preset or (str(run / 'config.yaml') if run else 'cpu')
    if bags and role != 'trainer':
        raise InputError('robot_train: expected bags:=… with role:=trainer alone')
    config = None
    if role != 'robot':
        words = [*overrides, *senses(contract.spec)]
        config = load_preset(preset, words)
        check_learners(config, learners)
        steps = steps or config.schedule.steps
        Schedule.make(config.schedule, steps, 1)  # refuses a budget that teaches nothing
    folder = (
        Path(logdir).expanduser().absolute()
        if logdir
        else new_logdir(contract.name, config.preset if config else 'robot')
    )
    check_run(folder, contract.spec, config)  # the trainer does so too, but by then a robot here moves
    processes: list[Process] = []
    if role != 'trainer':
        behaviour = {'evaluate_every': evaluate_every, 'pause': pause, 'seed': seed}
        processes += _robot_side(
            contract, source, folder, namespace, policy, hardware, task, behaviour, leads=role == 'robot'
        )
    if role == 'robot':
        processes.append(_file_server({'bags': str(folder / 'episodes')}, address, port, processes[-1].namespace))
    else:
        trainer = {
            'contract': source,
            'logdir': str(folder),
            'preset': preset,
            'overrides': words,
            'steps': steps,
            'free_running': True,
            'device': device,
            'learners': learners,
            'seed': seed,
            **({'begin': str(earlier)} if earlier else {}),
            **({'signing_key': str(Path(signing_key).expanduser().absolute())} if signing_key else {}),
        }
        if role == 'all':
            # The robot's control loop comes first.
            trainer['threads'] = max(1, (os.cpu_count() or 1) - 1)
        else:
            processes += _transfer(bags, folder, address, port)
            trainer['policies_url'] = f'http://{_reachable(bags, address)}:{port}/policies'
        processes.append(Process('trainer', '/', without_empty(trainer), leads=True, patience=SAVING))
    return Scenario('robot_train', tuple(processes), folder)


def _robot_side(
    contract: RobotContract,
    source: str,
    folder: Path,
    namespace: str,
    policy: str,
    hardware: bool,
    task: str,
    behaviour: dict,
    leads: bool,
) -> list[Process]:
    """What runs on the robot's computer."""
    place = '/' + (namespace or contract.name).strip('/')
    # Where the trainer owns the terminal, it is the one that says how it goes.
    agent = {'robot': source, 'mode': 'train', **behaviour, 'keep': str(folder / 'robot'), 'show': leads}
    if policy:
        path = policy_path(policy)
        contract.check(load(find_manifest(path)).spec)
        agent['policy'] = str(path)
    processes = []
    if hardware:
        if not task:
            raise InputError('robot_train: expected task:=<what the stand-in simulates>')
        processes.append(
            Process(
                'mock_robot', place, {'task': task, 'robot': source, 'seed': behaviour['seed']}, environment=ONE_THREAD
            )
        )
    elif task:
        raise InputError('robot_train: task:=… is for hardware:=true')
    processes.append(
        Process(
            'recorder',
            place,
            {'contract': source, 'folder': str(folder / 'episodes')},
            environment=ONE_THREAD,
            patience=(30.0, 'finishing the open bag'),
        )
    )
    processes.append(
        Process(
            'robot_agent',
            place,
            agent,
            (('policy', '/policy'),),
            ONE_THREAD,
            leads=leads,
            patience=STOPPING,
            node='agent',
        )
    )
    return processes


def _transfer(bags: Sequence[str], folder: Path, address: str, port: int) -> list[Process]:
    """What fetches the bags and shows the policies, on the trainer's computer."""
    if not bags:
        raise InputError('robot_train: role:=trainer expects bags:=http://<host of the robot>:<port>')
    pullers = [
        Process(
            'bag_puller',
            '/',
            {'source': source, 'folder': str(folder / 'episodes')},
            environment=ONE_THREAD,
            node='bag_puller' if len(bags) == 1 else f'bag_puller_{number}',
        )
        for number, source in enumerate(bags)
    ]
    return [*pullers, _file_server({'policies': str(folder / 'policies')}, address, port, '/')]


def _file_server(shown: dict, address: str, port: int, namespace: str) -> Process:
    return Process('file_server', namespace, {**shown, 'address': address, 'port': port}, environment=ONE_THREAD)


def _reachable(bags: Sequence[str], address: str) -> str:
    """The address of this computer by which the robot finds it.

    Raises:
        InputError: it listens where robots elsewhere cannot reach it.
    """
    own = _own_address(bags[0])
    if address == LOCAL and own != LOCAL:
        raise InputError(
            f'robot_train: the robot at {bags[0]} cannot fetch policies from {LOCAL}: expected '
            f'address:={own} or address:={EVERYWHERE}, where whoever reaches it may read them'
        )
    return own if address == EVERYWHERE else address


def _own_address(url: str) -> str:
    """The address from which this computer reaches a host."""
    host, port = _host(url)
    try:
        kind, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # sends nothing
            own = probe.getsockname()[0]
    except OSError as error:
        raise InputError(f'robot_train: bags:={url}: expected a host that can be found ({error})') from error
    return LOCAL if own.startswith('127.') else own


def _host(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise InputError(f'robot_train: bags:={url}: expected http://<host of the robot>:<port>')
    return parts.hostname, parts.port or 80
