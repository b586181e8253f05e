"""Scenarios in simulation: learn a task, and score a policy."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dreamer_ros.config import EnvConfig, load_preset
from dreamer_ros.errors import InputError, missing_package
from dreamer_ros.files import read_text
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
from dreamer_ros.policy.loader import policy_file
from dreamer_ros.seeds import collector_seed, evaluation_seed
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run_directory import check_run, latest_policy, new_evaluation, new_logdir
from dreamer_ros.training.schedule import Schedule

_SEED = Argument(
    'seed', '0', 'random seed; two runs of one seed see the same initial states', whole(0), 'a whole number from 0'
)
_RENDER = Argument(
    'render',
    'fast',
    'fast: no shadows; shadows: small shadow maps; suite: as dm_control',
    choices=('fast', 'shadows', 'suite'),
)

SIM_TRAIN_ARGUMENTS = (
    Argument(
        'task',
        '',
        'what to learn: a dm_control task, a world of sim/ (`dreamer tasks`) or the path of a task file; default: '
        'that of an existing logdir, else cartpole_swingup',
    ),
    Argument(
        'preset',
        '',
        'how to learn: a preset of models/ or a path to a YAML file (`dreamer presets`); '
        'default: what an existing logdir began with, else cpu',
    ),
    Argument('logdir', '', 'run directory; an existing one is resumed; default: runs/<task>-<preset>-<time>'),
    Argument(
        'simulators',
        '1',
        'simulators that feed the trainer, each in its namespace /sim<n>',
        whole(1),
        'a whole number from 1',
    ),
    _SEED,
    Argument(
        'steps', '', 'env steps to collect; default: what the preset says', optional(whole(1)), 'a whole number from 1'
    ),
    Argument(
        'device', 'auto', 'where the learner computes; auto: the GPU if there is one', choices=('auto', 'cpu', 'cuda')
    ),
    Argument(
        'learners',
        '1',
        'processes that share every update, each with a GPU of its own or, on a CPU, a part of its cores',
        whole(1),
        'a whole number from 1',
    ),
    Argument(
        'mode',
        'lockstep',
        'lockstep: simulators wait for agent and learner, which keeps the replay '
        'ratio exactly; free: they wait for the agent alone; realtime: they step on the wall clock, as '
        'robots do',
        choices=('lockstep', 'free', 'realtime'),
    ),
    Argument(
        'evaluate_every',
        '10',
        'every n-th episode is played deterministically and gives the learning curve; 0: none',
        whole(0),
        'a whole number from 0',
    ),
    Argument(
        'episodes', '10', 'episodes of the evaluation that ends the run; 0: none', whole(0), 'a whole number from 0'
    ),
    _RENDER,
    Argument(
        'overrides',
        '',
        'changes to the preset, separated by spaces: "schedule.batch=8 rssm.deter=64"',
        shlex.split,
        'section.key=value words separated by spaces',
    ),
)

SIM_EVAL_ARGUMENTS = (
    Argument('run', '', 'run directory whose latest policy is played'),
    Argument(
        'policy',
        '',
        'what to play instead of run: ONNX file, manifest, or name of a released policy in models/policies/',
    ),
    Argument('task', '', 'task to play it in; default: the one it was trained in'),
    Argument('episodes', '10', 'how many', whole(1), 'a whole number from 1'),
    _SEED,
    Argument(
        'mode',
        'lockstep',
        'lockstep: as fast as the machine allows; realtime: on the wall clock',
        choices=('lockstep', 'realtime'),
    ),
    _RENDER,
    Argument(
        'output',
        '',
        'folder for bags, video and result.json; default: <run>/evaluation/<time> '
        '(the video is <run>/evaluation.mp4), or runs/<task>-evaluation-<time>',
    ),
)


def sim_train(
    task: str,
    preset: str,
    logdir: str,
    simulators: int,
    seed: int,
    steps: int | None,
    device: str,
    learners: int,
    mode: str,
    evaluate_every: int,
    episodes: int,
    render: str,
    overrides: Sequence[str],
) -> Scenario:
    task, name, preset = _resume(logdir, task, preset)
    config = load_preset(preset, overrides)
    check_learners(config, learners)
    repeat = config.action_repeat_for(name)
    Schedule.make(config.schedule, steps or config.schedule.steps, repeat)  # refuses a budget that teaches nothing
    folder = Path(logdir).expanduser().absolute() if logdir else new_logdir(name, Path(preset).stem)
    check_run(folder, None, config)  # the trainer does so too, but by then the first episode is recorded
    robots = [f'sim{n}' for n in range(simulators)]
    processes = []
    for n, robot in enumerate(robots):
        processes += _robot(
            robot,
            task,
            _senses(config.env),
            repeat,
            render,
            mode,
            collector_seed(seed, n),
            wait_for_learner=mode == 'lockstep',
            agent={'mode': 'train', 'evaluate_every': evaluate_every},
            episodes_folder=folder / 'episodes',
        )
    trainer = {
        'logdir': str(folder),
        'preset': preset,
        'overrides': list(overrides),
        'robots': robots,
        'steps': steps or config.schedule.steps,
        'free_running': mode != 'lockstep',
        'device': device,
        'learners': learners,
        'seed': seed,
    }
    processes.append(Process('trainer', '/', without_empty(trainer), leads=True, patience=SAVING))
    then = None
    if episodes:
        then = (
            'sim_eval',
            {'run': str(folder), 'task': task, 'episodes': str(episodes), 'seed': str(seed), 'render': render},
        )
    return Scenario('sim_train', tuple(processes), folder, then)


def sim_eval(
    run: str, policy: str, task: str, episodes: int, seed: int, mode: str, render: str, output: str
) -> Scenario:
    if bool(run) == bool(policy):
        raise InputError('sim_eval: expected either run:=<run directory> or policy:=<ONNX file>')
    path = latest_policy(Path(run).expanduser()).absolute() if run else policy_file(policy)
    spec = _policy_spec(path)
    task = task or spec.name
    name = _task_name(task)
    within = Path(run).expanduser().absolute() if run and not output else None
    if within:
        # A folder each: bags and result of two evaluations do not mix.
        folder = new_evaluation(within)
    else:
        folder = Path(output).expanduser().absolute() if output else new_logdir(name, 'evaluation')
    processes = _robot(
        'sim0',
        task,
        _senses_of(spec),
        spec.action_repeat,
        render,
        mode,
        evaluation_seed(seed),
        wait_for_learner=False,
        agent={'mode': 'evaluate', 'policy': str(path)},
        episodes_folder=folder,
        episodes=episodes,
    )
    evaluator = {'episodes': episodes, 'output': str(folder), 'video': str((within or folder) / 'evaluation.mp4')}
    processes.append(
        Process(
            'evaluator', '/sim0', evaluator, environment=ONE_THREAD, leads=True, patience=(10.0, 'writing its result')
        )
    )
    return Scenario('sim_eval', tuple(processes), folder, run=within)


def _senses(env: EnvConfig) -> dict:
    """The simulator's parameters that say what the agent perceives."""
    return without_empty({'inputs': env.inputs, 'image_size': list(env.image_size), 'cameras': list(env.cameras)})


def _senses_of(spec: RobotSpec) -> dict:
    """The same for a policy that was made for this robot."""
    if not spec.cameras:
        return {'inputs': 'vector'}
    cameras = () if spec.cameras == ('camera',) else spec.cameras
    return _senses(EnvConfig('both' if spec.vector else 'image', spec.image_size, cameras))


def _robot(
    namespace: str,
    task: str,
    senses: dict,
    action_repeat: int,
    render: str,
    mode: str,
    seed: int,
    wait_for_learner: bool,
    agent: dict,
    episodes_folder: Path,
    episodes: int = 0,
) -> list:
    """Simulator, agent and recorder of one namespace; with `episodes`, only so many whole ones are kept."""
    simulator = {
        'task': task,
        **senses,
        'action_repeat': action_repeat,
        'seed': seed,
        'render': render,
        'mode': 'realtime' if mode == 'realtime' else 'lockstep',
        'wait_for_learner': wait_for_learner,
        'wait_for_subscribers': 3,  # agent, recorder, and trainer or evaluator: none misses the first step
    }
    recorder = {'folder': str(episodes_folder), 'robot': namespace}
    if episodes:
        recorder['episodes'] = episodes
    # One clock for the whole graph: that of sim0.
    clock = () if namespace == 'sim0' else (('/clock', 'clock'),)
    return [
        Process('simulator', f'/{namespace}', simulator, clock, ONE_THREAD),
        Process('agent', f'/{namespace}', {**agent, 'seed': seed}, (('policy', '/policy'),), ONE_THREAD),
        Process(
            'recorder', f'/{namespace}', recorder, environment=ONE_THREAD, patience=(10.0, 'closing the open episode')
        ),
    ]


def _resume(logdir: str, task: str, preset: str) -> tuple[str, str, str]:
    """Task, its name, and preset of the run: those of an existing run directory unless they were given."""
    saved = _saved_task(Path(logdir).expanduser()) if logdir else None
    task = task or saved or 'cartpole_swingup'
    name = _task_name(task)
    if saved and saved != name:
        raise InputError(f'logdir:={logdir}: holds a run of {saved}, not of {name}')
    saved_config = Path(logdir).expanduser() / 'config.yaml' if logdir else None
    if not preset and saved_config and saved_config.exists():
        preset = str(saved_config)
    return task, name, preset or 'cpu'


def _saved_task(run: Path) -> str | None:
    path = run / 'spec.json'
    return RobotSpec.from_json(read_text(path), str(path)).name if path.exists() else None


def _task_name(task: str) -> str:
    try:
        from dreamer_ros.simulation import task_name

        return task_name(task)
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


def _policy_spec(path: Path) -> RobotSpec:
    from dreamer_ros.policy.runner import PolicyRunner

    return PolicyRunner(path).spec
