"""`dreamer view`: a bag in the Rerun viewer."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.cli.looking import complain
from dreamer_ros.cli.options import command


def add(commands) -> None:
    view = command(
        commands,
        'view',
        _view,
        'open a bag in Rerun: cameras, actions, rewards and joint states on one time line',
        'dreamer view EPISODE --save episode.rrd',
    )
    view.add_argument('bag', metavar='BAG', help='directory of a bag')
    view.add_argument('--save', metavar='FILE', help='write an .rrd file instead, for `rerun FILE`')


def _view(arguments) -> int:
    from dreamer_ros.viewing.look import look
    from dreamer_ros.viewing.timeline import show

    seen = look(Path(arguments.bag))
    show(seen, Path(arguments.save) if arguments.save else None)
    if arguments.save:
        print(arguments.save)
    return complain(seen.problems)
