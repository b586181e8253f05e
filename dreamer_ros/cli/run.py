"""`dreamer plot`, `dream`, `evolve` and `temperature`: what is in a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.cli.command import command
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options, Word
from dreamer_ros.schema import Positive

Run = Annotated[str, Word('RUN', positional=True), Field(description='Run directory.')]
Generations = Annotated[int, Field(default=100, ge=1, description='Generations of CMA-ES.')]


class Plot(Options):
    """Options of `dreamer plot`."""

    runs: Annotated[tuple[str, ...], Word('RUN', positional=True)] = Field(description='Run directories.')
    compare: str = Field('', description='PNG file to draw the evaluations of all runs into.')


@command('dreamer plot runs/cartpole_swingup-cpu-20260131-120000')
def plot(options: Plot) -> None:
    """Draw the learning curve of each run again, or those of all into one file."""
    from dreamer_ros.training.plots import plot_comparison, plot_run

    runs = [Path(run) for run in options.runs]
    for run in runs:
        if not (run / 'metrics.jsonl').exists():
            raise InputError(f'run directory {run}: expected metrics.jsonl in it, found none')
    if options.compare:
        print(plot_comparison(runs, Path(options.compare)))
        return
    for run in runs:
        print(plot_run(run))


class Dream(Options):
    """Options of `dreamer dream`."""

    checkpoint: Annotated[str, Word('RUN', positional=True)] = Field(
        description='Run directory, or one of its checkpoints.'
    )
    bag: Annotated[str, Word('EPISODE')] = Field(description='Bag with an episode of the same robot.')
    context: shared.Context
    output: str = Field('', description='Folder for the files. Default: dreams/<name of the bag>.')
    publish: bool = Field(False, description='Play the film on the ROS topic dream, too.')


@command('dreamer dream runs/cartpole_swingup-cpu-20260131-120000 --bag EPISODE')
def dream(options: Dream) -> int | None:
    """Have a trained agent watch an episode and predict it: film, curves and numbers."""
    _prepare_torch()
    from dreamer_ros.training.inspection import dream_bag, inspection_film

    bag = Path(options.bag)
    folder = Path(options.output) if options.output else Path('dreams') / bag.resolve().name
    inspection, paths = dream_bag(options.checkpoint, bag, options.context, folder)
    print('\n'.join(str(path) for path in paths))
    if not options.publish:
        return 0
    if inspection.film is None:
        raise InputError(f'--publish: expected a robot with a camera, that of {bag} has none')
    from dreamer_ros.nodes.dream_player import play

    return play(inspection_film(inspection), 1.0 / inspection.period)


class Evolve(Options):
    """Options of `dreamer evolve`."""

    run: Run
    place: Annotated[Literal['dream', 'simulator'], Word(flags=('--in',))] = Field(
        'dream', description='Where candidates are scored.'
    )
    temperature: Positive | None = Field(None, description="Temperature of the dreams. Default: the run's.")
    generations: Generations
    seed: shared.Seed


@command('dreamer evolve runs/cartpole_swingup-world_models_cpu-20260131-120000 --in dream --temperature 1.15')
def evolve(options: Evolve) -> None:
    """Evolve a new controller for a World Models run into the run's policies."""
    _prepare_torch()
    from dreamer_ros.training.controllers import evolve

    print(evolve(Path(options.run), options.place, options.temperature, options.generations, options.seed))


class Temperature(Options):
    """Options of `dreamer temperature`."""

    run: Run
    values: tuple[Positive, ...] = Field((0.1, 0.5, 1.0, 1.15, 1.3), description='Temperatures to compare.')
    episodes: int = Field(10, ge=1, description='Episodes of each score.')
    generations: Generations
    seed: shared.Seed


@command('dreamer temperature runs/cartpole_swingup-world_models_cpu-20260131-120000 --values 0.1 1.0 1.3')
def temperature(options: Temperature) -> None:
    """Evolve controllers in dreams of several temperatures, and compare their scores in dream and simulator."""
    _prepare_torch()
    from dreamer_ros.training.controllers import compare_temperatures

    paths = compare_temperatures(Path(options.run), options.values, options.generations, options.episodes, options.seed)
    print('\n'.join(map(str, paths)))


def _prepare_torch() -> None:
    """Tune this process and import torch, on all cores. Call it before anything that imports torch."""
    from dreamer_ros.training import process

    process.prepare()
    process.configure_torch(process.pick_threads(robots=0))
