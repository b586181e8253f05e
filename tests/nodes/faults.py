"""Everything that may go wrong beside, before and inside a robot agent, and whether the robot stops in time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dreamer_ros.nodes.robot_agent import SAY_AGAIN
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.run_key import VARIABLE, RunKey, key_of
from tests.nodes.robot import NAMESPACE, Camera, Ears, write_contract, write_policy

LIMITS = """
limits:
  slide:
    topic: joint_states
    type: sensor_msgs/msg/JointState
    field: 'position[wheel]'
    low: -1
    high: 1
    axes: {forward: 1}
  reach: {topic: joint_states, type: sensor_msgs/msg/JointState, field: 'position[wheel]', high: 10}
"""
LAUNCHER = """
import os, subprocess, sys
from dreamer_ros import launcher
agent = subprocess.Popen(sys.argv[1:], env={**os.environ, launcher.VARIABLE: launcher.new_launch()})
print('agent process', agent.pid, flush=True)
agent.wait()
"""
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
        **parameters,
    ):
        self.folder, self.rate = folder, rate
        self._parameters = {'use_sim_time': clock, 'autostart': autostart, 'robot': folder / 'robot.yaml', **parameters}
        self.period = round(1e9 / rate)
        self.key = RunKey(key_of(folder))
        self.contract = write_contract(folder / 'robot.yaml', rate, more=LIMITS + more)
        self.manifests = {}
        for version in (1, 2):
            path = folder / f'policy_{version}.onnx'
            self.manifests[version] = write_policy(path, self.contract, version)
        self.log = folder / 'agent.log'
        self.ears, self.camera = Ears(domain), Camera(rate, clock)
        self.agent: subprocess.Popen | None = None
        self.start()

    def start(self, from_topic: bool = False, launched: bool = False) -> None:
        """Start the agent's process, or a launcher that does."""
        parameters = {**self._parameters, **({} if from_topic else {'policy': self.folder / 'policy_1.onnx'})}
        starter = [sys.executable, '-c', LAUNCHER] if launched else []
        command = [*starter, sys.executable, '-m', 'tests.nodes.faulty', '--ros-args', '-r', f'__ns:={NAMESPACE}']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        with self.log.open('a') as stream:
            self.agent = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, VARIABLE: str(self.key.path)}
            )

    def offer(self, manifest: Manifest) -> None:
        """As the robot's trainer does."""
        self.ears.offer(manifest.announced(self.key))

    def restart(self, **how: bool) -> None:
        """Another agent, once the one before has ended, see `start`."""
        self.agent.kill()
        self.agent.wait()
        self.start(**how)

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
    'state limit': lambda scene: scene.camera.tell('at 20'),
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
    'launcher killed (SIGKILL)': _signal(signal.SIGKILL),
}
ENDS_THE_AGENT = ('SIGTERM', 'SIGINT', 'agent killed (SIGKILL)', 'launcher killed (SIGKILL)')
CLOCK = '/clock paused'  # needs a scene with a clock
CORRUPT, STRANGER = 'corrupt policy offered', "stranger's policy offered"
SUBSCRIBER = 'subscriber of the command gone'
# What has no stop that could be heard, and what happens instead: the robot goes on with the policy that it has, or
# nothing is commanded while nobody listens.
INSTEAD = {CORRUPT: 'refused', STRANGER: 'refused', SUBSCRIBER: 'held'}


def inject(scene: Scene, kind: str) -> Outcome:
    """Let one thing go wrong while the robot moves, and mend it again."""
    if kind.startswith('launcher'):
        scene.restart(launched=True)
    scene.ready()
    if kind == CORRUPT:
        return _offer_corrupt(scene)
    if kind == STRANGER:
        return _offer(scene, kind, scene.manifests[2], 'came from another one')
    if kind == SUBSCRIBER:
        return _leave(scene)
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
    elif kind in (CLOCK, 'camera stops', 'image of NaN', 'joint state NaN', 'state limit'):
        scene.camera.tell('sane')


def _offer_corrupt(scene: Scene) -> Outcome:
    """The manifest of a file that was damaged since."""
    data = bytearray((scene.folder / 'policy_2.onnx').read_bytes())
    data[len(data) // 2] ^= 1
    (scene.folder / 'corrupt.onnx').write_bytes(data)
    manifest = scene.manifests[2].at(str(scene.folder / 'corrupt.onnx')).announced(scene.key)
    return _offer(scene, CORRUPT, manifest, 'expected sha256')


def _offer(scene: Scene, kind: str, manifest: Manifest, sentence: str) -> Outcome:
    """Fine when a policy is refused with a sentence, and the commands go on."""
    scene.restart(from_topic=True)
    scene.offer(scene.manifests[1])
    scene.ready()
    said = len(scene.log.read_text())
    scene.ears.offer(manifest)
    refused = _said(scene, said, sentence)
    return Outcome(kind, 0.0 if refused and scene.ears.moving() else None)


def _leave(scene: Scene) -> Outcome:
    """Fine when the agent notices that nobody listens, and goes on once somebody does."""
    said = len(scene.log.read_text())
    time.sleep(SAY_AGAIN)  # what was said a moment before is not said again
    scene.ears.leave()
    held = _said(scene, said, f'stopped: {NAMESPACE}/cmd_vel: expected a subscriber')
    scene.ears.join()
    return Outcome(SUBSCRIBER, 0.0 if held and scene.ears.moving() else None)


def _said(scene: Scene, after: int, sentence: str, timeout: float = 10.0) -> bool:
    """Whether the agent comes to say something after so many characters."""
    end = time.monotonic() + timeout
    while not (found := sentence in scene.log.read_text()[after:]) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def summary(outcomes: list[Outcome]) -> str:
    """A table by kind: how many, how many in time, the longest time in periods."""
    lines = [f'{"fault":36}{"injected":>9}{"in time":>9}{"median":>9}{"longest":>9}   (periods until the stop)']
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.kind == kind]
        times = sorted(outcome.periods for outcome in mine if outcome.periods is not None)
        shown = [f'{time:.2f}' for time in (times[len(times) // 2], times[-1])] if times else ['', '']
        if kind in INSTEAD:
            shown = [INSTEAD[kind], '']
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
