"""Everything that may go wrong beside, before and inside a robot agent, and whether the robot stops in time."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dreamer_ros.policy.signing import generate_key, load_key, sign
from tests.nodes.robot import NAMESPACE, Camera, Ears, write_contract, write_policy

STALL = 0.5  # seconds that a stalled part stalls, and in periods at least:
STALL_PERIODS = 5


class Scene:
    """A robot that is commanded: camera process, agent process, and ears for its commands.

    Args:
        folder: for contract, policies and the agent's log.
        domain: of ROS.
        rate: Hz.
        clock: the camera's process also publishes /clock, on which the agent's time is.
        autostart: the agent's parameter.
        more: of the contract.
        starter: command that starts the agent's command, which follows it.
        parameters: further ones of the agent.
    """

    def __init__(
        self,
        folder: Path,
        domain: int,
        rate: float,
        clock: bool = False,
        autostart: bool = True,
        more: str = '',
        starter: tuple[str, ...] = (),
        **parameters,
    ):
        self._starter = starter
        self.folder, self.rate = folder, rate
        self._parameters = {'use_sim_time': clock, 'autostart': autostart, 'robot': folder / 'robot.yaml', **parameters}
        self.period = round(1e9 / rate)
        public_key = generate_key(folder / 'key') if not (folder / 'key').exists() else None
        public_key = public_key or (folder / 'public').read_text()
        (folder / 'public').write_text(public_key)
        self._key = load_key(folder / 'key')
        self.contract = write_contract(folder / 'robot.yaml', rate, more=f"public_key: '{public_key}'\n{more}")
        self.manifests = {}
        for version in (1, 2):
            path = folder / f'policy_{version}.onnx'
            self.manifests[version] = sign(write_policy(path, self.contract, version), self._key)
            (folder / f'policy_{version}.manifest.json').write_text(self.manifests[version].to_json())
        self.log = folder / 'agent.log'
        self.ears, self.camera = Ears(domain), Camera(rate, clock)
        self.agent: subprocess.Popen | None = None
        self.start()

    def start(self, from_topic: bool = False) -> None:
        """Start the agent's process."""
        parameters = {**self._parameters, **({} if from_topic else {'policy': self.folder / 'policy_1.onnx'})}
        command = [*self._starter, sys.executable, '-m', 'tests.nodes.faulty', '--ros-args', '-r', f'__ns:={NAMESPACE}']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        with self.log.open('a') as stream:
            self.agent = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)

    def restart(self, from_topic: bool = False) -> None:
        """Another agent, once the one before has ended."""
        self.agent.kill()
        self.agent.wait()
        self.start(from_topic)

    def ready(self) -> None:
        """Wait until the robot moves, and the ears are connected to all of it."""
        if not (self.ears.moving() and self.ears.connected()):
            raise RuntimeError(f'the robot does not move: {self.log.read_text()[-1000:]}')

    def close(self) -> None:
        self.agent.send_signal(signal.SIGCONT)
        self.agent.terminate()
        try:
            self.agent.wait(30)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()
        self.camera.close()
        self.ears.close()


@dataclasses.dataclass
class Outcome:
    """`periods` from the fault to the stop's arrival in another process; None when none came."""

    kind: str
    periods: float | None

    @property
    def fine(self) -> bool:
        return self.periods is not None and self.periods <= 1.0


def _camera_stops(scene: Scene) -> int:
    return scene.camera.tell('pause') + 2 * scene.period  # max_age, from which on an image is missed


def _camera_frozen(scene: Scene) -> int:
    scene.camera.send(signal.SIGSTOP)
    time.sleep(0.01)
    return scene.ears.image_stamp + 2 * scene.period


def _estop(scene: Scene) -> int:
    began = time.time_ns()
    scene.ears.press(True)
    return began


def _signal(number: int) -> Callable[[Scene], int]:
    def send(scene: Scene) -> int:
        began = time.time_ns()
        scene.agent.send_signal(number)
        return began

    return send


def _inside(kind: str) -> Callable[[Scene], int]:
    return lambda scene: scene.ears.ask_for(f'{kind} {max(STALL, STALL_PERIODS / scene.rate)}')


# What happens; each returns the moment, in ns of system time, from which the stop's period counts.
FAULTS: dict[str, Callable[[Scene], int]] = {
    'camera stops': _camera_stops,
    'camera process frozen (SIGSTOP)': _camera_frozen,
    'image of NaN': lambda scene: scene.camera.tell('nan_image'),
    'joint state NaN': lambda scene: scene.camera.tell('nan_state'),
    'action NaN': _inside('nan'),
    'inference stuck': _inside('inference'),
    'inference busy in Python': _inside('busy'),
    'executor stalled': _inside('executor'),
    'interpreter stuck': _inside('interpreter'),
    'emergency stop': _estop,
    'agent frozen (SIGSTOP)': _signal(signal.SIGSTOP),
    'SIGTERM': _signal(signal.SIGTERM),
    'SIGINT': _signal(signal.SIGINT),
    'agent killed (SIGKILL)': _signal(signal.SIGKILL),
}
ENDS_THE_AGENT = ('SIGTERM', 'SIGINT', 'agent killed (SIGKILL)')
CLOCK = '/clock paused'  # needs a scene with a clock
CORRUPT = 'corrupt policy offered'  # the robot goes on with the one it has


def inject(scene: Scene, kind: str) -> Outcome:
    """Let one thing go wrong while the robot moves, and mend it again."""
    scene.ready()
    if kind == CORRUPT:
        return _offer_corrupt(scene)
    began = scene.camera.tell('clock_pause') if kind == CLOCK else FAULTS[kind](scene)
    stop = scene.ears.first_stop(began)
    _mend(scene, kind)
    return Outcome(kind, None if stop is None else max(0, stop.received - began) / scene.period)


def _mend(scene: Scene, kind: str) -> None:
    if kind.startswith('camera process'):
        scene.camera.send(signal.SIGCONT)
    elif kind.startswith('agent frozen'):
        scene.agent.send_signal(signal.SIGCONT)
    elif kind == 'emergency stop':
        scene.ears.press(False)
        time.sleep(0.1)
        scene.ears.enable()
    elif kind in ENDS_THE_AGENT:
        scene.restart()
    elif kind in (CLOCK, 'camera stops', 'image of NaN', 'joint state NaN'):
        scene.camera.tell('sane')


def _offer_corrupt(scene: Scene) -> Outcome:
    """A whole and signed manifest of a damaged file: fine when it is refused and commands go on."""
    scene.restart(from_topic=True)
    scene.ears.offer(scene.manifests[1])
    scene.ready()
    data = bytearray((scene.folder / 'policy_2.onnx').read_bytes())
    data[len(data) // 2] ^= 1
    (scene.folder / 'corrupt.onnx').write_bytes(data)
    before = scene.log.read_text().count('expected sha256')
    scene.ears.offer(scene.manifests[2].at(str(scene.folder / 'corrupt.onnx')))
    end = time.monotonic() + 10.0
    while scene.log.read_text().count('expected sha256') == before and time.monotonic() < end:
        time.sleep(0.01)
    refused = scene.log.read_text().count('expected sha256') > before
    return Outcome(CORRUPT, 0.0 if refused and scene.ears.moving() else None)


def summary(outcomes: list[Outcome]) -> str:
    """A table by kind: how many, how many in time, the longest time in periods."""
    lines = [f'{"fault":36}{"injected":>9}{"in time":>9}{"median":>9}{"longest":>9}   (periods until the stop)']
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.kind == kind]
        times = sorted(outcome.periods for outcome in mine if outcome.periods is not None)
        shown = [f'{time:.2f}' for time in (times[len(times) // 2], times[-1])] if times else ['', '']
        if kind == CORRUPT:
            shown = ['refused', '']
        lines.append(f'{kind:36}{len(mine):>9}{sum(o.fine for o in mine):>9}{shown[0]:>9}{shown[1]:>9}')
    fine = sum(outcome.fine for outcome in outcomes)
    return '\n'.join([*lines, f'{fine} of {len(outcomes)} in time'])


@contextlib.contextmanager
def scene(*arguments, **options):
    """A Scene that is closed in any case."""
    made = Scene(*arguments, **options)
    try:
        yield made
    finally:
        made.close()
        print(made.log.read_text())  # pytest shows it if the test failed
