"""Bags of a robot with a contract, as its recorder or somebody's `ros2 bag record` leaves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.episode import contract_data
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.definitions import blank_message, encode

TINY = """
name: tiny
rate: 10
max_age: 0.5
image_size: [6, 8]
cameras:
  camera: {topic: camera/image_raw, type: sensor_msgs/msg/Image}
vector:
  - {name: wheel, topic: joint_states, type: sensor_msgs/msg/JointState, field: 'velocity[wheel]'}
  - {name: range, topic: range, type: std_msgs/msg/Float64, field: data}
command:
  topic: cmd_vel
  type: geometry_msgs/msg/Twist
  axes:
    - {name: forward, field: linear.x, limits: [-2, 2]}
    - {name: turn, field: angular.z, limits: [-1, 3]}
  stop: zero
  controller_timeout: 0.5
"""
REWARDED = (
    TINY
    + """
reward: {topic: range, type: std_msgs/msg/Float64, field: data}
"""
)
PERIOD = 100_000_000
START = 1_790_000_000_000_000_007


def contract(text: str = TINY) -> RobotContract:
    return RobotContract.from_text(text, 'tiny.yaml')


class Sent(NamedTuple):
    """A message of the robot: stamp (ns), bytes, and the value that it stands for."""

    stamp: int
    cdr: bytes
    value: object


def sensors(rng: np.random.Generator, seconds: float) -> dict[str, list[Sent]]:
    """What a camera at 30 Hz, encoders at 100 Hz and a range finder without stamps at 17 Hz say."""
    sent: dict[str, list[Sent]] = {}
    for topic, rate in (('camera/image_raw', 30), ('joint_states', 100), ('range', 17)):
        times = START + (np.arange(int(seconds * rate)) / rate * 1e9).astype(np.int64)
        times += rng.integers(0, int(2e8 / rate), len(times))
        sent[topic] = [_sensed(rng, topic, int(time)) for time in times]
    return sent


def _sensed(rng: np.random.Generator, topic: str, stamp: int) -> Sent:
    if topic == 'camera/image_raw':
        image, message = rng.integers(0, 256, (6, 8, 3), np.uint8), blank_message('sensor_msgs/msg/Image')
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        message.height, message.width, message.step, message.encoding = 6, 8, 24, 'rgb8'
        message.data = image.ravel()
        return Sent(stamp, encode(message, 'sensor_msgs/msg/Image'), image)
    value = float(rng.normal())
    if topic == 'range':
        message = blank_message('std_msgs/msg/Float64')
        message.data = value
        return Sent(stamp, encode(message, 'std_msgs/msg/Float64'), value)
    message = blank_message('sensor_msgs/msg/JointState')
    codecs.fill_joint_state(message, ['arm', 'wheel'], [0.0, 0.0], [1.0, value], stamp)
    message.position, message.velocity = np.zeros(2), np.array([1.0, value])
    return Sent(stamp, encode(message, 'sensor_msgs/msg/JointState'), value)


def step_cdr(stamp: int, reward: float, flags: tuple[bool, bool, bool], ages: dict[str, int]) -> bytes:
    """A `step` as the robot's agent publishes it."""
    message = blank_message('sensor_msgs/msg/JointState')
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.name = [*codecs.STEP_NAMES, *(f'age/{topic}' for topic in ages)]
    message.position = np.array([reward, *flags, *ages.values()], np.float64)
    return encode(message, topics.STEP.type)


def action_cdr(stamp: int, action: np.ndarray, mode: str = 'policy/3/explore') -> bytes:
    """An `action` as the robot's agent publishes it."""
    message = blank_message('sensor_msgs/msg/Joy')
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    message.header.frame_id = mode
    message.axes = action.astype(np.float32)
    return encode(message, topics.ACTION.type)


class Played(NamedTuple):
    """What an agent saw and did: one entry per tick. `rows` are messages for a bag: topic, bytes, stamp."""

    stamps: list[int]
    images: list[np.ndarray]
    vectors: list[list[float]]
    actions: list[np.ndarray]
    rewards: list[float]
    rows: list[tuple[str, bytes, int]]


def played(rng: np.random.Generator, sent: dict[str, list[Sent]], ticks: int) -> Played:
    """An agent whose messages take their time: what it uses is not always the newest by its stamp."""
    out = Played([], [], [], [], [], [(topic, entry.cdr, entry.stamp) for topic in sent for entry in sent[topic]])
    commands = Commands(contract())
    for k in range(ticks):
        stamp = START + 300_000_000 + k * PERIOD + int(rng.integers(0, 10**6))
        used = {}
        for topic, entries in sent.items():
            seen = [entry for entry in entries if entry.stamp + int(rng.integers(0, 2 * 10**7)) <= stamp]
            used[topic] = seen[-1]
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        reward = 0.0 if k == 0 else float(np.float32(rng.normal()))
        ages = {topic: stamp - entry.stamp for topic, entry in used.items()}
        flags = (k == 0, k == ticks - 1, False)
        out.rows.append(('step', step_cdr(stamp, reward, flags, ages), stamp))
        out.rows.append(('action', action_cdr(stamp, action), stamp + 10**6))
        out.rows.append(('cmd_vel', *commands.encode(commands.values(action), stamp), stamp + 2 * 10**6))
        out.stamps.append(stamp)
        out.images.append(used['camera/image_raw'].value)
        out.vectors.append([used['joint_states'].value, used['range'].value])
        out.actions.append(action)
        out.rewards.append(reward)
    return out


def observations(agent: Played) -> list[tuple[str, bytes, int]]:
    """What the agent published of what it saw."""
    rows = []
    for stamp, image, vector in zip(agent.stamps, agent.images, agent.vectors):
        message = blank_message('sensor_msgs/msg/Image')
        codecs.fill_image(message, image, stamp)
        message.data = image.ravel()
        rows.append(('observation/camera/image', encode(message, 'sensor_msgs/msg/Image'), stamp + 1000))
        message = blank_message('sensor_msgs/msg/JointState')
        codecs.fill_stamp(message.header.stamp, stamp)
        message.name, message.position = ['wheel', 'range'], np.float32(vector).astype(np.float64)
        rows.append(('observation/vector', encode(message, 'sensor_msgs/msg/JointState'), stamp + 1000))
    return rows


def write_robot_bag(
    folder: Path,
    name: str,
    rows: list[tuple[str, bytes, int]],
    embedded: RobotContract | None = None,
    namespace: str = 'robot',
    types: Mapping[str, str] = {},
) -> Path:
    """Write messages under the contract's topics, which may be said to be of other types; with the contract itself
    if it is given."""
    tiny = contract()
    names = [
        dataclasses.replace(topic.within(namespace), type=types.get(topic.name, topic.type))
        for topic in (*tiny.topics, *tiny.command_topics, topics.STEP, topics.ACTION)
    ]
    if any(topic == topics.OBSERVED_VECTOR.name for topic, _, _ in rows):
        seen = (*topics.observed_images(tiny.cameras), topics.OBSERVED_VECTOR)
        names += [topic.within(namespace) for topic in seen]
    custom = (
        {}
        if embedded is None
        else {**contract_data(embedded), 'spec': embedded.spec.to_json(), 'spec_hash': embedded.spec.hash}
    )
    writer = EpisodeWriter(folder, name, names, custom)
    for topic, cdr, stamp in sorted(rows, key=lambda row: row[2]):
        writer.write(f'/{namespace}/{topic}', cdr, stamp)
    return writer.close({})
