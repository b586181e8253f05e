"""Scenario `sim_eval`: a policy in simulation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.launching.processes import Process, Scenario, keep_local, needing_simulation, simulated_robot
from dreamer_ros.options import Options
from dreamer_ros.policy.loader import policy_file
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.seeds import evaluation_seed
from dreamer_ros.training.run_directory import latest_policy, new_evaluation, new_logdir, saved_task


class SimEval(Options):
    """Score a policy in simulation."""

    run: str = Field('', description='Run directory whose latest policy is played.')
    policy: Annotated[
        shared.Policy,
        Field(
            description='Policy to play instead of that of a run: an ONNX file, its manifest, or the name of a '
            'released one in models/policies/.'
        ),
    ]
    task: Annotated[shared.Task, Field(description='Task to play it in. Default: the one it was trained in.')]
    episodes: int = Field(10, ge=1, description='How many episodes to play.')
    seed: shared.Seed
    mode: Literal['lockstep', 'realtime'] = Field(
        'lockstep', description='lockstep: as fast as the machine allows. realtime: on the wall clock.'
    )
    render: shared.Render
    discovery: shared.Discovery
    output: str = Field(
        '',
        description='Folder for bags, video and result.json. Default: <run>/evaluation/<time>, with the video in '
        '<run>/evaluation.mp4, or runs/<task>-evaluation-<time>.',
    )


def sim_eval(options: SimEval) -> Scenario:
    """Simulator, agent and recorder of one robot, and an evaluator that counts episodes."""
    if bool(options.run) == bool(options.policy):
        raise InputError('expected either run:=<run directory> or policy:=<ONNX file>')
    run = user_path(options.run).absolute() if options.run else None
    path = latest_policy(run).absolute() if run else policy_file(options.policy)
    runner = PolicyRunner(path)
    spec = runner.spec
    task = options.task or saved_task(path) or spec.name
    with needing_simulation():
        from dreamer_ros.simulation import task_name

        name = task_name(task)
    within = None if options.output else run
    if within:
        folder = new_evaluation(within)  # bags and results of two evaluations do not mix
    else:
        folder = user_path(options.output).absolute() if options.output else new_logdir(name, 'evaluation')
    simulator = {'task': task, **spec.simulator_options(), **options.pick('render', 'mode')}
    agent = {'mode': 'evaluate', 'policy': str(path)}
    robot = simulated_robot('sim0', simulator, agent, evaluation_seed(options.seed), folder, options.episodes)
    evaluator = {
        'episodes': options.episodes,
        'output': str(folder),
        'video': str((within or folder) / 'evaluation.mp4'),
    }
    if within and name == spec.name:  # else the return says nothing about what the run learns
        evaluator |= {'run': str(within), 'step': int(runner.metadata.get('step', 0))}
    counting = Process('evaluator', '/sim0', evaluator, leads=True, patience=(10.0, 'writing its result'))
    return Scenario('sim_eval', keep_local((*robot, counting), options.discovery), folder, run=within)
