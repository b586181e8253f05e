"""A robot of one of the tables beside this file: its topics, types, rates, qualities of service, frames, stamps and
joints, its controllers with their limits and watchdogs, and its simulated time.

    with FakeRobot('turtlebot4', smaller=5) as robot:
        ...                     # robot.moved() tells how far it went

The tables say where each fact is from. What they leave out because its type is in no wheel, they say.
"""

from __future__ import annotations

import array
import io
import math
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from PIL import Image as Picture
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSPresetProfiles, QoSProfile, ReliabilityPolicy

from dreamer_ros.ros import qos
from dreamer_ros.wire import codecs
from dreamer_ros.wire.topics import QoS, Topic

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob('*.yaml'))
ROUND = 0.001  # seconds


def profile(words: str) -> QoSProfile:
    """`reliable transient_local 10` or `system_default`, as a table says it."""
    if words == 'system_default':
        return QoSPresetProfiles.SYSTEM_DEFAULT.value
    reliability, durability, depth = words.split()
    return QoSProfile(
        depth=int(depth),
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy[durability.upper()],
    )


class FakeRobot:
    """See the module.

    Args:
        name: of a table.
        smaller: divides the size of the images.
    """

    def __init__(self, name: str, smaller: int = 1):
        self.table = table = yaml.safe_load((FOLDER / f'{name}.yaml').read_text())
        self._smaller = smaller
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._nodes: dict[str, Node] = {}
        self._random = np.random.default_rng(0)
        joints = table.get('joints', {})
        self.joints = {joint: float(entry.get('at', 0.0)) for joint, entry in joints.items()}
        self.velocities = dict.fromkeys(joints, 0.0)
        self.speed = {'linear.x': 0.0, 'angular.z': 0.0}
        self.place = np.zeros(3)  # x, y, yaw
        self.commands: Counter[str] = Counter()  # that were obeyed, by topic
        self._began = time.monotonic()
        self._publishers = [self._publisher(entry) for entry in table['publishes']]
        self._controllers = [_Controller(self, entry) for entry in table['obeys']]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeRobot:
        self._start = (self.place.copy(), dict(self.joints))
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ending.set()
        self._thread.join()
        self._executor.shutdown()
        for node in self._nodes.values():
            node.destroy_node()
        rclpy.shutdown(context=self._context)

    def moved(self) -> float:
        """How far its base or its farthest joint is from where it began, in m or rad."""
        place, joints = self._start
        return max(
            float(np.abs(self.place - place).max()),
            *(abs(self.joints[name] - joints[name]) for name in self.joints),
            0.0,
        )

    def time_ns(self) -> int:
        """What its clocks say: system time, or that of its simulation."""
        clock = self.table.get('clock')
        return time.time_ns() if clock is None else int((clock['at'] + time.monotonic() - self._began) * 1e9)

    def node(self, name: str) -> Node:
        if name not in self._nodes:
            place, _, leaf = name.rpartition('/')
            told = self.table.get('parameters', {}).get(name, {})
            self._nodes[name] = Node(
                leaf,
                namespace=place or '/',
                context=self._context,
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=bool(told),
                parameter_overrides=[Parameter(key, value=value) for key, value in told.items()],
                automatically_declare_parameters_from_overrides=True,
            )
            if told:
                self._executor.add_node(self._nodes[name])
        return self._nodes[name]

    # Publication

    def _publisher(self, entry: dict[str, Any]) -> list[Any]:
        kind = qos.message_type(Topic(entry['topic'], entry['type'], QoS(1)))
        publisher = self.node(entry['node']).create_publisher(kind, entry['topic'], profile(entry['qos']))
        message = kind()
        if 'frame_id' in entry:
            message.header.frame_id = entry['frame_id']
        getattr(self, f'_prepare_{kind.__name__}', lambda *_: None)(message, entry)
        fill = getattr(self, f'_fill_{kind.__name__}', lambda *_: None)
        return [
            0.0 if entry.get('speaks', True) else math.inf,
            entry,
            publisher,
            message,
            fill,
        ]  # first: when it is due

    def _run(self) -> None:
        before = time.monotonic()
        while not self._ending.is_set():
            now = time.monotonic()
            for controller in self._controllers:
                controller.poll(now)
            self._advance(now - before)
            before = now
            for row in self._publishers:
                due, entry, publisher, message, fill = row
                if now >= due:
                    period = 1 / entry['rate'] if entry['rate'] else math.inf
                    row[0] = due + period if due + period > now else now + period
                    if hasattr(message, 'header'):
                        codecs.fill_stamp(message.header.stamp, self.time_ns())
                    fill(message, entry)
                    publisher.publish(message)
            self._executor.spin_once(timeout_sec=0.0)
            time.sleep(ROUND)

    def _advance(self, elapsed: float) -> None:
        driving = {}  # of several inputs of a mux the first counts, as long as something comes
        for controller in sorted(self._controllers, key=lambda controller: controller.weight):
            driving |= dict.fromkeys(controller.goal, controller)
        for name, controller in driving.items():
            controller.drive(name, elapsed)
        self.place[2] += self.speed['angular.z'] * elapsed
        heading = self.place[2]
        self.place[:2] += self.speed['linear.x'] * elapsed * np.array([math.cos(heading), math.sin(heading)])
        wheels = self.table.get('wheels')
        if wheels:
            for side, joints in ((-1, wheels['left']), (1, wheels['right'])):
                rim = self.speed['linear.x'] + side * self.speed['angular.z'] * wheels['separation'] / 2
                for joint in joints:
                    self.velocities[joint] = rim / wheels['radius']
        for joint, entry in self.table.get('joints', {}).items():
            goal = self.joints[joint] + self.velocities[joint] * elapsed
            self.joints[joint] = min(max(goal, entry.get('low', -math.inf)), entry.get('high', math.inf))

    def _prepare_Image(self, message, entry) -> None:
        height, width = (length // self._smaller for length in entry['size'])
        size = {'32FC1': 4}.get(entry['encoding'], 3)
        message.height, message.width, message.step = height, width, width * size
        message.encoding = entry['encoding']
        message.data = array.array('B', self._random.integers(0, 127, height * width * size, np.uint8).tobytes())

    def _prepare_CompressedImage(self, message, entry) -> None:
        height, width = (length // self._smaller for length in entry['size'])
        buffer = io.BytesIO()
        Picture.fromarray(self._random.integers(0, 255, (height, width, 3), np.uint8)).save(buffer, 'JPEG')
        message.format, message.data = entry['format'], array.array('B', buffer.getvalue())

    def _prepare_LaserScan(self, message, entry) -> None:
        count = entry['ranges']
        for name in ('angle_min', 'angle_max', 'range_min', 'range_max'):
            setattr(message, name, float(entry[name]))
        message.angle_increment = (message.angle_max - message.angle_min) / (count - 1)
        ranges = self._random.uniform(1.0, message.range_max, count)  # nothing near
        ranges[:: max(2, count // 20)] = math.inf  # where nothing is
        message.ranges = array.array('f', ranges)

    def _prepare_Odometry(self, message, entry) -> None:
        message.child_frame_id = entry['child_frame_id']

    def _prepare_String(self, message, entry) -> None:
        joints = ''.join(
            f'<joint name="{name}" type="{joint["type"]}"><limit lower="{joint.get("low", 0)}" '
            f'upper="{joint.get("high", 0)}" velocity="{joint["velocity"]}" effort="1"/></joint>'
            for name, joint in self.table['joints'].items()
        )
        message.data = f'<?xml version="1.0"?><robot name="fake"><link name="base_link"/>{joints}</robot>'

    def _prepare_JointState(self, message, entry) -> None:
        message.name = entry.get('joints') or sorted(self.joints)

    def _fill_JointState(self, message, entry) -> None:
        message.position = [self.joints[joint] for joint in message.name]
        if entry.get('velocities', True):
            message.velocity = [self.velocities[joint] for joint in message.name]
        if entry.get('efforts'):
            message.effort = [0.0] * len(message.name)

    def _fill_Odometry(self, message, entry) -> None:
        message.pose.pose.position.x, message.pose.pose.position.y = self.place[:2].tolist()
        message.pose.pose.orientation.z = math.sin(self.place[2] / 2)
        message.pose.pose.orientation.w = math.cos(self.place[2] / 2)
        message.twist.twist.linear.x, message.twist.twist.angular.z = self.speed.values()

    def _fill_Clock(self, message, entry) -> None:
        codecs.fill_stamp(message.clock, self.time_ns())


class _Controller:
    """What obeys a topic: it saturates, accelerates, and stops when nothing comes, as far as its entry says."""

    def __init__(self, robot: FakeRobot, entry: dict[str, Any]):
        self._robot, self._entry = robot, entry
        kind = qos.message_type(Topic(entry['topic'], entry['type'], QoS(1)))
        node = robot.node(entry['node'])
        self._messages: list[Any] = []
        node.create_subscription(kind, entry['topic'], self._messages.append, profile(entry['qos']))
        if node not in robot._executor.get_nodes():
            robot._executor.add_node(node)
        self.goal: dict[str, float] = {}
        self.weight = (False, 0, -math.inf)  # whether it is commanded, its priority, and since when
        self._reach = 0.0  # when a trajectory ends, in monotonic seconds

    def poll(self, now: float) -> None:
        """Take a command; without one for `timeout` seconds, stop."""
        _, priority, since = self.weight
        if now - since > self._entry.get('timeout', math.inf):
            self.goal, self.weight = dict.fromkeys(self.goal, 0.0), (False, priority, since)
        while self._messages:
            message = self._messages.pop(0)
            kind = self._entry['type'].rpartition('/')[2]
            goal = getattr(self, f'_read_{kind}')(message)
            if goal is not None and self._entry.get('active', True):
                self.goal, self.weight = goal, (True, self._entry.get('priority', 0), now)
                self._robot.commands[self._entry['topic']] += 1

    def drive(self, name: str, elapsed: float) -> None:
        """Move a joint, or the base, towards the goal for a while."""
        robot, entry, goal = self._robot, self._entry, self.goal[name]
        if name in robot.speed:
            most, gain = entry['limits'][name]
            step = gain * elapsed
            change = min(max(goal, -most), most) - robot.speed[name]
            robot.speed[name] += min(max(change, -step), step)
            return
        if entry.get('interface') != 'velocity':
            left = max(self._reach - time.monotonic(), elapsed, 1e-3)
            goal = (goal - robot.joints[name]) / left
        most = robot.table['joints'][name]['velocity']
        robot.velocities[name] = min(max(goal, -most), most)

    def _read_Twist(self, message) -> dict[str, float]:
        return {'linear.x': message.linear.x, 'angular.z': message.angular.z}

    def _read_TwistStamped(self, message) -> dict[str, float] | None:
        age = self._robot.time_ns() - codecs.stamp_to_ns(message.header.stamp)
        if self._entry.get('refuses_old') and age > self._entry['timeout'] * 1e9:
            return None
        return self._read_Twist(message.twist)

    def _read_Float64MultiArray(self, message) -> dict[str, float] | None:
        joints = self._entry['joints']
        if len(message.data) != len(joints) or not np.isfinite(message.data).all():
            return None  # the controller only logs it
        return dict(zip(joints, message.data))

    def _read_JointTrajectory(self, message) -> dict[str, float] | None:
        if sorted(message.joint_names) != sorted(self._entry['joints']) or len(message.points) != 1:
            return None  # allow_partial_joints_goal is false
        [point] = message.points
        length = point.time_from_start.sec + point.time_from_start.nanosec / 1e9
        begins = message.header.stamp.sec + message.header.stamp.nanosec / 1e9  # 0: now
        over = begins and begins + length < self._robot.time_ns() / 1e9
        if over or len(point.positions) != len(message.joint_names):
            return None
        self._reach = time.monotonic() + length
        return dict(zip(message.joint_names, point.positions))
