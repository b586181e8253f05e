"""The `dreamer` command.

Only the module of the command that runs is imported, so that `dreamer --help` is instant. Commands import what they
need when they run, so that those that need neither torch nor mujoco work on a robot without them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence

from dreamer_ros.errors import InputError, hint, missing_package, run_main

# name: (module, summary)
COMMANDS = {
    'train': ('train', 'train a robot in simulation, or from bags alone'),
    'launch': ('launch', 'start all processes of a scenario, as `ros2 launch` would'),
    'eval': ('launch', 'play a policy in simulation and print its mean return'),
    'record': ('launch', 'record robots into bags, an episode each'),
    'replay': ('launch', 'play a bag on ROS topics with a policy in shadow, simulate it again, or dream it'),
    'call': ('launch', 'call a service of a running node, as `ros2 service call` would'),
    'keys': ('launch', "say by keys how a robot's episodes end, stop it and let it go on"),
    'robot': ('robot', 'check the contract of a robot against the running robot, or write one'),
    'plot': ('run', 'draw learning curves again'),
    'dream': ('run', 'have a trained agent watch an episode and predict it'),
    'evolve': ('run', 'evolve a new controller for a World Models run'),
    'temperature': ('run', 'compare controllers that evolved in dreams of several temperatures'),
    'benchmark': ('benchmark', 'train systems on tasks and compare their scores'),
    'bag': ('bag', 'look into episode bags, import, export and recover them'),
    'view': ('bag', 'open a bag in Rerun'),
    'policy': ('policy', 'check, sign and shrink policies'),
    'reward': ('reward', 'a reward from the camera: label images, train a classifier, check it'),
    'reference': ('reference', 'print everything that can be set, as Markdown'),
    'tasks': ('train', 'list the tasks that can be simulated'),
    'presets': ('train', 'list the presets'),
}


def entry_point() -> int:
    """Console script."""
    interrupts = []

    def interrupt(number: int, _) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        code = run_main(main)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `dreamer bag info RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException:
        if interrupts:  # a library that was being imported may have made another error of it
            return 130
        raise


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; `words` without the program's name. Returns the exit code, raises InputError."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _run(words)
    except ModuleNotFoundError as error:
        raise missing_package(error) from error


def _run(words: list[str]) -> int:
    assignments: dict[str, str] = {}
    if words[:1] != ['launch']:  # `name:=value` means the same as `--name value`
        pairs = [re.fullmatch(r'(\w+):=(.*)', word, re.DOTALL) for word in words]
        assignments = {pair[1]: pair[2] for pair in pairs if pair}
        words = [word for word, pair in zip(words, pairs) if not pair]
    if words and words[0] not in COMMANDS and not words[0].startswith('-'):
        raise InputError(f'dreamer: unknown command {words[0]!r}; {hint(words[0], COMMANDS)}')
    known, rest = make_parser(words).parse_known_args(words)
    given = vars(known)
    command, where = given.pop('command'), given.pop('where')
    command.check_rest(where, rest)
    try:
        return command.run(command.options.from_texts({**assignments, **given}, where)) or 0
    except InputError as error:
        raise error if assignments else InputError(command.as_typed(str(error))) from error


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of the one that the words begin with."""
    parser = argparse.ArgumentParser(
        prog='dreamer',
        description='Robots learn control from their camera by dreaming, over ROS 2.',
        epilog='example: dreamer train walker_walk',
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary)
        if words[:1] == [name]:
            command = getattr(importlib.import_module(f'dreamer_ros.cli.{module}'), name)
            command.describe(sub) if hasattr(command, 'run') else command.describe(sub, words[1:])
    return parser
