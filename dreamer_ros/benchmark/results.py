"""The results file of a benchmark: what was run, how it was scored, and the outcome."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.schema import load_json

FILE = 'results.json'
BASELINES = ('random', 'still', 'sac_pixels')  # see systems.py


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How every system of a benchmark is trained and scored.

    Attributes:
        steps: env steps to train for.
        minutes: of training at most; None for no limit.
        evaluations: points of the learning curve, at equal distances in env steps.
        curve_episodes: episodes of each of them.
        episodes: episodes of the final score.
        over_ros: through `dreamer launch sim_train` instead of in one process. A point of the curve is then
            the mean of the deterministic episodes that were played between it and the one before.
    """

    steps: int
    minutes: float | None = None
    evaluations: int = 20
    curve_episodes: int = 5
    episodes: int = 10
    over_ros: bool = False

    def marks(self) -> list[int]:
        """Env steps of the curve's points."""
        return [round(self.steps * k / self.evaluations) for k in range(1, self.evaluations + 1)]

    def out_of_time(self, seconds: float) -> bool:
        """Whether training must end after this time."""
        return self.minutes is not None and seconds >= 60 * self.minutes


@dataclasses.dataclass
class Outcome:
    """What training has come to, so far or at its end.

    Attributes:
        env_steps, updates: made so far.
        seconds: of training; evaluations do not count.
        curve: (env steps, seconds, mean return, episodes) of each evaluation.
        returns: of the final episodes; empty until the end.
    """

    env_steps: int = 0
    updates: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float, int]] = dataclasses.field(default_factory=list)
    returns: list[float] = dataclasses.field(default_factory=list)

    @property
    def points(self) -> list[tuple[int, float]]:
        """The curve as (env steps, mean return)."""
        return [(steps, value) for steps, _, value, _ in self.curve]


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        config_hash: of the resolved preset, or of what stands for it.
        actions: of the scored episodes: `deterministic` (the mode of the policy), `random` or `still`.
        date: when it ended, ISO 8601.
        machine: from `machine()`.
    """

    system: str
    task: str
    seed: int
    config_hash: str
    action_repeat: int
    image_size: tuple[int, int]
    actions: str
    date: str
    machine: dict[str, object]
    outcome: Outcome

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells runs of one benchmark apart."""
        return self.system, self.task, self.seed


class Results:
    """All finished runs of one protocol, in `<folder>/results.json`.

    Args:
        folder: of the benchmark.
        protocol: of a benchmark about to run; None for that of the file.

    Raises:
        InputError: the file is damaged, missing though no protocol is given, or of another protocol.
    """

    def __init__(self, folder: Path, protocol: Protocol | None = None):
        self.path = folder / FILE
        self.runs: list[Run] = []
        if protocol is None or self.path.exists():
            stored = self._read()
            if protocol not in (None, stored):
                pairs = [(key, new, getattr(stored, key)) for key, new in dataclasses.asdict(protocol).items()]
                changed = [f'{key} {new} instead of {old}' for key, new, old in pairs if new != old]
                raise InputError(
                    f'{self.path}: expected the protocol it was begun with, got '
                    f'{", ".join(changed)}; choose another output'
                )
            protocol = stored
        self.protocol = protocol

    def find(self, key: tuple[str, str, int]) -> Run | None:
        """The run of a system, task and seed, if it has finished."""
        return next((run for run in self.runs if run.key == key), None)

    def add(self, run: Run) -> None:
        """Add a finished run and write the file, whole or not at all.

        Raises:
            InputError: the disk refuses; the file is as it was.
        """
        self.runs.append(run)
        self.runs.sort(key=lambda run: run.key)
        runs = [dataclasses.asdict(run) for run in self.runs]
        data = {'protocol': dataclasses.asdict(self.protocol), 'runs': runs}
        try:
            write_file(self.path, json.dumps(data, indent=1) + '\n')
        except OSError as error:
            raise InputError(
                f'{self.path}: expected a file that can be written ({error.strerror}); without '
                f'{run.system} {run.task} seed {run.seed} it is as it was'
            ) from error

    def _read(self) -> Protocol:
        try:
            data = load_json(self.path, str(self.path))
            for run in data['runs']:
                outcome = Outcome(**run.pop('outcome'))
                outcome.curve = [(int(s), float(t), float(value), int(n)) for s, t, value, n in outcome.curve]
                outcome.returns = [float(value) for value in outcome.returns]
                run['image_size'] = tuple(run['image_size'])
                self.runs.append(Run(**run, outcome=outcome))
            return Protocol(**data['protocol'])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f'{self.path}: expected the results of `dreamer benchmark`, got something else '
                f'({type(error).__name__}: {" ".join(str(error).split())})'
            ) from error


def config_hash(config: dict, defaults: dict) -> str:
    """16 hex digits of what differs from the defaults in a configuration of plain values.

    So a key that a later version adds does not change the hash of configurations that do not use it.
    """
    text = json.dumps(_without(config, defaults), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(config: dict, defaults: dict) -> dict:
    different = {}
    for key, value in config.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            value = _without(value, default)
            if value:
                different[key] = value
        elif value != default:
            different[key] = value
    return different


def machine() -> dict[str, object]:
    """The machine that this process has run on, and the versions on which times depend."""
    torch = sys.modules.get('torch')  # the random baseline does without
    return {
        'processor': _processor(),
        'cores': len(os.sched_getaffinity(0)),
        'accelerator': torch.cuda.get_device_name() if torch and torch.cuda.is_available() else 'none',
        'torch': torch.__version__ if torch else 'none',
        'python': platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()
