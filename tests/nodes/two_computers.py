"""A robot that learns with its trainer on another computer: two namespaces and a wire that is cut, or without
permission for that two sides on one computer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dreamer_ros.paths import share
from dreamer_ros.run_key import key_of
from tests.learners import TINY
from tests.network import Computer, Network

RATE, EPISODE = 10, 15  # steps per second, and of an episode
OVERRIDES = (
    *TINY,
    'schedule.prefill=30',
    'schedule.log_every=20',
    'schedule.publish_every=20',
    'schedule.checkpoint_every=3',
)
PATIENCE = 120.0  # seconds; only a failing trial waits that long


class Here:
    """This computer itself."""

    address = '127.0.0.1'

    def command(self, *words: str) -> list[str]:
        """See Computer.command."""
        return list(words)


class Side:
    """`dreamer launch robot_train` of one role on one computer, its output in `log`."""

    def __init__(self, computer: Computer | Here, folder: Path, domain: int, role: str, **arguments):
        self.computer, self.folder, self.role = computer, folder / role, role
        self._domain, self._arguments = domain, arguments
        self.log = folder / f'{role}.log'
        self._process: subprocess.Popen | None = None

    @property
    def episodes(self) -> Path:
        return self.folder / 'episodes'

    def start(self) -> None:
        words = {'role': self.role, 'logdir': self.folder, **self._arguments}
        command = [
            sys.executable,
            '-m',
            'dreamer_ros.cli',
            'launch',
            'robot_train',
            *(f'{name}:={value}' for name, value in words.items()),
        ]
        # Both are one computer to Fast DDS: shared memory would pass the wire by.
        environment = {**os.environ, 'ROS_DOMAIN_ID': str(self._domain), 'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}
        with self.log.open('a') as stream:
            self._process = subprocess.Popen(
                self.computer.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                cwd=Path(__file__).parents[2],
            )

    def stop(self) -> None:
        """In good order."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(150)

    def kill(self) -> None:
        """All of its processes at once, like a computer that loses its power."""
        if self._process is None or self._process.poll() is not None:
            return
        children = [int(path.name) for path in Path('/proc').glob('[0-9]*') if _parent(path) == self._process.pid]
        for pid in (self._process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text()

    def bags(self) -> list[str]:
        """Whole ones, oldest first."""
        return sorted(path.name for path in self.episodes.glob('[!.]*')) if self.episodes.exists() else []

    def content(self, name: str) -> dict[str, str]:
        """SHA-256 of every file of a bag."""
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.episodes / name).iterdir()}


def _parent(process: Path) -> int:
    try:
        return int((process / 'stat').read_text().rpartition(')')[2].split()[1])
    except OSError:  # ended meanwhile
        return 0


def _free_ports() -> list[int]:
    with socket.create_server(('127.0.0.1', 0)) as one, socket.create_server(('127.0.0.1', 0)) as other:
        return [one.getsockname()[1], other.getsockname()[1]]


class Trial:
    """Both sides, in a network that is closed with the trial.

    Args:
        folder: for everything.
        domain: of ROS.
        network: open; None for one computer.
    """

    def __init__(self, folder: Path, domain: int, network: Network | None):
        contract = share('sim', 'rover', 'robot.yaml').read_text()
        contract = contract.replace('rate: 5', f'rate: {RATE}')
        contract = contract.replace('episode_length: 125', f'episode_length: {EPISODE}')
        (folder / 'rover.yaml').write_text(contract)
        self.network = network
        robot, key = folder / 'rover.yaml', key_of(folder)
        computers = (network.robot, network.trainer) if network else (Here(), Here())
        address = '0.0.0.0' if network else Here.address
        ports = (8075, 8075) if network else _free_ports()
        self.robot = Side(
            computers[0],
            folder,
            domain,
            'robot',
            robot=robot,
            mock='true',
            task='rover_target',
            key=key,
            address=address,
            port=ports[0],
        )
        self.trainer = Side(
            computers[1],
            folder,
            domain,
            'trainer',
            robot=robot,
            preset='cpu',
            steps=1_000_000,
            bags=f'http://{computers[0].address}:{ports[0]}',
            overrides=' '.join(OVERRIDES),
            key=key,
            address=address,
            port=ports[1],
        )

    def close(self) -> None:
        self.trainer.kill()  # its last films would take a while
        self.robot.stop()

    def until(self, condition: Callable[[], object], what: str):
        """Wait; the seconds it took."""
        began = time.monotonic()
        while not condition():
            for side in (self.trainer, self.robot):
                assert '[launch] error' not in side.output if side.log.exists() else True, side.output[-3000:]
            assert time.monotonic() - began < PATIENCE, f'{what} did not happen'
            time.sleep(0.05)
        return time.monotonic() - began

    def playing(self) -> int:
        """Version of the policy that the robot has said it plays; 0 for none."""
        versions = re.findall(r'policy version (\d+)', self.robot.output) if self.robot.log.exists() else []
        return int(versions[-1]) if versions else 0

    def offered(self) -> int:
        """Version of the newest policy of the trainer."""
        marker = self.trainer.folder / 'policies' / 'latest.json'
        return json.loads(marker.read_text())['version'] if marker.exists() else 0

    def begin(self) -> float:
        """Start both, wait until the robot plays what was learnt."""
        self.robot.start()
        self.trainer.start()
        return self.until(self.playing, 'a policy on the robot')

    def cut(self, seconds: float) -> dict[str, object]:
        """Cut the wire for a while; what happened meanwhile, and how long it took to make up for it."""
        self.network.wire.cut = True
        time.sleep(1.0)  # what was on its way has come or not
        before, version, learnt = self.robot.bags(), self.playing(), self.offered()
        time.sleep(max(0.0, seconds - 1.0))
        meanwhile = [name for name in self.robot.bags() if name not in before]
        kept = self.playing()
        assert not set(meanwhile) & set(self.trainer.bags()), 'the wire was not cut'
        self.network.wire.cut = False
        bags = self.until(lambda: set(meanwhile) <= set(self.trainer.bags()), 'the bags of the cut at the trainer')
        policy = self.until(lambda: self.playing() > max(version, kept), 'a new policy on the robot')
        for name in [*before, *meanwhile]:
            assert self.trainer.content(name) == self.robot.content(name), name
        return {
            'cut [s]': seconds,
            'episodes recorded meanwhile': len(meanwhile),
            'policy of the robot before and after': (version, kept),
            'policies learnt meanwhile': self.offered() - learnt,
            'episodes at the trainer after [s]': round(bags, 1),
            'new policy on the robot after [s]': round(bags + policy, 1),
        }
