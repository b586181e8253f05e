"""`dreamer launch`, `eval`, `record`, `replay` and `call`: scenarios of processes, and services of running ones."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dreamer_ros import launching
from dreamer_ros.cli.command import command
from dreamer_ros.errors import InputError
from dreamer_ros.launching.record import Record
from dreamer_ros.launching.replay import Replay
from dreamer_ros.launching.sim_eval import SimEval
from dreamer_ros.launching.supervisor import launch as supervise
from dreamer_ros.options import Options, Word, as_text
from dreamer_ros.schema import describe


class Launch(Options):
    """Options of `dreamer launch`."""

    scenario: Annotated[str, Word('SCENARIO', positional=True)] = Field(
        '', description=f'One of {", ".join(launching.SCENARIOS)}. Without one, all are listed with their arguments.'
    )
    assignments: Annotated[tuple[str, ...], Word('name:=value', positional=True)] = Field(
        (), description='Arguments of the scenario.'
    )
    show_args: Annotated[bool, Word(flags=('-s', '--show-args'))] = Field(
        False, description='List the arguments of the scenario.'
    )


@command('dreamer launch sim_train task:=walker_walk preset:=cpu simulators:=2')
def launch(options: Launch) -> int:
    """Start all processes of a scenario, as `ros2 launch` would."""
    if not options.scenario or options.show_args:
        names = [options.scenario] if options.scenario else launching.SCENARIOS
        print('\n\n'.join(map(_arguments, names)))
        return 0
    return supervise(launching.scenario(options.scenario, launching.parse_assignments(options.assignments)))


def _arguments(scenario: str) -> str:
    """A scenario's arguments, as `ros2 launch --show-args` would list them."""
    options = launching.scenario_options(scenario)
    lines = [f'{scenario}:', f'  {options.__doc__}']
    for row in describe(options):
        allowed = '|'.join(map(str, row.choices)) or row.allowed or ('true|false' if row.kind is bool else '')
        lines.append(f'  {row.key}:={as_text(row.default) or "…"}' + (f' [{allowed}]' if allowed else ''))
        lines.append(f'      {row.help}')
    return '\n'.join(lines)


class Eval(SimEval):
    """Options of `dreamer eval`."""

    run: Annotated[str, Word('RUN', positional=True)] = Field(
        '', description='Run directory whose latest policy is played.'
    )


@command('dreamer eval runs/cartpole_swingup-cpu-20260131-120000 --episodes 20')
def eval(options: Eval) -> int:
    """Play a policy in simulation and print its mean return, as `dreamer launch sim_eval` does."""
    return supervise(launching.sim_eval.sim_eval(options))


@command('dreamer record --robot my_robot.yaml --namespace / --folder recordings')
def record(options: Record) -> int:
    """Record robots into bags, an episode each, as `dreamer launch record` does."""
    return supervise(launching.record.record(options))


class ReplayCommand(Replay):
    """Options of `dreamer replay`."""

    bag: Annotated[str, Word('BAG', positional=True)] = Field(description='Directory of a bag.')
    simulate: bool = Field(False, description='The same as --mode simulate.')
    dream: bool = Field(False, description='The same as --mode dream.')


@command('dreamer replay EPISODE --rate 2 --run runs/cartpole_swingup-cpu-20260131-120000')
def replay(options: ReplayCommand) -> int:
    """Replay a recorded episode, as `dreamer launch replay` does."""
    modes = {name for name in ('simulate', 'dream') if getattr(options, name)}
    modes |= {options.mode} if 'mode' in options.model_fields_set else set()
    if len(modes) > 1:
        raise InputError(f'dreamer replay: expected one mode, got {" and ".join(sorted(modes))}')
    mode = modes.pop() if modes else 'play'
    return supervise(launching.replay.replay(options.model_copy(update={'mode': mode})))


class Call(Options):
    """Options of `dreamer call`."""

    service: Annotated[str, Word('SERVICE', positional=True)] = Field(description='Full name of the service.')
    value: Annotated[str | None, Word('VALUE', positional=True)] = Field(
        None, description='What to ask for: true or false, or one of configure, activate, deactivate and cleanup.'
    )


@command('dreamer call /rover/agent/enable true')
def call(options: Call) -> None:
    """Call a service of a running node, as `ros2 service call` would."""
    from dreamer_ros.ros.service_call import call

    print(call(options.service, options.value))


class Keys(Options):
    """Options of `dreamer keys`."""

    agent: Annotated[str, Word('AGENT', positional=True)] = Field(description='Full name of the robot agent.')


@command('dreamer keys /rover/agent')
def keys(options: Keys) -> None:
    """Say by single keys whether an episode was a success or a failure, stop the robot and let it go on."""
    from dreamer_ros.cli.terminal import keys
    from dreamer_ros.ros.keyboard import press

    press(options.agent, keys(), print)
