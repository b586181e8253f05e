"""Scenario `replay`: a recorded episode, played, simulated or dreamed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.launching.processes import Process, Scenario
from dreamer_ros.options import Options
from dreamer_ros.policy.loader import policy_file
from dreamer_ros.training.run_directory import latest_policy

# Options that only some modes read.
READ = {'play': ('policy', 'run'), 'simulate': ('task',), 'dream': ('run',)}


class Replay(Options):
    """Replay a recorded episode: on topics, in the simulator, or in the dreams of a world model."""

    bag: str = Field('', description='Bag to replay: a directory with metadata.yaml.')
    mode: Literal['play', 'simulate', 'dream'] = Field(
        'play',
        description='play: publish its messages again, beside a policy in shadow if there is one. simulate: feed its '
        'actions to the simulator and compare every observation. dream: have the world model of a run predict it.',
    )
    rate: Annotated[shared.Rate, Field(description='Mode play: pace, as a multiple of the recorded one.')]
    policy: Annotated[
        shared.Policy,
        Field(
            description='Mode play: policy whose actions are compared with the recorded ones. An ONNX file, its '
            'manifest, or the name of a released one.'
        ),
    ]
    run: str = Field(
        '',
        description='Mode play: run directory whose latest policy is compared. Mode dream: run directory, or one of '
        'its checkpoints.',
    )
    namespace: str = Field(
        '/replay', description='Mode play: namespace for the recorded topics. / leaves their names as they were.'
    )
    task: str = Field('', description='Mode simulate: path of the task file, if it has moved since the recording.')
    output: str = Field('', description='Folder for the results. Default: replays/<name of the bag>.')


def replay(options: Replay) -> Scenario:
    """The process of the mode."""
    mode = options.mode
    if not options.bag:
        raise InputError('expected bag:=<directory of a bag>')
    for name in ('policy', 'run', 'task'):
        value = getattr(options, name)
        if value and name not in READ[mode]:
            raise InputError(f'{name}:={value} is not used in mode {mode}')
    if mode == 'dream' and not options.run:
        raise InputError('mode dream expects run:=<run directory or checkpoint>')
    if options.policy and options.run:
        raise InputError('expected either policy:=<ONNX file> or run:=<run directory>')
    bag = user_path(options.bag).absolute()
    if not bag.exists():
        raise InputError(f'bag:={options.bag}: expected the directory of a bag, but it does not exist')
    folder = user_path(options.output).absolute() if options.output else Path('replays').absolute() / bag.name
    parameters: dict[str, Any] = {'bag': str(bag), 'output': str(folder)}
    if mode == 'simulate':
        process = Process('resimulator', '/', {**parameters, 'task': options.task or None}, leads=True)
    elif mode == 'dream':
        parameters['run'] = options.run
        process = Process('dream_player', '/', parameters, environment={}, leads=True, patience=(30.0, 'shutting down'))
    else:
        policy = options.policy and policy_file(options.policy)
        if options.run:
            policy = latest_policy(user_path(options.run)).absolute()
        parameters |= {'rate': options.rate, 'policy': str(policy) if policy else None}
        process = Process('player', '/' + options.namespace.strip('/'), parameters, leads=True)
    return Scenario('replay', (process,), folder)
