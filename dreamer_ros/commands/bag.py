"""`dreamer bag …`: look into episode bags."""
from __future__ import annotations

from pathlib import Path

from dreamer_ros.commands.options import command


def add(commands) -> None:
    bag = commands.add_parser('bag', help='look into episode bags',
                              epilog='example: dreamer bag info runs/cartpole_swingup-cpu-20260131-120000')
    bag_commands = bag.add_subparsers(metavar='COMMAND', required=True)
    info = command(bag_commands, 'info', _bag_info, 'list the episodes in a bag or a folder of bags',
                   'dreamer bag info runs/cartpole_swingup-cpu-20260131-120000')
    info.add_argument('path', metavar='PATH', help='a bag, a folder of bags, or a run directory')


def _bag_info(arguments) -> int:
    from dreamer_ros.replay.info import describe, format_table
    print(format_table(describe(Path(arguments.path))))
    return 0
