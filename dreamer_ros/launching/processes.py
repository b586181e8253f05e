"""What scenarios are made of: processes, what their exits mean, and what follows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import yaml

from dreamer_ros import launcher
from dreamer_ros.errors import InputError
from dreamer_ros.training.run_directory import latest_policy
from dreamer_ros.wire.topics import NAMES

# A process that computes little must not spin up a thread pool beside the learner, which tunes itself.
ONE_THREAD = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
# How long a trainer may take to end, in seconds, and with what.
SAVING = (120.0, 'saving its checkpoint, then drawing its curve and films')

RESTARTS_PER_MINUTE = 3

_NAMESPACE = re.compile(f'/|/{NAMES}')


def check_namespace(namespace: str) -> None:
    """Refuse a namespace that ROS would, such as a robot's name with a blank.

    Raises:
        InputError: it is none.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise InputError(
            'namespace: expected names of letters, digits and underscores that begin with no digit, '
            f'separated by /, got {namespace!r}; namespace:=… takes the place of a name'
        )


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
    choices: tuple[str, ...] = ()

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
        node: name of the node; '' for that of the executable.
        restarts: whether it is started again after a crash; false for what moves a robot when it starts.
    """

    executable: str
    namespace: str
    parameters: Mapping[str, object]
    remappings: tuple[tuple[str, str], ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    leads: bool = False
    patience: tuple[float, str] = (5.0, 'shutting down')
    node: str = ''
    restarts: bool = True

    def __post_init__(self):
        """Check the namespace."""
        check_namespace(self.namespace)

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
    """Decides over exits while a scenario runs, for both launchers.

    The scenario is finished when its leading process exits with 0. A process that a signal killed has crashed. Every
    node resumes from what it saved, so it is restarted, at most RESTARTS_PER_MINUTE times a minute, unless that would
    move a robot. Every other exit ends the scenario: a node that ended by itself has said why, and would do so again.
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


def whole(low: int) -> Callable[[str], int]:
    """Parser of a whole number from `low`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError(text)
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Parser of a number from `low` to `high`."""

    def parse(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def optional(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Parser that also takes nothing, as None."""
    return lambda text: parse(text) if text else None


def without_empty(parameters: dict) -> dict:
    """ROS parameters cannot be empty lists: leave them to their defaults."""
    return {name: value for name, value in parameters.items() if value != []}


def _yaml(value) -> str:
    """One-line YAML of a parameter value; text is always quoted, so that '1e3' or 'on' stay text."""
    texts = all(isinstance(item, str) for item in (value if isinstance(value, list) else [value]))
    line = yaml.safe_dump(
        value, default_flow_style=True, default_style='"' if texts else None, width=float('inf'), allow_unicode=True
    )
    return line.replace('\n...', '').strip()


def child_environment(process: Process, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child: the user's, completed by what the process asks for."""
    return {'PYTHONUNBUFFERED': '1', **process.environment, **environment, launcher.VARIABLE: launcher.new_launch()}


def telling_line(lines: Iterable[str]) -> str:
    """': ' and the line of an output that says most about its end: the last with 'error', else the last."""
    written = [line.strip() for line in lines if line.strip()]
    errors = [line for line in written if 'error' in line.lower()]
    return f': {(errors or written)[-1]}' if written else ''
