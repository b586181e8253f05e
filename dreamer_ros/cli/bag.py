"""`dreamer bag …` and `dreamer view`: episode bags."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dreamer_ros.cli.command import Group, command
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options, Word
from dreamer_ros.schema import Count, Positive

Bag = Annotated[str, Word('BAG', positional=True), Field(description='Directory of a bag.')]
Bags = Annotated[tuple[str, ...], Word('BAG', positional=True), Field(description='Bags, or folders of bags.')]


class Info(Options):
    """Options of `dreamer bag info`."""

    path: Annotated[str, Word('PATH', positional=True)] = Field(
        description='A bag, whose messages are all read. Or a folder of bags or a run directory, where only the notes '
        'of the recorders are read.'
    )
    full: bool = Field(False, description='Read all messages of the bags in a folder, too.')
    json_: Annotated[bool, Word(flags=('--json',))] = Field(False, description='Print JSON, for programs.')


@command('dreamer bag info runs/cartpole_swingup-cpu-20260131-120000')
def info(options: Info) -> None:
    """List the episodes in a bag or a folder of bags."""
    from dreamer_ros.episodes.bag_reader import bags_in
    from dreamer_ros.episodes.inspect import describe, format_table, totals

    path = Path(options.path)
    bags = bags_in(path)
    if options.full or bags == [path]:
        _print_contents(bags, options.json_)
        return
    rows = describe(path)
    if options.json_:
        print(json.dumps({'bags': [row.to_dict() for row in rows], 'folders': totals(rows)}, indent=1))
    else:
        print(format_table(rows))


def _print_contents(bags: Iterable[Path], as_json: bool) -> None:
    from dreamer_ros.episodes.inspect import read_contents

    printed: list[Any] = []
    for bag in bags:
        try:
            contents = read_contents(bag)
            printed.append(contents.to_dict() if as_json else f'{contents.table()}\n')
        except InputError as error:
            printed.append({'bag': str(bag), 'problems': [str(error)]} if as_json else f'{error}\n')
    print(json.dumps(printed, indent=1) if as_json else '\n'.join(printed))


class Picture(Options):
    """Options of `dreamer bag video` and `dreamer bag plot`."""

    bag: Bag
    output: str = Field('', description='File to write. Default: the name of the bag, with .mp4 or .png.')


@command('dreamer bag video EPISODE --output episode.mp4')
def video(options: Picture) -> None:
    """Film a bag, its rewards and actions below the images."""
    from dreamer_ros.viewing.bag_plots import film_bag

    _draw(film_bag, options, '.mp4')


@command('dreamer bag plot EPISODE --output episode.png')
def plot(options: Picture) -> None:
    """Draw rewards, actions and joint states over time."""
    from dreamer_ros.viewing.bag_plots import plot_bag

    _draw(plot_bag, options, '.png')


def _draw(draw: Callable, options: Picture, suffix: str) -> None:
    from dreamer_ros.viewing.look import look

    seen = look(Path(options.bag))
    print(draw(seen, Path(options.output or seen.path.name + suffix)))
    _warn(seen.problems)


class View(Options):
    """Options of `dreamer view`."""

    bag: Bag
    save: str = Field('', description='File (.rrd) to write instead, for `rerun FILE`.')


@command('dreamer view EPISODE --save episode.rrd')
def view(options: View) -> None:
    """Open a bag in Rerun: cameras, actions, rewards and joint states on one time line."""
    from dreamer_ros.viewing.look import look
    from dreamer_ros.viewing.timeline import show

    seen = look(Path(options.bag))
    show(seen, Path(options.save) if options.save else None)
    if options.save:
        print(options.save)
    _warn(seen.problems)


class Import(Options):
    """Options of `dreamer bag import`."""

    sources: Annotated[tuple[str, ...], Word('SOURCE', positional=True)] = Field(
        description='Bag directories or files (MCAP, sqlite3), .npz episodes, LeRobot datasets (v2 and v3), or folders '
        'of them.'
    )
    to: Annotated[str, Word('FOLDER')] = Field(description='Folder that the episode bags go to.')
    robot: Annotated[str, Word('CONTRACT')] = Field(
        '',
        description='Contract of the robot, for bags of its own topics: a YAML file, or a robot of sim/ or robots/. '
        'For a LeRobot dataset it picks cameras and numbers by name, and its limits normalise actions. Without a '
        'contract, the smallest and the largest action of the dataset do.',
    )
    labels: Annotated[str, Word('FILE')] = Field(
        '',
        description='YAML file of episodes (start, end, terminal, rewards), for bags that do not mark them. Episode 12 '
        'of a LeRobot dataset is bag: episode_000012.',
    )
    period: Annotated[Positive | None, Word('SECONDS')] = Field(
        None, description='Time between two steps, for .npz files without it.'
    )
    image_size: Annotated[tuple[Count, Count] | None, Word('HEIGHTxWIDTH')] = Field(
        None, description="Size that images of LeRobot datasets get. Default: theirs, or the contract's."
    )


@command('dreamer bag import drive.db3 --robot my_robot.yaml --labels labels.yaml --to episodes')
def import_(options: Import) -> int:
    """Cut recordings of any origin into episode bags."""
    from dreamer_ros.episodes.bag_reader import bag_name
    from dreamer_ros.episodes.labels import Labels
    from dreamer_ros.formats.importing import find_sources, import_source
    from dreamer_ros.robot.contract import load_contract

    contract = load_contract(options.robot) if options.robot else None
    labels = Labels.load(Path(options.labels)) if options.labels else None
    sources = [source for path in options.sources for source in find_sources(Path(path))]
    bags = 0
    for source in sources:
        result = import_source(source, Path(options.to), contract, labels, options.period, options.image_size)
        bags += len(result.bags)
        print(f'{source}: {len(result.bags)} episodes, {result.steps} steps')
        for problem in result.problems:
            print(f'  {problem}', file=sys.stderr)
    for name in sorted(labels.bags - {bag_name(source) for source in sources}) if labels else ():
        print(f'{options.labels}: no bag called {name} is among the sources', file=sys.stderr)
    print(f'{bags} episode bags are in {options.to}')
    return 0 if bags else 1


class Export(Options):
    """Options of `dreamer bag export`."""

    bags: Bags
    to: Annotated[str, Word('FOLDER')] = Field(description='Folder that the files go to.')
    format: Literal['npz', 'lerobot'] = Field(
        'npz', description='npz: NumPy arrays named as in Gymnasium. lerobot: one LeRobot dataset, v3.0.'
    )


@command('dreamer bag export runs/cartpole_swingup-cpu-20260131-120000/episodes --to arrays')
def export(options: Export) -> None:
    """Write episodes as files of other tools."""
    from dreamer_ros.episodes.bag_reader import bags_in
    from dreamer_ros.formats.exporting import export_arrays

    folder = Path(options.to)
    bags = [bag for path in options.bags for bag in bags_in(Path(path))]
    if options.format == 'lerobot':
        from dreamer_ros.formats.lerobot_writer import export_lerobot

        written = export_lerobot(bags, folder)
    else:
        written = (entry for bag in bags for entry in export_arrays(bag, folder))
    for path, steps, problems in written:
        print(f'{path}: {steps} steps')
        for problem in problems:
            print(f'  {problem}', file=sys.stderr)


class Recover(Options):
    """Options of `dreamer bag recover`."""

    path: Annotated[str, Word('PATH', positional=True)] = Field(
        description='A bag, or a folder whose bags are looked through.'
    )


@command('dreamer bag recover runs/cartpole_swingup-cpu-20260131-120000/episodes')
def recover(options: Recover) -> int:
    """Finish bags that a crash or a full disk left."""
    from dreamer_ros.episodes.recovery import recover_all

    failed = 0
    for path, sentence, sound in recover_all(Path(options.path)):
        failed += not sound
        print(f'{path.name}: {sentence}', file=sys.stdout if sound else sys.stderr)
    return 1 if failed else 0


class Keep(Options):
    """Options of `dreamer bag keep`."""

    paths: Annotated[tuple[str, ...], Word('BAG', positional=True)] = Field(
        description='Directories of bags, or MCAP files.'
    )
    undo: bool = Field(False, description='Take the marks away.')


@command('dreamer bag keep runs/cartpole_swingup-cpu-20260131-120000/episodes/EPISODE')
def keep(options: Keep) -> None:
    """Mark bags that must stay in replay when the oldest leave."""
    from dreamer_ros.replay.dataset import keep_bag

    for path in options.paths:
        keep_bag(Path(path), not options.undo)


def _warn(problems: Iterable[str]) -> None:
    """Print what is missing or wrong in a bag."""
    for problem in problems:
        print(f'warning: {problem}', file=sys.stderr)


bag = Group(
    (info, video, plot, import_, export, recover, keep),
    'Look into episode bags, import, export and recover them.',
    'dreamer bag info runs/cartpole_swingup-cpu-20260131-120000',
)
