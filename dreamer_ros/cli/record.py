"""`dreamer record`: robots into episode bags."""

from __future__ import annotations

from dreamer_ros.cli.options import command


def add(commands) -> None:
    record = command(
        commands,
        'record',
        _record,
        'record robots into bags, an episode each',
        'dreamer record robot:=my_robot.yaml namespace:=/ folder:=recordings',
    )
    record.add_argument(
        'assignments',
        nargs='*',
        metavar='name:=value',
        help='arguments of the scenario record: dreamer launch record --show-args',
    )


def _record(arguments) -> int:
    from dreamer_ros.launching import parse_assignments, scenario
    from dreamer_ros.launching.supervisor import launch

    return launch(scenario('record', parse_assignments(arguments.assignments)))
