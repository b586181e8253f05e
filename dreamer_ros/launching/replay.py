"""Scenarios around bags: play one again."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.launching.processes import ONE_THREAD, Argument, Process, Scenario, number
from dreamer_ros.policy.loader import policy_file
from dreamer_ros.training.run_directory import latest_policy

REPLAY_ARGUMENTS = (
    Argument('bag', '', 'the bag to replay: a directory with metadata.yaml'),
    Argument(
        'mode',
        'play',
        'play: its messages on topics again, and a policy in shadow if there is one; simulate: '
        'its actions into the simulator, and compare; dream: the world model of a run predicts it',
        choices=('play', 'simulate', 'dream'),
    ),
    Argument('rate', '1.0', 'mode play: times the recorded pace', number(0.001, 1000.0), 'a number from 0.001 to 1000'),
    Argument(
        'policy',
        '',
        'mode play: policy whose actions are compared with the recorded ones: ONNX file, manifest, '
        'or name of a released policy',
    ),
    Argument(
        'run',
        '',
        'mode play: run directory whose latest policy is taken, instead of policy; mode dream: run '
        'directory, or one of its checkpoints',
    ),
    Argument(
        'namespace', '/replay', 'mode play: what the recorded topics are put below; / leaves their names as they were'
    ),
    Argument('task', '', 'mode simulate: path of the task file, if it has moved since the recording'),
    Argument('output', '', 'folder for the results; default: replays/<name of the bag>'),
)


def replay(bag: str, mode: str, rate: float, policy: str, run: str, namespace: str, task: str, output: str) -> Scenario:
    if not bag:
        raise InputError('replay: expected bag:=<directory of a bag>')
    path = Path(bag).expanduser().absolute()
    folder = Path(output).expanduser().absolute() if output else Path('replays').absolute() / path.name
    given = {'policy': policy, 'run': run, 'task': task}
    used = {'play': ('policy', 'run'), 'simulate': ('task',), 'dream': ('run',)}[mode]
    for name, value in given.items():
        if value and name not in used:
            raise InputError(f'replay: {name}:={value} is not used in mode {mode}')
    if mode == 'dream' and not run:
        raise InputError('replay: mode dream expects run:=<run directory or checkpoint>')
    if policy and run:
        raise InputError('replay: expected either policy:=<ONNX file> or run:=<run directory>')
    if not path.exists():
        raise InputError(f'replay: bag:={bag}: expected the directory of a bag, but it does not exist')
    common = {'bag': str(path), 'output': str(folder)}
    if mode == 'play':
        if run:
            policy = str(latest_policy(Path(run).expanduser()).absolute())
        elif policy:
            policy = str(policy_file(policy))
        process = Process(
            'player',
            '/' + namespace.strip('/'),
            {**common, 'rate': rate, 'policy': policy},
            environment=ONE_THREAD,
            leads=True,
        )
    elif mode == 'simulate':
        process = Process('resimulator', '/', {**common, 'task': task}, environment=ONE_THREAD, leads=True)
    else:
        process = Process('dream_player', '/', {**common, 'run': run}, leads=True, patience=(30.0, 'shutting down'))
    return Scenario('replay', (process,), folder)
