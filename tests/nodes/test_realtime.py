"""Real-time priority, as far as the system that the tests run on allows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_ros.deploy.realtime import CONTROL, GUARD, PROCESS, WATCHDOG
from tests.nodes.faults import scene

NOBODY = '65534'
TRY = """
import json, os, subprocess, sys, threading
from dreamer_ros.deploy.realtime import PROCESS, CONTROL, has_priority, raise_thread, take_priority
if sys.argv[1:]:
    os.setuid(int(sys.argv[1]))
seen = {'allowed': take_priority(PROCESS)}
def look(name, priority=0):
    if priority:
        raise_thread(priority)
    seen[name] = [has_priority(), os.sched_getparam(0).sched_priority]
for name, priority in (('raised', CONTROL), ('thread', 0)):
    thread = threading.Thread(target=look, args=(name, priority))
    thread.start()
    thread.join()
look('process')
print(json.dumps(seen))
"""


def allowed() -> bool:
    """Whether this user may have what is asked for here."""
    probe = f'import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({GUARD}))'
    return subprocess.run([sys.executable, '-c', probe], stderr=subprocess.DEVNULL).returncode == 0


def tried(*user: str) -> dict:
    return json.loads(subprocess.run([sys.executable, '-c', TRY, *user], stdout=subprocess.PIPE, check=True).stdout)


def test_threads_have_it_and_one_can_have_more():
    if not allowed():
        pytest.skip('this user may not have real-time priority')
    assert tried() == {
        'allowed': True,
        'raised': [True, CONTROL],
        'thread': [True, PROCESS],
        'process': [True, PROCESS],
    }


def test_who_may_not_have_it_goes_on_without():
    if os.geteuid() and allowed():
        pytest.skip('this user may have real-time priority, and cannot become another one')
    seen = tried(*([] if os.geteuid() else [NOBODY]))
    assert seen == {'allowed': False, **dict.fromkeys(('raised', 'thread', 'process'), [False, 0])}


def test_agent_and_guard_take_it(ros_domain, tmp_path):
    """Control loop, watchdog and guard stand above the threads that load policies and serve the middleware."""
    with scene(tmp_path, ros_domain, 10.0) as robot:
        robot.ready()
        tasks = [int(path.name) for path in Path(f'/proc/{robot.agent.pid}/task').iterdir()]
        priorities = [os.sched_getparam(task).sched_priority for task in tasks]
        [guard] = Path(f'/proc/{robot.agent.pid}/task/{robot.agent.pid}/children').read_text().split()
        print(priorities)
        if allowed():
            # Idle pools of numpy, which are older, stay as they are.
            assert priorities[0] == PROCESS and set(priorities) - {0} == {PROCESS, CONTROL, WATCHDOG}
            assert priorities.count(CONTROL) == priorities.count(WATCHDOG) == 1
            assert os.sched_getparam(int(guard)).sched_priority == GUARD
        else:
            assert set(priorities) == {0}
        sentence = 'policy version 1; ' + ('real-time priority' if allowed() else 'no real-time priority')
        assert sentence in robot.log.read_text()
