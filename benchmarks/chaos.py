"""Faults of every kind at random while a run trains in simulation, a robot is deployed and policies are served.

    python -m benchmarks.chaos [--minutes 5] [--seed N] [--only FAULT …] [--longest 60] [--keep FOLDER]

Three things run side by side: `dreamer launch sim_train` with a tiny preset, the robot agent of tests/nodes/faults.py
with its guard, and a file server. Each fault of the run is undone before the next one, and the run must go on within
RECOVERY. At the end all of it is asked to stop, and what must hold is checked; see `Chaos.verdict`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rclpy
import zstandard
from rclpy.serialization import serialize_message

from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.launching.processes import RESTARTS_PER_MINUTE
from dreamer_ros.ros import qos
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import is_complete, newest_first
from dreamer_ros.training.metrics import FILE, read_metrics
from dreamer_ros.wire import topics
from tests.episodes.fuzz import FILE_DAMAGE
from tests.nodes.faults import CLOCK, CORRUPT, FAULTS, Scene, inject
from tests.nodes.robot import Camera
from tests.nodes.test_trainer import OVERRIDES

RECOVERY = 120.0  # seconds from the end of a fault until new steps are learnt from and a new bag is whole
STOP = 2.0  # seconds from a fault of the robot to its stop, on a machine that learns beside it
ANSWER = 10.0  # seconds in which the file server answers, whatever others do to it
ENDING = 60.0  # seconds in which a run ends when it is asked to
ORPHANED = 30.0  # seconds in which processes end when their launcher was killed
GROWTH = 1.15, 15.0  # memory of a process: at most this factor and MB between the middle and the end of its life
LIVED = 120.0  # seconds that a process must live for its memory to be judged
MARK = 'DREAMER_ROS_CHAOS'  # environment variable of everything that is started here
MESSAGES = 60  # of a stranger
RUN_TOPICS = (topics.IMAGE, topics.JOINT_STATES, topics.STEP, topics.ACTION, topics.SIMULATION)
NODES = ('simulator', 'agent', 'recorder', 'trainer')
WRONG = re.compile(r'Traceback|Segmentation fault|Exception ignored|terminate called')


def processes(mark: str) -> dict[int, str]:
    """Process ids with the mark, and the names of their nodes or programs."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if f'{MARK}={mark}'.encode() in (folder / 'environ').read_bytes().split(b'\0'):
                words = (folder / 'cmdline').read_bytes().split(b'\0')
                module = words[words.index(b'-m') + 1] if b'-m' in words else words[0]
                if words[0]:  # else it has ended, and its parent has not looked yet
                    found[int(folder.name)] = module.decode().rpartition('.')[2]
    return found


def wait_for(condition: Callable[[], object], seconds: float) -> float | None:
    """Seconds until the condition is true; None if it is not in time."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.1)
    return time.monotonic() - began


class Run:
    """`dreamer launch sim_train`, started again in the same directory when it has ended."""

    def __init__(self, folder: Path, domain: int):
        self.path, self.log, self.domain = folder / 'run', folder / 'run.log', domain
        self.crashes: dict[str, list[float]] = defaultdict(list)
        self.start()

    def start(self) -> None:
        self.mark = uuid.uuid4().hex
        self.crashes.clear()
        words = ['task:=cartpole_balance', f'logdir:={self.path}', 'steps:=1000000000', 'episodes:=0']
        with self.log.open('a') as log:
            self.launcher = subprocess.Popen(
                [
                    sys.executable,
                    '-m',
                    'dreamer_ros.cli',
                    'launch',
                    'sim_train',
                    *words,
                    f'overrides:={shlex.join([*OVERRIDES, "schedule.replay_ratio=2"])}',
                ],
                env={**os.environ, MARK: self.mark, 'ROS_DOMAIN_ID': str(self.domain)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def find(self, name: str) -> int | None:
        """Process id of a node."""
        return next((pid for pid, module in processes(self.mark).items() if module == name), None)

    def goes_on(self) -> Callable[[], bool]:
        """A condition: from now on there was a new bag, and a session that learnt from new steps."""
        metrics = self.path / FILE
        size, now = metrics.stat().st_size if metrics.exists() else 0, time.time()

        def condition() -> bool:
            with contextlib.suppress(OSError, ValueError, KeyError):
                lines = [json.loads(line) for line in metrics.read_bytes()[size:].splitlines()[1:-1]]
                learnt = [line['agent_steps'] for line in lines if 'model_loss' in line]
                bag = any(path.stat().st_mtime > now for path in (self.path / 'episodes').glob('[0-9]*/metadata.yaml'))
                return bag and any(later > earlier for earlier, later in zip(learnt, learnt[1:]))
            return False

        return condition

    def kill(self, name: str) -> bool:
        """Kill a node unless its launcher has started it again often enough; whether it was killed."""
        now, pid = time.monotonic(), self.find(name)
        recent = [moment for moment in self.crashes[name] if now - moment < 70.0]
        if pid is None or len(recent) >= RESTARTS_PER_MINUTE - 1:
            return False
        self.crashes[name] = [*recent, now]
        os.kill(pid, signal.SIGKILL)
        return True

    def end(self, number: int, seconds: float) -> float | None:
        """Send the launcher a signal. Seconds until all of its processes had ended; None if not in time."""
        self.launcher.send_signal(number)
        taken = wait_for(lambda: self.launcher.poll() is not None and not processes(self.mark), seconds)
        for pid in processes(self.mark):
            os.kill(pid, signal.SIGKILL)
        self.launcher.kill()
        self.launcher.wait()
        return taken


class Chaos:
    """All that runs, what is done to it, and what came of it.

    Attributes:
        problems: one sentence each.
        times: seconds until everything was well again, by fault; None if it never was.
    """

    def __init__(self, folder: Path, seed: int, longest: float):
        self.folder, self.longest = folder, longest
        self.rng = np.random.default_rng(seed)
        self.problems: list[str] = []
        self.times: dict[str, list[float | None]] = defaultdict(list)
        self.memory: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        self.mark = uuid.uuid4().hex
        os.environ[MARK] = self.mark
        self.over = threading.Event()

    def note(self, fault: str, seconds: float | None, limit: float) -> None:
        """Keep a time, and complain about one that is too long."""
        self.times[fault].append(seconds)
        if seconds is None or seconds > limit:
            self.problem(f'{fault}: expected all to be well within {limit:g} s, got {seconds}')

    def problem(self, sentence: str) -> None:
        self.problems.append(sentence)
        print(f'  PROBLEM {sentence}', flush=True)

    # Faults of the run: each does something, undoes it, and returns what it was in words; None if it was not possible.

    def kill(self) -> str | None:
        name = str(self.rng.choice(NODES))
        return name if self.run.kill(name) else None

    def freeze(self) -> str | None:
        names = self.rng.choice(NODES, int(self.rng.integers(1, 3)), replace=False).tolist()
        events, told = [], []
        for name in names:
            pid, begin, length = self.run.find(name), self.rng.uniform(0, 3), self.rng.uniform(1, self.longest)
            if pid is not None:
                events += [(begin, pid, signal.SIGSTOP), (begin + length, pid, signal.SIGCONT)]
                told.append(f'{name} for {length:.0f} s')
        began = time.monotonic()
        for moment, pid, number in sorted(events):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return ', '.join(told) or None

    def launcher_killed(self) -> str:
        self.note('processes of a killed launcher', self.run.end(signal.SIGKILL, ORPHANED), ORPHANED)
        self.run.start()
        return ''

    def interrupt(self) -> str:
        self.note('Ctrl-C', self.run.end(signal.SIGINT, ENDING), ENDING)
        self.run.start()
        return ''

    def strange_files(self) -> str:
        """What no program wrote into its own folder, and damaged copies of bags."""
        number = len(self.times['strange files'])
        for place in ('episodes', 'policies', 'checkpoints'):
            strew(self.run.path / place, f'{number:04d}')
        episodes = self.run.path / 'episodes'
        whole = sorted(path.parent for path in episodes.glob('[0-9]*/metadata.yaml'))
        for copy in range(5 if whole else 0):
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                damaged = Path(folder, f'damaged-{number}-{copy}')
                shutil.copytree(whole[int(self.rng.integers(len(whole)))], damaged)
                file = sorted(damaged.iterdir())[int(self.rng.integers(2))]
                what = str(self.rng.choice(list(FILE_DAMAGE)))
                file.write_bytes(
                    FILE_DAMAGE[what](bytearray(file.read_bytes()), self.rng) if copy else file.read_bytes()
                )
                damaged.rename(episodes / damaged.name)
        return ''

    def damaged_checkpoint(self) -> str | None:
        """A bit of the newest checkpoint is flipped; the trainer dies, and begins with the one before."""
        folders = newest_first(self.run.path / 'checkpoints')
        whole = [folder for folder in folders if (folder / 'manifest.json').is_file()]
        files = [path for path in whole[0].rglob('*') if path.is_file()] if len(whole) > 1 else []
        if not files or not self.run.kill('trainer'):
            return None
        file = files[int(self.rng.integers(len(files)))]
        with contextlib.suppress(FileNotFoundError):  # it was just replaced by a newer one
            data = bytearray(file.read_bytes())
            data[int(self.rng.integers(len(data)))] ^= 1 << int(self.rng.integers(8))
            file.write_bytes(data)
        return file.name

    def damaged_policy(self) -> str | None:
        files = sorted((self.run.path / 'policies').glob('policy_0*.onnx'))
        for file in [file for file in files if file.is_file()][-2:]:
            data = FILE_DAMAGE['overwritten'](bytearray(file.read_bytes()), self.rng)
            with contextlib.suppress(FileNotFoundError):
                file.write_bytes(data)
        return '' if files else None

    def full_disk(self) -> str | None:
        """Files may not grow any more. The run ends with a sentence, and is continued."""
        name = str(self.rng.choice(['recorder', 'trainer']))
        pid = self.run.find(name)
        if pid is None:
            return None
        size = self.run.log.stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, 1000))
        ended = wait_for(lambda: self.run.launcher.poll() is not None, ENDING)
        told = self.run.log.read_text(errors='replace')[size:]
        if ended is None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            return f'{name}, which went on'
        if f'error: {name}' not in told:
            self.problem(f'full disk: expected a sentence of the {name}, got {told[-300:]!r}')
        self.run.end(signal.SIGINT, ENDING)
        self.run.start()
        return name

    def strangers(self) -> str:
        """Messages that nobody should send, on every topic of the run and of the robot but its command."""
        run, robot = self.run.domain, self.run.domain + 1
        rows = [(run, topic.within('sim0')) for topic in RUN_TOPICS]
        rows += [(robot, topic.within('robot')) for topic in (topics.IMAGE, topics.JOINT_STATES)]
        rows += [(run, topics.PACE.within('')), (run, topics.POLICY.within('')), (run, topics.DIAGNOSTICS)]
        contexts = {domain: rclpy.Context() for domain in (run, robot)}
        nodes = {}
        for domain, context in contexts.items():
            rclpy.init(context=context, domain_id=domain)
            nodes[domain] = rclpy.create_node('stranger', context=context, enable_rosout=False)
        publishers = [(topic, qos.publisher(nodes[domain], topic)) for domain, topic in rows]
        for _ in range(MESSAGES):
            topic, publisher = publishers[int(self.rng.integers(len(publishers)))]
            publisher.publish(self.hostile(qos.message_type(topic)()))
            time.sleep(0.05)
        for domain, context in contexts.items():
            nodes[domain].destroy_node()
            rclpy.shutdown(context=context)
        return ''

    def hostile(self, message) -> bytes:
        """A serialized message with extreme values, far too much in it, or damage."""
        for field, kind in message.get_fields_and_field_types().items():
            if kind == 'string':
                setattr(
                    message, field, str(self.rng.choice(['[' * 10_000, '{"version": 1e999}', 'x' * 3_000_000, '\x7f']))
                )
            elif kind.startswith('sequence<string'):
                setattr(message, field, ['reward'] * int(self.rng.choice([1, 10_000])))
            elif kind.startswith(('sequence<double', 'sequence<float')):
                setattr(
                    message,
                    field,
                    [float(self.rng.choice([np.nan, np.inf, 1e308, 0.0] if 'double' in kind else [np.nan, 0.0]))]
                    * int(self.rng.choice([1, 100_000])),
                )
            elif kind.startswith('sequence<uint8'):
                setattr(message, field, self.rng.bytes(int(self.rng.choice([3, 3_000_000]))))
            elif kind == 'std_msgs/Header':
                message.header.stamp.sec = int(self.rng.choice([-(2**31), 0, 2**31 - 1]))
            elif kind == 'int32':
                setattr(message, field, int(self.rng.choice([-(2**31), -1, 2**31 - 1])))
        data = bytearray(serialize_message(message))
        if self.rng.integers(2):
            data[4:] = FILE_DAMAGE[str(self.rng.choice(['truncated', 'flipped', 'overwritten']))](data[4:], self.rng)
        return bytes(data)

    def slow_clients(self) -> str:
        """Clients that send their requests and take their answers byte by byte."""
        address, clients = ('127.0.0.1', self.port), []
        for request in (
            b'GET /policies/policy_000001.onnx HTTP/1.1\r\nHost: x\r\n',
            b'GET / HTTP',
            b'',
            b'\xff' * 100_000,
        ):
            for _ in range(8):
                with contextlib.suppress(OSError):
                    clients.append(socket.create_connection(address, 5.0))
                    clients[-1].sendall(request)
        began = time.monotonic()
        try:
            name = sorted((self.run.path / 'policies').glob('policy_0*.onnx'))[-1].name
            with urllib.request.urlopen(f'http://127.0.0.1:{self.port}/policies/{name}', timeout=ANSWER) as answer:
                answer.read()
            seconds = time.monotonic() - began
        except OSError as error:
            self.problem(f'HTTP beside slow clients: {error}')
            seconds = None
        self.note('HTTP beside slow clients', seconds, ANSWER)
        for client in clients:
            client.close()
        return ''

    FAULTS = {
        'kill': kill,
        'freeze': freeze,
        'launcher killed': launcher_killed,
        'interrupt': interrupt,
        'strange files': strange_files,
        'damaged checkpoint': damaged_checkpoint,
        'damaged policy': damaged_policy,
        'full disk': full_disk,
        'strangers': strangers,
        'slow clients': slow_clients,
    }

    def hurt_robot(self, robot) -> None:
        """Faults of the deployed robot, one after the other, until it is over."""
        rng = np.random.default_rng(self.rng.integers(2**31))
        kinds = [*FAULTS, CLOCK, CORRUPT, 'clock set back']
        while not self.over.wait(float(rng.uniform(0.5, 3.0))):
            kind = str(rng.choice(kinds))
            try:
                if kind == 'clock set back':
                    robot.camera.tell('clock_back')
                    seconds = wait_for(lambda: robot.ears.moving(0.5), 30.0)
                    self.note('robot: clock set back', seconds, 30.0)
                    robot.camera.close()
                    robot.camera = Camera(robot.rate, clock=True)  # with the right time again
                    continue
                outcome = inject(robot, kind)
                self.note(f'robot: {kind}', None if outcome.periods is None else outcome.periods / robot.rate, STOP)
            except Exception as error:  # noqa: BLE001 - what a scene could not do is a finding, the rest goes on
                self.problem(f'robot: {kind}: {type(error).__name__}: {error}')

    def watch(self) -> None:
        """Keep the memory of every process."""
        while not self.over.wait(2.0):
            for pid, name in {**processes(self.mark), **processes(self.run.mark)}.items():
                with contextlib.suppress(OSError, IndexError):
                    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
                    self.memory[pid, name].append((time.monotonic(), pages * resource.getpagesize() / 1e6))

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """A file server of the run's policies."""
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            self.port = probe.getsockname()[1]
        words = ['--ros-args', '-p', f'policies:={self.run.path / "policies"}', '-p', f'port:={self.port}']
        with (self.folder / 'server.log').open('w') as log:
            server = subprocess.Popen(
                [sys.executable, '-m', 'dreamer_ros.nodes.file_server', *words], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            yield
            server.send_signal(signal.SIGINT)
            self.note('file server ends', wait_for(lambda: server.poll() is not None, ENDING), ENDING)
        finally:
            server.kill()
            server.wait()

    def make(self, minutes: float, only: list[str]) -> None:
        """All of it, for so many minutes."""
        domain = int(os.environ['ROS_DOMAIN_ID'])
        self.run = Run(self.folder, domain)
        # Another domain: a robot of its own, with a clock of its own.
        os.environ['ROS_DOMAIN_ID'] = str(domain + 1)
        robot_folder = self.folder / 'robot'
        robot_folder.mkdir()
        try:
            with contextlib.closing(Scene(robot_folder, domain + 1, 10.0, clock=True)) as robot, self.serving():
                self.note('start', wait_for(self.run.goes_on(), RECOVERY), RECOVERY)
                if None in self.times['start']:
                    raise RuntimeError(f'the run does not start: {self.run.log.read_text()[-500:]}')
                end = time.monotonic() + 60 * minutes
                threads = [threading.Thread(target=self.hurt_robot, args=(robot,), daemon=True)]
                threads += [threading.Thread(target=self.watch, daemon=True)]
                for thread in threads:
                    thread.start()
                while time.monotonic() < end:
                    self.hurt_run(str(self.rng.choice(only)))
                self.over.set()
                for thread in threads:
                    thread.join()
                self.limits(robot)
            self.note('Ctrl-C at the end', self.run.end(signal.SIGINT, ENDING), ENDING)
        finally:
            self.over.set()
            self.run.end(signal.SIGKILL, ORPHANED)

    def hurt_run(self, kind: str) -> None:
        """One fault of the run, and its recovery."""
        told = self.FAULTS[kind](self)
        if told is None:
            time.sleep(1.0)
            return
        goes_on = self.run.goes_on()
        seconds = wait_for(lambda: goes_on() or self.run.launcher.poll() is not None, RECOVERY)
        if self.run.launcher.poll() is not None:
            seconds = None
        print(f'{kind} {told}: {"never" if seconds is None else f"{seconds:.0f} s"}', flush=True)
        self.note(kind, seconds, RECOVERY)
        if self.run.launcher.poll() is not None:
            line = self.run.log.read_text(errors='replace').strip().rpartition('\n')[2]
            self.problem(f'{kind}: expected the run to go on, but it ended: {line}')
        if seconds is None:
            self.run.end(signal.SIGINT, ENDING)
            self.run.start()
            wait_for(self.run.goes_on(), RECOVERY)

    # What must hold

    def limits(self, robot) -> None:
        """Every command of the robot is finite and within the limits of its contract."""
        bounds = [axis.limits for axis in robot.contract.command.axes]
        for command in robot.ears.commands:
            for value, (low, high) in zip((command.forward, command.turn), bounds):
                if not (math.isfinite(value) and low <= value <= high):
                    self.problem(f'command {command}: expected values within {bounds}')
                    return

    def verdict(self) -> None:
        """No process left, no traceback, memory flat, counters that grow, every whole bag learnt from once."""
        for pid, name in processes(self.mark).items():
            if pid != os.getpid():
                self.problem(f'process {pid} ({name}) is left')
                os.kill(pid, signal.SIGKILL)
        for log in sorted(self.folder.rglob('*.log')):
            for line in log.read_text(errors='replace').splitlines():
                if WRONG.search(line):
                    self.problem(f'{log.name}: {line[:200]}')
        for (pid, name), samples in self.memory.items():
            if samples[-1][0] - samples[0][0] >= LIVED:
                middle, last = (
                    statistics.median(size for _, size in part)
                    for part in (samples[len(samples) // 2 :][:10], samples[-10:])
                )
                if last > middle * GROWTH[0] + GROWTH[1]:
                    self.problem(f'memory of {name} ({pid}): {middle:.0f} MB, then {last:.0f} MB')
        lines = read_metrics(self.run.path)
        for key in ('updates', 'time'):  # steps go back: those of an episode that a crash cut off were never stored
            values = [line[key] for line in lines if 'episode' not in line]  # a bag may be found late
            back = [(a, b) for a, b in zip(values, values[1:]) if b < a]
            if back:
                self.problem(f'{FILE}: {key} goes back from {back[0][0]} to {back[0][1]}')
        self.learnt_once()

    def learnt_once(self) -> None:
        """Each episode of each whole bag that the last checkpoint can know is in the replay exactly once."""
        [newest, *_] = [folder for folder in newest_first(self.run.path / 'checkpoints') if is_complete(folder)]
        saved = (newest / 'manifest.json').stat().st_mtime
        state = json.loads((newest / 'trainer.json').read_text())['state']
        store = state['store']['folders']['']
        held = Counter(map(tuple, store['held']))
        spec = RobotSpec.from_json((self.run.path / 'spec.json').read_text(), 'spec.json')
        stamps: Counter[int] = Counter()
        for metadata in sorted((self.run.path / 'episodes').glob('[0-9]*/metadata.yaml')):
            episodes, problems = read_episodes(metadata.parent, spec)
            for number, episode in enumerate(episodes):
                times = held[metadata.parent.name, number]
                stamps[int(episode.stamp[0])] += times
                if times != 1 and not problems and metadata.stat().st_mtime < saved - 10.0:
                    self.problem(f'{metadata.parent.name}: episode {number} was learnt from {times} times')
        for stamp, times in stamps.items():
            if times > 1:
                self.problem(f'the episode that began at {stamp} was learnt from {times} times')


def strew(folder: Path, number: str) -> None:
    """Entries that no reader may open, or that would be too much for one; their names sort among the real ones."""
    for kind in ('.mcap', '.onnx', '.json', ''):
        os.mkfifo(folder / f'9{number}0{kind}')
        (folder / f'9{number}1{kind}').symlink_to(f'9{number}1{kind}')
        (folder / f'9{number}2{kind}').symlink_to('/dev/zero')
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener, contextlib.suppress(OSError):
            listener.bind(str(folder / f'9{number}3{kind}'))
        with contextlib.suppress(OSError):  # only for root
            os.mknod(folder / f'9{number}4{kind}', 0o600 | 0o020000, os.makedev(1, 5))
        (folder / f'9{number}5{kind}').mkdir()
        for name in ('metadata.yaml', 'manifest.json', 'trainer.json'):
            (folder / f'9{number}5{kind}' / name).write_text('[' * 100_000)
        (folder / f'9{number}6{kind}').mkdir()
        for name in ('metadata.yaml', 'manifest.json', 'trainer.json'):
            os.mkfifo(folder / f'9{number}6{kind}' / name)
        with open(folder / f'9{number}7{kind}', 'wb') as sparse:
            sparse.truncate(20 * 2**30)
        (folder / os.fsdecode(f'9{number}8'.encode() + b'\xe9' + kind.encode())).write_bytes(b'')
    (folder / f'9{number}9.mcap.zstd').write_bytes(zstandard.compress(bytes(2**28)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=5.0)
    parser.add_argument('--seed', type=int, default=int(np.random.default_rng().integers(2**31)))
    parser.add_argument('--only', nargs='+', choices=list(Chaos.FAULTS), default=list(Chaos.FAULTS))
    parser.add_argument('--longest', type=float, default=60.0, help='seconds of a freeze')
    parser.add_argument('--keep', type=Path, help='folder for the run and its logs, which are deleted otherwise')
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_DOMAIN_ID', '38')
    print(f'seed {arguments.seed}', flush=True)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(folder, arguments.seed, arguments.longest)
        chaos.make(arguments.minutes, arguments.only)
        chaos.verdict()
    print(f'{"fault":44}{"times":>7}{"worst":>10}')
    for fault, times in sorted(chaos.times.items()):
        worst = 'never' if None in times else f'{max(times):.2f} s'
        print(f'{fault:44}{len(times):>7}{worst:>10}')
    print(f'{len(chaos.problems)} problems')
    for sentence in chaos.problems:
        print(f'  {sentence}')
    return 1 if chaos.problems else 0


if __name__ == '__main__':
    sys.exit(main())
