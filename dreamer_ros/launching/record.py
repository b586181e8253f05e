"""Scenario that records robots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.launching.processes import ONE_THREAD, Argument, Process, Scenario, whole
from dreamer_ros.robot.contract import load_contract

RECORD_ARGUMENTS = (
    Argument(
        'robot',
        '',
        'robot contract, a YAML file or the name of a robot of sim/; several separated by spaces '
        'are recorded at once; default: a simulator that announces itself',
        str.split,
        'contracts',
    ),
    Argument(
        'namespace',
        '',
        "of each robot's topics, / for none; several for one contract are as many robots; default: the robot's name",
        str.split,
        'namespaces',
    ),
    Argument('folder', 'recordings', 'where the bags go'),
    Argument(
        'disk_reserve',
        '1000',
        'MB that must stay free on the disk: with less, open bags are finished and the recording ends',
        whole(0),
        'a whole number from 0',
    ),
)


def record(robot: Sequence[str], namespace: Sequence[str], folder: str, disk_reserve: int) -> Scenario:
    if not robot and not namespace:
        raise InputError('record: expected robot:=<contract>, or namespace:=<namespace of a simulator>')
    names = list(namespace) or [load_contract(source).name for source in robot]
    sources: list[str | None] = list(robot) * len(names) if len(robot) == 1 else list(robot) or [None] * len(names)
    if len(names) != len(sources):
        raise InputError(f'record: expected as many namespaces as robots, got {len(names)} and {len(sources)}')
    places = ['/' + name.strip('/') for name in names]
    if len(set(places)) < len(places):
        raise InputError(f'record: expected a namespace of its own for each robot, got {" ".join(places)}')
    target = Path(folder).expanduser().absolute()
    processes = []
    for source, place in zip(sources, places):
        parameters = {'folder': str(target), 'disk_reserve': disk_reserve}
        if source:
            load_contract(source)  # what is wrong with it is said before anything starts
            file = Path(source).expanduser()
            parameters['contract'] = str(file.absolute()) if file.suffix else source
        processes.append(
            Process(
                'recorder',
                place,
                parameters,
                environment=ONE_THREAD,
                leads=len(places) == 1,
                patience=(30.0, 'finishing the open bag'),
            )
        )
    return Scenario('record', tuple(processes), target)
