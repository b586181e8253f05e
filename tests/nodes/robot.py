"""A robot of topics alone for tests: a camera process that can be made to fail, and ears for its commands.

`python -m tests.nodes.robot RATE SIZE CLOCK` publishes images and joint states in /robot; lines on its standard
input change what it does, see `Camera`.
"""

from __future__ import annotations

import array
import contextlib
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rclpy
from rclpy.client import Client
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.ros import qos
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire import codecs, topics

NAMESPACE = '/robot'
CONTRACT = """
name: tiny
rate: {rate}
max_age: {max_age}
image_size: [{size}, {size}]
cameras:
  camera: {{topic: camera/image_raw, type: sensor_msgs/msg/Image}}
vector:
  - {{name: wheel/velocity, topic: joint_states, type: sensor_msgs/msg/JointState, field: 'velocity[wheel]'}}
command:
  topic: cmd_vel
  type: geometry_msgs/msg/Twist
  axes:
    - {{name: forward, field: linear.x, limits: [-2, 2], unit: m/s}}
    - {{name: turn, field: angular.z, limits: [-1, 1], unit: rad/s}}
  stop: zero
{more}
"""


def contract_text(rate: float = 20.0, max_age: float = 0.0, size: int = 32, more: str = '') -> str:
    """A contract; observations may be `max_age` seconds old, 0 for two periods."""
    return CONTRACT.format(rate=rate, max_age=max_age or 2.0 / rate, size=size, more=more)


def write_contract(path: Path, rate: float = 20.0, **options) -> RobotContract:
    """The same in a file, see `contract_text`."""
    text = contract_text(rate, **options)
    path.write_text(text)
    return RobotContract.from_text(text, str(path))


def write_policy(path: Path, contract: RobotContract, version: int = 1, policy=None):
    """An untrained policy for the robot; returns its manifest."""
    from dreamer_ros.policy.export import Exporter  # torch: not in the camera's process
    from tests.policy.tiny import tiny_policy

    policy = policy or tiny_policy(contract.spec, seed=version)
    return Exporter(policy, contract.spec).write(
        path, dict(system='tiny', preset='tiny', step=version, version=version)
    )


class Camera:
    """The process of camera and encoders, which the test may freeze, silence or upset."""

    def __init__(self, rate: float, clock: bool = False, size: int = 32):
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'tests.nodes.robot', str(rate), str(size), 'clock' if clock else ''],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, word: str) -> int:
        """Change what it does: `pause` (images stop), `nan_image`, `nan_state` (its numbers are none),
        `clock_pause`, `at 2` (the wheel's position), each undone by `sane`; `clock_back` sets its clock back by a
        minute, for good.

        Returns:
            Nanoseconds of system time: of the first message that is affected, or for a pause of the last one before.
        """
        self._process.stdin.write(word + '\n')
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


class Command(NamedTuple):
    """A Twist as it came; `sent` and `received` in ns of system time."""

    forward: float
    turn: float
    sent: int
    received: int

    @property
    def is_stop(self) -> bool:
        return self.forward == 0.0 and self.turn == 0.0


class Ears:
    """Hears the commands of /robot, on a thread of its own."""

    def __init__(self, domain: int):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node('ears', namespace=NAMESPACE, context=self._context)
        self._subscription: PolledSubscription | None = self._hear('cmd_vel', 'geometry_msgs/msg/Twist')
        self._steps = self._hear('step', topics.STEP.type)
        self._images = self._hear('camera/image_raw', topics.IMAGE.type, depth=1, raw=True)
        self._began = self._hear('began', 'std_msgs/msg/Int64')
        self.steps: list[tuple[int, float]] = []  # stamp, and age of its image, ns
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Client] = {}
        self.commands: list[Command] = []
        self.image_stamp = 0  # of the newest image, ns
        self.began = 0  # when a fault of the faulty agent began, ns
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._estops = self.node.create_publisher(Bool, 'estop', qos.profile(topics.LATCHED))
        self._faults = self.node.create_publisher(String, 'fault', 10)
        self._policies = self.node.create_publisher(String, 'policy', qos.profile(topics.LATCHED))

    def leave(self) -> None:
        """Listen to commands no more."""
        subscription, self._subscription = self._subscription, None
        time.sleep(0.05)
        subscription.close()

    def join(self) -> None:
        """Listen to them again."""
        self._subscription = self._hear('cmd_vel', 'geometry_msgs/msg/Twist')

    def _hear(self, name: str, kind: str, depth: int = 1000, raw: bool = False) -> PolledSubscription:
        quality = topics.QoS(depth=depth)
        return PolledSubscription(self.node, topics.Topic(name, kind, quality), quality, raw)

    def _listen(self) -> None:
        while not self._ending.wait(0.001):
            while (message := self._images.take()) is not None:
                with contextlib.suppress(InputError):  # it is a stranger's
                    self.image_stamp = codecs.header_stamp(message)
            while (message := self._steps.take()) is not None:
                ages = dict(zip(message.name, message.position))
                self.steps.append((codecs.stamp_to_ns(message.header.stamp), ages['age/camera/image_raw']))
            while (message := self._began.take()) is not None:
                self.began = message.data
            commands = self._subscription
            while commands is not None and (taken := commands.take_with_info()) is not None:
                twist, info = taken
                self.commands.append(
                    Command(twist.linear.x, twist.angular.z, info['source_timestamp'], info['received_timestamp'])
                )

    def press(self, pressed: bool) -> None:
        """Press or release the emergency stop; returns when the agent's two subscriptions have it."""
        end = time.monotonic() + 30.0
        while self._estops.get_subscription_count() < 2:
            assert time.monotonic() < end, 'the agent does not subscribe the emergency stop'
            time.sleep(0.005)
        self._estops.publish(Bool(data=pressed))
        assert self._estops.wait_for_all_acked(Duration(seconds=30)), 'the agent does not hear the emergency stop'

    def enable(self, enabled: bool = True) -> None:
        """The agent's service."""
        self.call(SetBool, 'enable', SetBool.Request(data=enabled))

    def call(self, kind, name: str, request, timeout: float = 30.0):
        """The answer of one of the agent's services."""
        client = self._clients.get(name) or self._clients.setdefault(
            name, self.node.create_client(kind, f'agent/{name}')
        )
        assert client.wait_for_service(timeout), f'no service agent/{name}'
        future = client.call_async(request)
        self._executor.spin_until_future_complete(future, timeout_sec=timeout)
        return future.result()

    def spin(self, seconds: float) -> None:
        """Run callbacks of `node`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def ask_for(self, fault: str) -> int:
        """A fault of the faulty agent, see `faulty.py`; the moment it began, in ns."""
        self.began = 0
        self._faults.publish(String(data=fault))
        end = time.monotonic() + 5.0
        while not self.began and time.monotonic() < end:
            time.sleep(0.001)
        return self.began

    def offer(self, manifest) -> None:
        """A policy, as a trainer does."""
        self._policies.publish(String(data=manifest.to_json()))

    def first_stop(self, after: int, timeout: float = 5.0) -> Command | None:
        """The first stop received after a system time in ns, and after which only stops came for 0.1 s."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            later = [command for command in list(self.commands) if command.received >= after]
            moving = max((number for number, command in enumerate(later) if not command.is_stop), default=-1)
            stops = later[moving + 1 :]
            if stops and time.time_ns() - stops[0].received > 100_000_000:
                return stops[0]
            time.sleep(0.002)
        return None

    def moving(self, timeout: float = 30.0, count: int = 5) -> bool:
        """Whether the newest `count` commands come to be none that stops."""
        end = time.monotonic() + timeout
        since = time.time_ns()
        while time.monotonic() < end:
            newest = [command for command in self.commands[-count:] if command.received > since]
            if len(newest) == count and not any(command.is_stop for command in newest):
                return True
            time.sleep(0.005)
        return False

    def connected(self, timeout: float = 30.0) -> bool:
        """Whether images are heard and somebody listens to faults: discovery may take longer than the first command."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.image_stamp and self._faults.get_subscription_count():
                return True
            time.sleep(0.005)
        return False

    def silent(self, seconds: float) -> bool:
        """Whether nothing is sent any more; what was sent before may still arrive."""
        began = time.time_ns()
        time.sleep(seconds)
        return not any(command.sent > began for command in list(self.commands))

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


def _camera(rate: float, size: int, clock: bool) -> None:
    # It ends with its parent, whose death is the end of its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node('camera', namespace=NAMESPACE)
    images, joints = qos.publisher(node, topics.IMAGE), qos.publisher(node, topics.JOINT_STATES)
    clocks = qos.publisher(node, topics.CLOCK)
    image, joint, random = Image(), JointState(), np.random.default_rng(0)
    pixels = random.integers(0, 256, (size, size, 3), np.uint8)
    word, ticks, image_stamp, clock_stamp, back = 'sane', 0, 0, 0, 0
    awaiting = False  # somebody waits for the first message that is affected
    following = time.monotonic()
    clocks_per_image = 4 if clock else 1
    while True:
        turn = 1.0 / rate / clocks_per_image
        following += turn
        if word == 'clock_slow':
            following += 2 * turn
            back += round(2e9 * turn)
        while (left := following - time.monotonic()) > 0:
            if select.select([sys.stdin], [], [], left)[0]:
                word = sys.stdin.readline().strip()
                if not word:
                    return
                back += 60 * 10**9 * (word == 'clock_back')
                awaiting = word.startswith(('nan', 'at '))
                if not awaiting:
                    print(clock_stamp if word == 'clock_pause' else image_stamp, flush=True)
        now = time.time_ns() - back
        if clock and word != 'clock_pause':
            message = Clock()
            codecs.fill_stamp(message.clock, now)
            clocks.publish(message)
            clock_stamp = now
        ticks += 1
        if ticks % clocks_per_image:
            continue
        speed = np.nan if word == 'nan_state' else 0.5
        position = float(word.removeprefix('at ')) if word.startswith('at ') else 0.0
        codecs.fill_joint_state(joint, ['wheel'], np.full(1, position), np.full(1, speed), now)
        joints.publish(joint)
        if word != 'pause':
            pixels[0, 0] = ticks % 256
            codecs.fill_image(image, pixels, now)
            if word == 'nan_image':
                image.encoding, image.step = '32FC1', 4 * size
                image.data = array.array('B', np.full((size, size), np.nan, np.float32).tobytes())
            images.publish(image)
            image_stamp = now
        if awaiting:
            awaiting = False
            print(now, flush=True)


if __name__ == '__main__':
    _camera(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'clock')
