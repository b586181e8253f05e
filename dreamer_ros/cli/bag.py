"""`dreamer bag …`: look into episode bags."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.cli import bag_exchange, looking
from dreamer_ros.cli.options import command


def add(commands) -> None:
    bag = commands.add_parser(
        'bag',
        help='look into episode bags, import, export and recover them',
        epilog='example: dreamer bag info runs/cartpole_swingup-cpu-20260131-120000',
    )
    bag_commands = bag.add_subparsers(metavar='COMMAND', required=True)
    looking.add(bag_commands)
    bag_exchange.add(bag_commands)
    keep = command(
        bag_commands,
        'keep',
        _bag_keep,
        'mark bags that must stay in replay when the oldest leave',
        'dreamer bag keep runs/cartpole_swingup-cpu-20260131-120000/episodes/EPISODE',
    )
    keep.add_argument('paths', metavar='BAG', nargs='+', help='directory of a bag, or an MCAP file')
    keep.add_argument('--undo', action='store_true', help='take the marks away')


def _bag_keep(arguments) -> int:
    from dreamer_ros.replay.dataset import keep_bag

    for path in arguments.paths:
        keep_bag(Path(path), not arguments.undo)
    return 0
