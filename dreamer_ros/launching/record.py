"""Scenario `record`: record robots into bags."""

from __future__ import annotations

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.launching.processes import Scenario, load_named_contract, recorder
from dreamer_ros.options import Options


class Record(Options):
    """Record robots into bags, an episode each."""

    robot: tuple[str, ...] = Field(
        (),
        description='Robot contracts: YAML files or names of robots of sim/ or robots/. Several are recorded at '
        'once. Default: a simulator that announces itself.',
    )
    namespace: tuple[str, ...] = Field(
        (),
        description="Namespace of each robot's topics, / for none. Several for one contract are as many robots. "
        "Default: the robot's name.",
    )
    folder: str = Field('recordings', description='Folder that the bags go to.')
    raw: shared.Raw
    disk_reserve: shared.DiskReserve


def record(options: Record) -> Scenario:
    """One recorder for each robot."""
    robots, names = options.robot, options.namespace
    if not robots and not names:
        raise InputError('expected robot:=<contract>, or namespace:=<namespace of a simulator>')
    contracts = [load_named_contract(robot) for robot in robots]
    names = names or tuple(contract.name for contract, _ in contracts)
    sources: list[str | None] = [source for _, source in contracts] or [None] * len(names)
    if len(sources) == 1:
        sources *= len(names)
    if len(names) != len(sources):
        raise InputError(f'expected as many namespaces as robots, got {len(names)} and {len(sources)}')
    places = ['/' + name.strip('/') for name in names]
    if len(set(places)) < len(places):
        raise InputError(f'expected a namespace of its own for each robot, got {" ".join(places)}')
    folder = user_path(options.folder).absolute()
    processes = [
        recorder(
            place,
            folder,
            leads=len(places) == 1,
            contract=source,
            raw=options.raw or None,
            disk_reserve=options.disk_reserve,
        )
        for source, place in zip(sources, places)
    ]
    return Scenario('record', tuple(processes), folder)
