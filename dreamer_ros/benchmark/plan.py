"""What a benchmark is to run, from the command line and from YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from dreamer_ros.benchmark.results import Protocol
from dreamer_ros.benchmark.systems import BASELINES
from dreamer_ros.errors import InputError
from dreamer_ros.schema import load_yaml
from dreamer_ros.simulation import VISUAL_TASKS

TASK_SETS = {'visual': VISUAL_TASKS}
DEFAULTS = {
    'seeds': [0],
    'evaluations': 20,
    'curve_episodes': 5,
    'episodes': 10,
    'ros': False,
    'jobs': 1,
    'simulators': 1,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole benchmark.

    Attributes:
        systems: presets by name or file, and BASELINES.
        tasks, seeds: each system is trained on each task with each seed.
        protocol: of every run.
        output: folder of the results; an existing one is continued.
        jobs: runs side by side; they share the cores.
        simulators: that collect for one learner.
    """

    systems: Sequence[str]
    tasks: Sequence[str]
    seeds: Sequence[int]
    protocol: Protocol
    output: Path
    jobs: int
    simulators: int

    @classmethod
    def make(cls, file: Path | None, given: dict[str, object]) -> Plan:
        """From a YAML file with the options of `dreamer benchmark` as keys, and from options, which go first.

        Raises:
            InputError: an unknown key, a value that does not fit, or something missing.
        """
        values = {**DEFAULTS, **(_read(file) if file else {}), **given}
        where = f'{file}: ' if file else 'benchmark: '
        for key, value in values.items():
            fits, expected = OPTIONS[key]
            if not fits(value):
                raise InputError(f'{where}{key}: expected {expected}, got {value!r}')
        tasks = [*values.get('tasks', ()), *TASK_SETS.get(values.get('task_set'), ())]
        dashes = '' if file else '--'
        missing = [f'{dashes}{key}' for key in ('systems', 'steps', 'output') if key not in values]
        missing += [] if tasks else ['tasks or task_set' if file else '--tasks or --task-set']
        if missing:
            why = '; output is the folder that results, runs, table and plots go to' if 'output' not in values else ''
            raise InputError(f'{where}expected {", ".join(missing)}, got none{why}')
        baselines = set(values['systems']) & set(BASELINES)
        if values['ros'] and (values['jobs'] > 1 or 'minutes' in values or baselines):
            raise InputError(
                f'{where}ros: expected no baselines, no minutes and one job at a time, since every '
                'run is a `dreamer launch sim_train`'
            )
        protocol = Protocol(
            values['steps'],
            values.get('minutes'),
            values['evaluations'],
            values['curve_episodes'],
            values['episodes'],
            values['ros'],
        )
        return cls(
            values['systems'],
            tasks,
            values['seeds'],
            protocol,
            Path(values['output']),
            values['jobs'],
            values['simulators'],
        )


def _read(file: Path) -> dict:
    data = load_yaml(file, str(file))
    unknown = [str(key) for key in data if key not in OPTIONS] if isinstance(data, dict) else [repr(data)]
    if unknown:
        raise InputError(f'{file}: expected the keys {", ".join(OPTIONS)}, got {", ".join(unknown)}')
    return data


def _whole(low: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


# key -> check of a value, and what it accepts for the error message
OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {
    'systems': (_list_of(_text), 'a list of presets and baselines'),
    'tasks': (_list_of(_text), 'a list of tasks'),
    'task_set': (lambda value: value in TASK_SETS, f'one of {", ".join(TASK_SETS)}'),
    'seeds': (_list_of(_whole(0)), 'a list of whole numbers from 0'),
    'steps': (_whole(1), 'a whole number from 1'),
    'minutes': (lambda value: isinstance(value, (int, float)) and value > 0, 'a number above 0'),
    'evaluations': (_whole(1), 'a whole number from 1'),
    'curve_episodes': (_whole(1), 'a whole number from 1'),
    'episodes': (_whole(1), 'a whole number from 1'),
    'ros': (lambda value: isinstance(value, bool), 'true or false'),
    'jobs': (_whole(1), 'a whole number from 1'),
    'simulators': (_whole(1), 'a whole number from 1'),
    'output': (_text, 'a folder'),
}
