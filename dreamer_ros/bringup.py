"""What runs in each scenario: processes, parameters, remappings, and what their endings mean.

`dreamer launch` (processes.py) and `ros2 launch` (ros_launch.py) both start what is described here, so that
they cannot differ. Nothing here imports rclpy, torch or launch.
"""
from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import enum
import shlex
import time
from pathlib import Path
from typing import Callable, Deque, Dict, Mapping, Optional, Sequence, Tuple

import yaml

from dreamer_ros.config import EnvConfig, load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.process import check_learners
from dreamer_ros.training.run import default_logdir, latest_policy, new_evaluation
from dreamer_ros.training.schedule import Schedule

RESTARTS_PER_MINUTE = 3

# A process that computes little must not spin up a thread pool beside the learner, which tunes itself.
ONE_THREAD = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}


@dataclasses.dataclass(frozen=True)
class Argument:
    """One `name:=value` of a scenario.

    Attributes:
        default: text, as a user would type it.
        parse: text -> value; raises ValueError.
        expected: what `parse` accepts, for the error message.
        choices: the only values allowed, if any.
    """

    name: str
    default: str
    help: str
    parse: Callable[[str], object] = str
    expected: str = 'text'
    choices: Tuple[str, ...] = ()

    def value(self, text: str):
        """Parse and check one value, raising InputError that names the argument."""
        if self.choices and text not in self.choices:
            raise InputError(f'{self.name}:={text}: expected one of {", ".join(self.choices)}')
        try:
            return self.parse(text)
        except ValueError:
            raise InputError(f'{self.name}:={text}: expected {self.expected}') from None


@dataclasses.dataclass(frozen=True)
class Process:
    """One node in a process of its own.

    Attributes:
        executable: `ros2 run dreamer_ros <executable>` and `python -m dreamer_ros.nodes.<executable>`.
        namespace: '/sim0', or '/' for the root.
        parameters: ROS parameters; values are bool, int, float, str or non-empty lists of one of them.
        remappings: (from, to) pairs.
        environment: variables set unless the user's environment has them already.
        leads: the scenario is over when this process exits with 0; it owns the terminal.
        patience: seconds it may take to end when asked to, and what it does in that time.
    """

    executable: str
    namespace: str
    parameters: Mapping[str, object]
    remappings: Tuple[Tuple[str, str], ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    leads: bool = False
    patience: Tuple[float, str] = (5.0, 'shutting down')

    @property
    def name(self) -> str:
        """Node name."""
        return self.executable

    @property
    def label(self) -> str:
        """For people: 'simulator of sim0', 'trainer'."""
        robot = self.namespace.strip('/')
        return f'{self.executable} of {robot}' if robot else self.executable

    @property
    def module(self) -> str:
        """Python module whose `main` runs the node."""
        return f'dreamer_ros.nodes.{self.executable}'

    def ros_arguments(self) -> Tuple[str, ...]:
        """Command-line arguments that give the node its name, namespace, remappings and parameters."""
        arguments = ['--ros-args', '-r', f'__node:={self.name}', '-r', f'__ns:={self.namespace}']
        for source, target in self.remappings:
            arguments += ['-r', f'{source}:={target}']
        for name, value in self.parameters.items():
            arguments += ['-p', f'{name}:={_yaml(value)}']
        return tuple(arguments)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Processes that start together.

    Attributes:
        folder: where the results go.
        then: name and arguments of the scenario that follows when the leading process exits with 0.
        run: the run directory that `folder` is a part of; None if it is none.
    """

    name: str
    processes: Tuple[Process, ...]
    folder: Path
    then: Optional[Tuple[str, Dict[str, str]]] = None
    run: Optional[Path] = None

    def results(self) -> str:
        """Where everything is by now, and what to look at first, for people."""
        root = self.run or self.folder
        paths = [root / name for name in ('curve.png', 'evaluation.mp4', 'dream.mp4')]
        paths += [self.folder / 'result.json']
        with contextlib.suppress(InputError):
            paths.append(latest_policy(root))
        names = [str(path.relative_to(root)) for path in paths if path.exists()]
        return f'{root}: {", ".join(names)}' if names else str(root)


class Verdict(enum.Enum):
    """What the exit of one process means for the scenario."""

    FINISHED = 'finished'
    RESTART = 'restart'
    FAILED = 'failed'


class ExitRules:
    """Decides over exits while a scenario runs (not while it is being stopped).

    A process killed by a signal crashed: every node resumes from what it saved, so it is restarted, at most
    RESTARTS_PER_MINUTE times a minute. Any other ending but that of the leading process with 0 takes the
    scenario down: a node that ended by itself has said why, and starting it again would repeat it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._crashes: Dict[int, Deque[float]] = {}

    def decide(self, process: Process, returncode: int) -> Tuple[Verdict, str]:
        """Verdict and one sentence about it. `returncode` is -N after signal N, as in subprocess."""
        if returncode == 0:
            if process.leads:
                return Verdict.FINISHED, f'{process.label} has finished'
            return Verdict.FAILED, f'{process.label} ended before the run did'
        if returncode > 0:
            return Verdict.FAILED, f'{process.label} exited with code {returncode}'
        now = self._clock()
        # By identity: a process holds dicts, which cannot be hashed.
        crashes = self._crashes.setdefault(id(process), collections.deque())
        while crashes and now - crashes[0] > 60.0:
            crashes.popleft()
        if len(crashes) >= RESTARTS_PER_MINUTE:
            return Verdict.FAILED, (
                f'{process.label} was killed by signal {-returncode}, for the {len(crashes) + 1}th time in a '
                'minute')
        crashes.append(now)
        return Verdict.RESTART, f'{process.label} was killed by signal {-returncode}: starting it again'


def scenario_names() -> Tuple[str, ...]:
    """Names that `scenario` accepts."""
    return tuple(_SCENARIOS)


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
    if name not in _SCENARIOS:
        raise InputError(f'unknown scenario {name!r}; expected one of {", ".join(_SCENARIOS)}')
    return _SCENARIOS[name]


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError(text)
        return value
    return parse


def _optional(parse: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: parse(text) if text else None


_SEED = Argument('seed', '0', 'random seed; two runs of one seed see the same initial states', _whole(0),
                 'a whole number from 0')
_RENDER = Argument('render', 'fast', 'fast: no shadows; shadows: small shadow maps; suite: as dm_control',
                   choices=('fast', 'shadows', 'suite'))

_SIM_TRAIN_ARGUMENTS = (
    Argument('task', '', 'what to learn: a dm_control task, a world of sim/ (`dreamer tasks`) or the path of a task file; default: '
             'that of an existing logdir, else cartpole_swingup'),
    Argument('preset', '', 'how to learn: a preset of models/ or a path to a YAML file (`dreamer presets`); '
             'default: what an existing logdir began with, else cpu'),
    Argument('logdir', '', 'run directory; an existing one is resumed; default: runs/<task>-<preset>-<time>'),
    Argument('simulators', '1', 'simulators that feed the trainer, each in its namespace /sim<n>', _whole(1),
             'a whole number from 1'),
    _SEED,
    Argument('steps', '', 'env steps to collect; default: what the preset says', _optional(_whole(1)),
             'a whole number from 1'),
    Argument('device', 'auto', 'where the learner computes; auto: the GPU if there is one',
             choices=('auto', 'cpu', 'cuda')),
    Argument('learners', '1', 'processes that share every update, each with a GPU of its own or, on a CPU, a part of '
             'its cores', _whole(1), 'a whole number from 1'),
    Argument('mode', 'lockstep', 'lockstep: simulators wait for agent and learner, which keeps the replay '
             'ratio exactly; free: they wait for the agent alone; realtime: they step on the wall clock, as '
             'robots do',
             choices=('lockstep', 'free', 'realtime')),
    Argument('evaluate_every', '10', 'every n-th episode is played deterministically and gives the learning '
             'curve; 0: none', _whole(0), 'a whole number from 0'),
    Argument('episodes', '10', 'episodes of the evaluation that ends the run; 0: none', _whole(0),
             'a whole number from 0'),
    _RENDER,
    Argument('overrides', '', 'changes to the preset, separated by spaces: "schedule.batch=8 rssm.deter=64"',
             shlex.split, 'section.key=value words separated by spaces'),
)

_SIM_EVAL_ARGUMENTS = (
    Argument('run', '', 'run directory whose latest policy is played'),
    Argument('policy', '', 'ONNX file to play, instead of run'),
    Argument('task', '', 'task to play it in; default: the one it was trained in'),
    Argument('episodes', '10', 'how many', _whole(1), 'a whole number from 1'),
    _SEED,
    Argument('mode', 'lockstep', 'lockstep: as fast as the machine allows; realtime: on the wall clock',
             choices=('lockstep', 'realtime')),
    _RENDER,
    Argument('output', '', 'folder for bags, video and result.json; default: <run>/evaluation/<time> '
             '(the video is <run>/evaluation.mp4), or runs/<task>-evaluation-<time>'),
)


def _sim_train(task: str, preset: str, logdir: str, simulators: int, seed: int, steps: Optional[int],
               device: str, learners: int, mode: str, evaluate_every: int, episodes: int, render: str,
               overrides: Sequence[str]) -> Scenario:
    task, name, preset = _resume(logdir, task, preset)
    config = load_preset(preset, overrides)
    check_learners(config, learners)
    repeat = config.action_repeat_for(name)
    Schedule.make(config.schedule, steps or config.schedule.steps, repeat)  # refuses a budget that teaches nothing
    folder = Path(logdir) if logdir else default_logdir(name, Path(preset).stem)
    folder = folder.expanduser().absolute()
    robots = [f'sim{n}' for n in range(simulators)]
    processes = []
    for n, robot in enumerate(robots):
        processes += _robot(
            robot, task, _senses(config.env), repeat, render, mode,
            # far apart, so that simulator 1 of seed 0 is not simulator 0 of seed 1
            seed + 1000 * n, wait_for_learner=mode == 'lockstep',
            agent={'mode': 'train', 'evaluate_every': evaluate_every}, episodes_folder=folder / 'episodes')
    trainer = {
        'logdir': str(folder), 'preset': preset, 'overrides': list(overrides), 'robots': robots,
        'steps': steps or config.schedule.steps, 'free_running': mode != 'lockstep', 'device': device,
        'learners': learners, 'seed': seed,
    }
    processes.append(Process(
        'trainer', '/', _without_empty(trainer), leads=True, patience=(120.0, 'saving its checkpoint')))
    then = None
    if episodes:
        then = 'sim_eval', {
            'run': str(folder), 'task': task, 'episodes': str(episodes), 'seed': str(seed), 'render': render}
    return Scenario('sim_train', tuple(processes), folder, then)


def _sim_eval(run: str, policy: str, task: str, episodes: int, seed: int, mode: str, render: str,
              output: str) -> Scenario:
    if bool(run) == bool(policy):
        raise InputError('sim_eval: expected either run:=<run directory> or policy:=<ONNX file>')
    path = latest_policy(Path(run).expanduser()) if run else Path(policy)
    path = path.expanduser().absolute()
    spec = _policy_spec(path)
    task = task or spec.name
    name = _task_name(task)
    within = Path(run).expanduser().absolute() if run and not output else None
    if within:
        # A folder each: bags and result of two evaluations do not mix.
        folder = new_evaluation(within)
    else:
        folder = Path(output) if output else default_logdir(name, 'evaluation')
    folder = folder.expanduser().absolute()
    processes = _robot(
        # initial states that no simulator of the training run with this seed has seen
        'sim0', task, _senses_of(spec), spec.action_repeat, render, mode, seed + 1_000_000,
        wait_for_learner=False, agent={'mode': 'evaluate', 'policy': str(path)}, episodes_folder=folder,
        episodes=episodes)
    evaluator = {
        'episodes': episodes, 'output': str(folder), 'video': str((within or folder) / 'evaluation.mp4')}
    processes.append(Process(
        'evaluator', '/sim0', evaluator, environment=ONE_THREAD, leads=True,
        patience=(10.0, 'writing its result')))
    return Scenario('sim_eval', tuple(processes), folder, run=within)


def _senses(env: EnvConfig) -> dict:
    """The simulator's parameters that say what the agent perceives."""
    return _without_empty({
        'inputs': env.inputs, 'image_size': list(env.image_size), 'cameras': list(env.cameras)})


def _senses_of(spec: RobotSpec) -> dict:
    """The same for a policy that was made for this robot."""
    if not spec.cameras:
        return {'inputs': 'vector'}
    cameras = () if spec.cameras == ('camera',) else spec.cameras
    return _senses(EnvConfig('both' if spec.vector else 'image', spec.image_size, cameras))


def _robot(namespace: str, task: str, senses: dict, action_repeat: int, render: str, mode: str, seed: int,
           wait_for_learner: bool, agent: dict, episodes_folder: Path, episodes: int = 0) -> list:
    """Simulator, agent and recorder of one namespace; with `episodes`, only so many whole ones are kept."""
    simulator = {
        'task': task, **senses, 'action_repeat': action_repeat, 'seed': seed,
        'render': render, 'mode': 'realtime' if mode == 'realtime' else 'lockstep',
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
        Process('recorder', f'/{namespace}', recorder, environment=ONE_THREAD,
                patience=(10.0, 'closing the open episode')),
    ]


_SCENARIOS = {
    'sim_train': (_SIM_TRAIN_ARGUMENTS, _sim_train),
    'sim_eval': (_SIM_EVAL_ARGUMENTS, _sim_eval),
}


def _resume(logdir: str, task: str, preset: str) -> Tuple[str, str, str]:
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


def _saved_task(run: Path) -> Optional[str]:
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


def missing_package(error: ModuleNotFoundError) -> Exception:
    """An InputError that names what to install; `error` itself if one of our own modules is missing."""
    package = (error.name or '').split('.')[0]
    if package == 'dreamer_ros':
        return error
    extras = {'rclpy': 'ros', **dict.fromkeys(('mujoco', 'dm_control', 'OpenGL'), 'sim')}
    extra = extras.get(package, 'train')
    return InputError(f"{package} is not installed, which this needs: pip install 'dreamer_ros[{extra}]'")


def _without_empty(parameters: dict) -> dict:
    """ROS parameters cannot be empty lists: leave them to their defaults."""
    return {name: value for name, value in parameters.items() if value != []}


def _yaml(value) -> str:
    """One-line YAML of a parameter value; text is always quoted, so that '1e3' or 'on' stay text."""
    texts = all(isinstance(item, str) for item in (value if isinstance(value, list) else [value]))
    line = yaml.safe_dump(value, default_flow_style=True, default_style='"' if texts else None,
                          width=float('inf'), allow_unicode=True)
    return line.replace('\n...', '').strip()
