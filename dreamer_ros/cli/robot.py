"""`dreamer robot …`: check a robot's contract against the running robot, and write one from it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dreamer_ros import options as shared
from dreamer_ros.cli.command import Group, command
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options, Word

Seconds = Annotated[float, Field(ge=0.1, le=3600.0, description='How long to listen, in seconds.')]
SimTime = Annotated[
    bool, Field(description='The robot is simulated: its time is that of /clock, as for an agent with use_sim_time.')
]


class Check(Options):
    """Options of `dreamer robot check`."""

    robot: Annotated[shared.RequiredContract, Word('CONTRACT', positional=True)]
    namespace: shared.Namespace
    seconds: Seconds = 3.0
    use_sim_time: SimTime = False
    as_json: Annotated[bool, Word(flags=('--json',))] = Field(False, description='Print the findings as JSON.')


@command('dreamer robot check my_robot.yaml')
def check(options: Check) -> int:
    """Compare what is on the wire with a contract, and name the line to change. It only listens.

    It exits with 0 only if the robot would move.
    """
    from dreamer_ros.deploy.robot_check import check_robot
    from dreamer_ros.deploy.survey import Survey
    from dreamer_ros.launching.processes import robot_namespace
    from dreamer_ros.robot.contract import load_contract

    contract = load_contract(options.robot)
    with Survey(robot_namespace(options.namespace, contract), options.use_sim_time) as survey:
        findings = check_robot(contract, survey, options.seconds)
    if options.as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for level, key, text, line in findings:
            print(f'{contract.source}:{line}: {level}: {f"{key}: " if key else ""}{text}')
        counts = Counter(finding.level for finding in findings)
        verdict = 'would not move' if counts['error'] else 'would move'
        print(f'the robot {verdict}: {counts["error"]} errors, {counts["warning"]} warnings')
    return int(any(finding.level == 'error' for finding in findings))


class New(Options):
    """Options of `dreamer robot new`."""

    name: Annotated[str, Word('NAME', positional=True), Field(min_length=1, description='Name of the robot.')]
    output: Annotated[str, Word('FILE')] = Field('', description='File to write. Default: NAME.yaml.')
    topic: Annotated[str, Word('TOPIC')] = Field(
        '', description='Topic that the policy commands. Default: the likeliest; the others are listed.'
    )
    seconds: Seconds = 3.0
    use_sim_time: SimTime = False


@command('dreamer robot new my_robot')
def new(options: New) -> None:
    """Write the contract of the running robot, with comments on what is found and on what a person must decide."""
    from dreamer_ros.deploy.survey import Survey, look_around
    from dreamer_ros.files import write_file
    from dreamer_ros.robot.drafting import draft

    path = Path(options.output or f'{options.name}.yaml')
    if path.exists():
        raise InputError(f'{path}: expected a new file, but it exists')
    with Survey(sim_time=options.use_sim_time) as survey:
        around = look_around(survey, options.seconds, options.topic)
    write_file(path, draft(options.name, around, options.topic))
    print(f'{path}: written; now `dreamer robot check {path}`, and read what a person must decide')


robot = Group(
    (check, new),
    'Check the contract of a robot against the running robot, or write one.',
    'dreamer robot check my_robot.yaml',
)
