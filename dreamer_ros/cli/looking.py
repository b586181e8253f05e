"""`dreamer bag info|video|plot`: what is in bags, for people and programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from dreamer_ros.cli.options import command
from dreamer_ros.errors import InputError


def add(bag_commands) -> None:
    info = command(
        bag_commands,
        'info',
        _info,
        'list the episodes in a bag or a folder of bags',
        'dreamer bag info runs/cartpole_swingup-cpu-20260131-120000',
    )
    info.add_argument(
        'path',
        metavar='PATH',
        help='a bag, all of whose messages are read; or a folder of bags or a '
        'run directory, of which only what the recorders noted',
    )
    info.add_argument('--full', action='store_true', help='read all messages of the bags in a folder, too')
    info.add_argument('--json', action='store_true', help='for programs')
    video = command(
        bag_commands,
        'video',
        _video,
        'film a bag, its rewards and actions below the images',
        'dreamer bag video EPISODE --output episode.mp4',
    )
    plot = command(
        bag_commands,
        'plot',
        _plot,
        'draw rewards, actions and joint states over time',
        'dreamer bag plot EPISODE --output episode.png',
    )
    for sub, ending in ((video, 'mp4'), (plot, 'png')):
        sub.add_argument('path', metavar='BAG', help='directory of a bag')
        sub.add_argument('--output', metavar='FILE', help=f'(default: <name of the bag>.{ending})')


def _info(arguments) -> int:
    from dreamer_ros.episodes.inspect import bags_in, describe, format_table, totals

    path = Path(arguments.path)
    bags = bags_in(path)
    if arguments.full or bags == [path]:
        return _print_contents(bags, arguments.json)
    rows = describe(path)
    if arguments.json:
        print(json.dumps({'bags': [row.to_dict() for row in rows], 'folders': totals(rows)}, indent=1))
    else:
        print(format_table(rows))
    return 0


def _print_contents(bags: Iterable[Path], as_json: bool) -> int:
    from dreamer_ros.episodes.inspect import read_contents

    printed = []
    for bag in bags:
        try:
            contents = read_contents(bag)
            printed.append(contents.to_dict() if as_json else f'{contents.table()}\n')
        except InputError as error:
            printed.append({'bag': str(bag), 'problems': [str(error)]} if as_json else f'{error}\n')
    print(json.dumps(printed, indent=1) if as_json else '\n'.join(printed))
    return 0


def _video(arguments) -> int:
    from dreamer_ros.viewing.bag_plots import film_bag
    from dreamer_ros.viewing.look import look

    seen = look(Path(arguments.path))
    print(film_bag(seen, Path(arguments.output or f'{seen.path.name}.mp4')))
    return complain(seen.problems)


def _plot(arguments) -> int:
    from dreamer_ros.viewing.bag_plots import plot_bag
    from dreamer_ros.viewing.look import look

    seen = look(Path(arguments.path))
    print(plot_bag(seen, Path(arguments.output or f'{seen.path.name}.png')))
    return complain(seen.problems)


def complain(problems: Iterable[str]) -> int:
    """Say what of a bag is not there; returns exit code 0."""
    for problem in problems:
        print(f'warning: {problem}', file=sys.stderr)
    return 0
