"""Processes that end in every way a node can, and a scenario of them, for test_supervisor.py.

`python -m tests.children NAME=BEHAVIOUR …` supervises one child per word, the first one leading.
`python -m tests.children … -p do:="BEHAVIOUR" …` is such a child.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dreamer_ros import launcher
from dreamer_ros.errors import run_main
from dreamer_ros.launching import supervisor
from dreamer_ros.launching.processes import Process, Scenario


@dataclasses.dataclass(frozen=True)
class Child(Process):
    """A process of this file instead of a node."""

    @property
    def module(self) -> str:
        return 'tests.children'


def behave(behaviour: str) -> None:
    """Do what the word says; `forever` ends in good order when asked to, `finish:FILE` once there is the file, and
    `starting` has not come to its handlers."""
    launcher.end_with_launcher()
    what, _, detail = behaviour.partition(':')
    if what == 'starting':
        print('pid', os.getpid(), flush=True)
        time.sleep(600)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN if what == 'stubborn' else lambda n, _: stopped.append(n))
    print('pid', os.getpid(), flush=True)
    if what == 'finish':
        while detail and not Path(detail).exists():
            time.sleep(0.01)
        return
    if what == 'exit':
        print('error: the disk is full', file=sys.stderr)
        print('goodbye')
        sys.exit(int(detail))
    if what == 'crash' or (what == 'crash_once' and not Path(detail).exists()):
        if detail:
            Path(detail).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == 'terminal':
        print('terminal', sys.stderr.isatty(), os.get_terminal_size(sys.stderr.fileno()).columns)
        return
    if what == 'parent':
        print('pid', subprocess.Popen(['sleep', '600']).pid, flush=True)
    while not stopped:
        time.sleep(0.01)
    if what == 'slow':
        time.sleep(float(detail))
    print('saved after', signal.Signals(stopped[0]).name)


def supervise(words) -> int:
    """Run the scenario that the command line describes."""
    supervisor.REPORT_EVERY = 0.5
    children, then = [], None
    for word in words:
        name, _, behaviour = word.partition('=')
        if name == 'then':
            then = 'sim_eval', {'run': behaviour}
        else:
            # Enough for a busy machine where the child means to end, little where it does not.
            patience = 1.0 if behaviour == 'stubborn' else 20.0
            children.append(Child(name, '/', {'do': behaviour}, leads=not children, patience=(patience, 'saving')))
    return supervisor.launch(Scenario('test', tuple(children), Path('results'), then))


if __name__ == '__main__':
    if '--ros-args' in sys.argv:
        [argument] = [word for word in sys.argv if word.startswith('do:=')]
        behave(argument[len('do:=') :].strip('"'))
    else:
        sys.exit(run_main(lambda: supervise(sys.argv[1:])))
