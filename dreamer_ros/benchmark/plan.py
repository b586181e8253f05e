"""What a benchmark is to run, from the command line and from YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.benchmark.results import BASELINES, Protocol
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options
from dreamer_ros.schema import Count, Name, Positive, check, load_yaml


class BenchmarkOptions(Options):
    """Options of a benchmark, on the command line or in a YAML file."""

    systems: tuple[Name, ...] = Field(
        (), description='Presets (see `dreamer presets`, or YAML files) and the baselines random, still and sac_pixels.'
    )
    tasks: tuple[Name, ...] = Field((), description='Tasks to learn (see `dreamer tasks`).')
    task_set: Literal['visual'] | None = Field(None, description='visual: the 20 visual control tasks.')
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), description='Random seeds of the runs.')
    steps: Count | None = Field(None, description='Env steps of each run.')
    minutes: Positive | None = Field(None, description='Minutes of training after which a run ends even so.')
    evaluations: Count = Field(20, description='Points of each learning curve.')
    curve_episodes: Count = Field(5, description='Deterministic episodes of each point.')
    episodes: Count = Field(10, description='Deterministic episodes of the final score.')
    ros: bool = Field(False, description='Train with `dreamer launch sim_train` instead of in one process.')
    jobs: Count = Field(1, description='Runs side by side, which share the cores.')
    simulators: shared.Simulators
    output: str = Field(
        '', description='Folder that results.json, runs, table and plots go to. An existing one is continued.'
    )


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
        """Make a plan of a YAML file, whose keys are options of `dreamer benchmark`, and of options, which override it.

        Raises:
            InputError: an unknown key, a value that does not fit, or something missing.
        """
        from dreamer_ros.simulation import VISUAL_TASKS  # MuJoCo, which a help text does not need

        where = str(file) if file else 'benchmark'
        data = {**_mapping(load_yaml(file, where), where), **given} if file else given
        options = check(BenchmarkOptions, data, where)
        tasks = [*options.tasks, *(VISUAL_TASKS if options.task_set else ())]
        dashes = '' if file else '--'
        missing = [f'{dashes}{key}' for key in ('systems', 'steps', 'output') if not getattr(options, key)]
        missing += [] if tasks else ['tasks or task_set' if file else '--tasks or --task-set']
        if missing:
            why = '' if options.output else '; output is the folder that results, runs, table and plots go to'
            raise InputError(f'{where}: expected {", ".join(missing)}, got none{why}')
        if options.ros and (options.jobs > 1 or options.minutes or set(options.systems) & set(BASELINES)):
            raise InputError(
                f'{where}: ros: expected no baselines, no minutes and one job at a time, since every '
                'run is a `dreamer launch sim_train`'
            )
        protocol = Protocol(
            options.steps, options.minutes, options.evaluations, options.curve_episodes, options.episodes, options.ros
        )
        return cls(
            options.systems, tasks, options.seeds, protocol, Path(options.output), options.jobs, options.simulators
        )


def _mapping(data: object, where: str) -> dict:
    """The content of a plan file; an empty file is an empty plan."""
    if data is not None and not isinstance(data, dict):
        raise InputError(f'{where}: expected a mapping of names to values, got {data!r}')
    return data or {}
