"""What scenarios are made of: processes, what their exits mean, and what follows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from dreamer_ros import launcher, run_key
from dreamer_ros.errors import InputError, missing_package
from dreamer_ros.files import user_path
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.training.run_directory import latest_policy
from dreamer_ros.wire.topics import NAMES

# A process that computes little must not spin up a thread pool beside the learner, which tunes itself.
ONE_THREAD = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
RESTARTS_PER_MINUTE = 3
MOST_LOCAL = 28  # processes; on one computer alone, Fast DDS looks for 32

_NAMESPACE = re.compile(f'/|/{NAMES}')


def check_namespace(namespace: str) -> None:
    """Check a namespace as ROS does.

    Raises:
        InputError: it is not valid, such as a robot's name with a blank.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise InputError(
            'namespace: expected names of letters, digits and underscores, separated by /, none of which begins with '
            f'a digit, got {namespace!r}; set another one with namespace:=…'
        )


@dataclasses.dataclass(frozen=True)
class Process:
    """One node in a process of its own.

    Attributes:
        executable: `ros2 run dreamer_ros <executable>` and `python -m dreamer_ros.nodes.<executable>`.
        namespace: '/sim0', or '/' for the root.
        parameters: ROS parameters. None and empty lists are dropped, so that the node's defaults hold.
        remappings: (from, to) pairs.
        environment: variables that are set unless the user's environment has them.
        leads: the scenario is over when this process exits with 0; it owns the terminal.
        patience: seconds it may take to end when asked to, and what it does in that time.
        node: name of the node; '' for that of the executable.
        restarts: whether it is started again after a crash; false for what moves a robot when it starts.
        lifecycle: whether the node is one with a lifecycle.
    """

    executable: str
    namespace: str
    parameters: Mapping[str, object]
    remappings: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=ONE_THREAD.copy)
    leads: bool = False
    patience: tuple[float, str] = (5.0, 'shutting down')
    node: str = ''
    restarts: bool = True
    lifecycle: bool = False

    def __post_init__(self):
        """Check the namespace, and drop parameters without a value, which ROS cannot express."""
        check_namespace(self.namespace)
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in self.parameters.items()}
        values = {name: value for name, value in values.items() if value is not None and value != []}
        object.__setattr__(self, 'parameters', values)

    def within(self, namespace: str) -> Process:
        """The same process with its namespace, and the topics that it shares, in another one."""
        place = namespace.rstrip('/')
        remappings = [(source, f'{place}{name}' if name.startswith('/') else name) for source, name in self.remappings]
        return dataclasses.replace(
            self, namespace=f'{place}{self.namespace}'.rstrip('/') or '/', remappings=tuple(remappings)
        )

    @property
    def name(self) -> str:
        """Node name."""
        return self.node or self.executable

    @property
    def label(self) -> str:
        """For people: 'simulator of sim0', 'trainer'."""
        robot = self.namespace.strip('/')
        return f'{self.executable} of {robot}' if robot else self.executable

    @property
    def module(self) -> str:
        """Python module whose `main` runs the node."""
        return f'dreamer_ros.nodes.{self.executable}'

    def ros_arguments(self) -> tuple[str, ...]:
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
    processes: tuple[Process, ...]
    folder: Path
    then: tuple[str, dict[str, str]] | None = None
    run: Path | None = None

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
    """Decides what an exit means while a scenario runs, for both launchers.

    The scenario is finished when its leading process exits with 0. A process that a signal killed has crashed. It is
    restarted and resumes from what it saved, at most RESTARTS_PER_MINUTE times a minute, unless that would move a
    robot. Every other exit ends the scenario: the node has said why it ended, and would end again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._crashes: dict[int, collections.deque[float]] = {}

    def decide(self, process: Process, returncode: int) -> tuple[Verdict, str]:
        """Verdict and one sentence about it. `returncode` is -N after signal N, as in subprocess."""
        if returncode == 0:
            if process.leads:
                return Verdict.FINISHED, f'{process.label} has finished'
            return Verdict.FAILED, f'{process.label} ended before the run did'
        if returncode > 0:
            return Verdict.FAILED, f'{process.label} exited with code {returncode}'
        if not process.restarts:
            return Verdict.FAILED, f'{process.label} was killed by signal {-returncode}'
        now = self._clock()
        # By identity: a process holds dicts, which cannot be hashed.
        crashes = self._crashes.setdefault(id(process), collections.deque())
        while crashes and now - crashes[0] > 60.0:
            crashes.popleft()
        if len(crashes) >= RESTARTS_PER_MINUTE:
            return Verdict.FAILED, (
                f'{process.label} was killed by signal {-returncode}, for the {len(crashes) + 1}th time in a minute'
            )
        crashes.append(now)
        return Verdict.RESTART, f'{process.label} was killed by signal {-returncode}: starting it again'


# Processes of several scenarios


def learner(executable: str, parameters: Mapping[str, object]) -> Process:
    """The process that learns. It leads its scenario, tunes its own threads, and may take long to end."""
    patience = 120.0, 'saving its checkpoint, then drawing its curve and films'
    return Process(executable, '/', parameters, environment={}, leads=True, patience=patience)


def recorder(namespace: str, folder: Path, leads: bool = False, **parameters: object) -> Process:
    """The process that records a robot into a folder of bags."""
    parameters = {'folder': str(folder), **parameters}
    return Process('recorder', namespace, parameters, leads=leads, patience=(30.0, 'finishing the open bag'))


def simulated_robot(
    name: str,
    simulator: Mapping[str, object],
    agent: Mapping[str, object],
    seed: int,
    folder: Path,
    episodes: int | None = None,
) -> tuple[Process, Process, Process]:
    """Simulator, agent and recorder of a robot.

    Args:
        name: of the robot, and its namespace.
        simulator, agent: parameters of these nodes.
        folder: for the bags.
        episodes: how many whole episodes to keep; None keeps everything.
    """
    place = f'/{name}'
    # Agent, recorder, and trainer or evaluator: none of them misses the first step.
    simulator = {**simulator, 'seed': seed, 'wait_for_subscribers': 3}
    # One clock for the whole graph: that of sim0.
    clock = () if name == 'sim0' else (('/clock', 'clock'),)
    return (
        Process('simulator', place, simulator, clock),
        Process('agent', place, {**agent, 'seed': seed}, (('policy', '/policy'),)),
        recorder(place, folder, robot=name, episodes=episodes),
    )


# Contracts and tasks


def load_named_contract(robot: str) -> tuple[RobotContract, str]:
    """Load a contract from a file, or that of a robot of sim/ or robots/ by its name.

    Returns:
        The contract, and the name or absolute path by which other processes find it.

    Raises:
        InputError: it does not exist or is not valid.
    """
    file = user_path(robot)
    return load_contract(robot), str(file.absolute()) if file.suffix else robot


def robot_namespace(namespace: str, contract: RobotContract) -> str:
    """Namespace of a robot's topics, by default that of its name.

    Raises:
        InputError: it is not valid.
    """
    place = '/' + (namespace or contract.name).strip('/')
    check_namespace(place)
    return place


@contextlib.contextmanager
def needing_simulation() -> Iterator[None]:
    """Raise InputError instead of ModuleNotFoundError where the packages of the simulation are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


def given_key_file(option: str) -> Path | None:
    """The file of the key that a person names, by an option or in the environment.

    Raises:
        InputError: it holds no key, or the two differ.
    """
    path, elsewhere = user_path(option).absolute() if option else None, os.environ.get(run_key.VARIABLE)
    if elsewhere:
        other = user_path(elsewhere).absolute()
        if path and path != other:
            raise InputError(f'key:={option}: expected the same key as in {run_key.VARIABLE}, {elsewhere}')
        path = other
    if path:
        run_key.RunKey(path)
    return path


def with_variables(processes: Iterable[Process], variables: Mapping[str, str]) -> tuple[Process, ...]:
    """The processes with further variables in their environment."""
    return tuple(
        dataclasses.replace(process, environment={**process.environment, **variables}) for process in processes
    )


def keep_local(processes: Sequence[Process], discovery: str) -> tuple[Process, ...]:
    """The processes of a simulation, kept to this computer as the option `discovery` says."""
    if discovery == 'auto':
        few = len(processes) <= MOST_LOCAL
        variables = launcher.local_discovery(os.environ) if few else {launcher.DISCOVERY: 'SUBNET'}
    else:
        variables = {launcher.DISCOVERY: discovery.upper()}
    return with_variables(processes, variables)


# For both launchers


def child_environment(process: Process, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child: the user's variables go before those of the process."""
    return {'PYTHONUNBUFFERED': '1', **process.environment, **environment, launcher.VARIABLE: launcher.new_launch()}


def telling_line(lines: Iterable[str]) -> str:
    """': ' and the line that best explains why a process ended: the last with 'error', else the last."""
    written = [line.strip() for line in lines if line.strip()]
    errors = [line for line in written if 'error' in line.lower()]
    return f': {(errors or written)[-1]}' if written else ''


def _yaml(value) -> str:
    """One-line YAML of a parameter value; text is always quoted, so that '1e3' or 'on' stay text."""
    texts = all(isinstance(item, str) for item in (value if isinstance(value, list) else [value]))
    line = yaml.safe_dump(
        value, default_flow_style=True, default_style='"' if texts else None, width=float('inf'), allow_unicode=True
    )
    return line.replace('\n...', '').strip()
