"""Scenarios on robots: play a policy."""

from __future__ import annotations

from pathlib import Path

import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.launching.processes import ONE_THREAD, Argument, Process, Scenario, check_namespace, whole
from dreamer_ros.policy.loader import find_manifest, load, policy_path
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.run_directory import new_logdir

STOPPING = (15.0, 'stopping the robot')
SIMULATED_AGE = 3  # control periods that observations of a simulated robot may be old, at least:
SIMULATED_AGE_SECONDS = 0.1

_FLAG = ('true', 'false')

DEPLOY_ARGUMENTS = (
    Argument(
        'policy',
        '',
        'ONNX file, manifest, or name of a released policy in models/policies/; default: what a '
        'trainer offers on /policy',
    ),
    Argument(
        'robot',
        '',
        'robot contract: a YAML file, or the name of a robot of sim/; default: a simulated robot as '
        'the policy knows it',
    ),
    Argument(
        'hardware',
        'auto',
        'whether a simulator stands in for the robot; auto: if there is no contract',
        choices=('auto', *_FLAG),
    ),
    Argument('task', '', 'what the stand-in simulates; default: what the policy was trained for'),
    Argument('namespace', '', "of the robot's topics; default: its name"),
    Argument(
        'record',
        'false',
        "record the episodes as bags in the scenario's folder",
        lambda text: text == 'true',
        choices=_FLAG,
    ),
    Argument(
        'autostart',
        'true',
        'activate at once; false: wait for `ros2 lifecycle`',
        lambda text: text == 'true',
        choices=_FLAG,
    ),
    Argument('seed', '0', "of the stand-in's initial states", whole(0), 'a whole number from 0'),
)


def deploy(
    policy: str, robot: str, hardware: str, task: str, namespace: str, record: bool, autostart: bool, seed: int
) -> Scenario:
    if not policy and not robot:
        raise InputError('deploy: expected policy:=<ONNX file>, robot:=<contract>, or both')
    path = policy_path(policy) if policy else None
    spec = load(find_manifest(path)).spec if path else None
    if robot:
        contract = load_contract(Path(robot).expanduser())
    else:
        text = simulated_contract(spec, rewarded=hardware != 'false')
        contract = RobotContract.from_text(text, 'the simulated robot')
    if spec:
        contract.check(spec)
    stands_in = hardware == 'true' or (hardware == 'auto' and not robot)
    task = task or (spec.name if spec else '')
    if stands_in and not task:
        raise InputError('deploy: expected task:=<what the stand-in simulates>')
    place = '/' + (namespace or contract.name).strip('/')
    check_namespace(place)
    folder = new_logdir(Path(robot).stem if robot else spec.name, 'deploy')
    # The contract beside what was done with it; the nodes read the user's own, which their errors name.
    copy = folder / 'robot.yaml'
    write_file(copy, contract.text)
    source = str(copy) if not robot else str(Path(robot).expanduser().absolute()) if Path(robot).suffix else robot
    agent = {'robot': source, 'autostart': autostart}
    if path:
        agent['policy'] = str(path)
    processes = []
    if stands_in:
        processes.append(
            Process('mock_robot', place, {'task': task, 'robot': source, 'seed': seed}, environment=ONE_THREAD)
        )
    if record:
        processes.append(
            Process(
                'recorder',
                place,
                {'folder': str(folder / 'episodes'), 'contract': source},
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
            leads=True,
            patience=STOPPING,
            node='agent',
            restarts=False,
        )
    )
    return Scenario('deploy', tuple(processes), folder)


def simulated_contract(spec: RobotSpec, rewarded: bool) -> str:
    """YAML of a contract that has the spec: images, joint states, and a controller that takes the actions' units.

    Args:
        rewarded: the stand-in for the robot tells the task's reward.

    Raises:
        InputError: a spec that says too little, that of discrete actions.
    """
    if spec.discrete:
        raise InputError(
            f'deploy: {spec.name} has discrete actions, so that only a contract can say what they do: '
            'expected robot:=<contract>'
        )
    topics = [f'{"camera" if number == 0 else name}/image_raw' for number, name in enumerate(spec.cameras)]
    middle = [(low + high) / 2 for low, high in zip(spec.action_low, spec.action_high)]
    centred = not any(middle)
    contract = {
        'name': spec.name,
        'rate': 1 / spec.control_period,
        'max_age': max(SIMULATED_AGE * spec.control_period, SIMULATED_AGE_SECONDS),
        **({'image_size': list(spec.image_size)} if spec.cameras else {}),
        'cameras': {
            name: {'topic': topic, 'type': 'sensor_msgs/msg/Image'} for name, topic in zip(spec.cameras, topics)
        },
        'vector': [_joint(name) for name in spec.vector],
        'command': {
            'topic': 'commands',
            'type': 'std_msgs/msg/Float64MultiArray',
            'axes': [
                {'name': name, 'field': f'data[{number}]', 'limits': [low, high]}
                for number, (name, low, high) in enumerate(zip(spec.action, spec.action_low, spec.action_high))
            ],
            'stop': 'zero' if centred else dict(zip(spec.action, middle)),
        },
        **({'reward': {'topic': 'reward', 'type': 'std_msgs/msg/Float64', 'field': 'data'}} if rewarded else {}),
    }
    return yaml.safe_dump(
        {key: value for key, value in contract.items() if value != {} and value != []}, sort_keys=False
    )


def _joint(name: str) -> dict:
    """The input called `<joint>/position` or `<joint>/velocity`."""
    joint, _, quantity = name.rpartition('/')
    return {
        'name': name,
        'topic': 'joint_states',
        'type': 'sensor_msgs/msg/JointState',
        'field': f'{quantity}[{joint}]',
    }
