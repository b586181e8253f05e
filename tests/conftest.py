"""Fixtures for every test: ROS domains of their own, printed seeds, and no process left behind."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import sys
import tempfile
import uuid
import zlib
from pathlib import Path

# Tests compute with small tensors: a second thread would mostly spin, and starve what runs beside it.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np  # noqa: E402 - reads the environment
import pytest  # noqa: E402

DOMAINS = range(100, 231)
_USED = set()  # by this session
# Every process that a test starts inherits this variable, wherever it ends up in the process tree.
MARK = 'DREAMER_ROS_TEST_SESSION'


def pytest_configure(config):
    config.dreamer_seed = int(os.environ.get('DREAMER_TEST_SEED') or random.SystemRandom().randrange(1 << 31))
    os.environ['DREAMER_TEST_SEED'] = str(config.dreamer_seed)  # the same in every worker
    if not _is_worker(config):
        os.environ[MARK] = uuid.uuid4().hex  # its workers inherit it


def pytest_collection_modifyitems(items):
    """What is promised in fractions of a second can fail on a machine that stalls.

    Tests that say so by `races_clock` get two more chances, and the summary names them. All others get none.
    """
    for item in items:
        for mark in item.iter_markers('races_clock'):
            if len(mark.args) != 1:
                raise pytest.UsageError(f'{item.nodeid}: races_clock: expected what of it races the clock')
            item.add_marker(pytest.mark.flaky(reruns=2))


def _is_worker(config):
    return hasattr(config, 'workerinput')


def pytest_report_header(config):
    return f'seed: {config.dreamer_seed} (DREAMER_TEST_SEED={config.dreamer_seed} repeats it)'


@pytest.hookimpl(trylast=True)  # once the workers are gone
def pytest_sessionfinish(session):
    if _is_worker(session.config):
        return
    left = list(_marked_processes())
    for pid, command in left:
        print(f'\nerror: a test left process {pid} running: {command}')
        os.kill(pid, signal.SIGKILL)
    if left:
        session.exitstatus = 1


def _marked_processes():
    """(pid, command line) of the processes started by this session, itself left out."""
    mark = f'{MARK}={os.environ[MARK]}'.encode()
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            running = mark in (folder / 'environ').read_bytes().split(b'\0')
            command = (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if running and int(folder.name) != os.getpid():
            yield int(folder.name), command


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker has all files with tests that race the clock, one after the other, and begins with them: the others
    compute meanwhile, and play with nodes at the end. (`--dist loadgroup` would do, but waits for ever when a worker
    crashes.)"""
    from xdist.scheduler import LoadScopeScheduling

    racing = {path.name for path in Path(__file__).parent.glob('nodes/test_*.py') if 'races_clock' in path.read_text()}

    class RacesInOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition('::')[0]
            return 'races' if path.rpartition('/')[2] in racing else path

    return RacesInOneWorker(config, log)


@pytest.fixture(autouse=True)
def one_thread():
    """A learner of this process leaves threads, by which the next test's model would compute."""
    yield
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    if 'dreamer_ros.nets.lanes' in sys.modules:
        sys.modules['dreamer_ros.nets.lanes'].close_lanes()


@pytest.fixture
def seed(request) -> int:
    """A number of this test's own, the same again with the session's printed seed."""
    value = (request.config.dreamer_seed + zlib.crc32(request.node.nodeid.encode())) % (1 << 31)
    print(f'seed {value}')
    return value


@pytest.fixture
def rng(seed) -> np.random.Generator:
    """Random numbers from `seed`."""
    return np.random.default_rng(seed)


@pytest.fixture
def ros_domain(monkeypatch) -> int:
    """A ROS_DOMAIN_ID that no other test uses now, of this run of the suite or of another one."""
    folder = Path(tempfile.gettempdir(), 'dreamer_ros_test_domains')
    folder.mkdir(exist_ok=True, mode=0o777)
    start = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[start:], *DOMAINS[:start]]:
        if domain in _USED:  # a failed test's nodes may still be there
            continue
        with open(folder / str(domain), 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _discovery_port_free(domain):
                _USED.add(domain)
                monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
                yield domain
                return
    pytest.fail('every ROS domain for tests is in use')


def _discovery_port_free(domain: int) -> bool:
    """DDS listens on a fixed port per domain; a stranger's socket there would keep nodes from meeting."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', 7400 + 250 * domain))
        except OSError:
            return False
    return True
