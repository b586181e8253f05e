"""Real bags for tests: random steps as CDR messages, written by `EpisodeWriter`."""
from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy

from dreamer_ros.bridge import codecs, topics
from dreamer_ros.bridge.definitions import decode, typestore
from dreamer_ros.replay.bag import EpisodeWriter
from dreamer_ros.replay.episode import Episode
from dreamer_ros.spec import RobotSpec

PERIOD_NS = 80_000_000
START_NS = 1_800_000_000_123_456_789
JOINTS = ('slider', 'hinge')
SPEC = RobotSpec(
    name='test', image_size=(16, 12), vector=('hinge/position', 'slider/velocity'), action=('motor', 'brake'),
    action_low=(-1.0, 0.0), action_high=(1.0, 5.0), control_period=PERIOD_NS / 1e9, action_repeat=8,
)


def random_episode(
    rng: np.random.Generator, length: int, start: int = START_NS, last: bool = True
) -> Episode:
    """An episode that fits SPEC, of random numbers; `last` says whether it comes to its end."""
    def flag(row: int, value: bool = True) -> np.ndarray:
        return np.arange(length) == (row if value else -1)

    return Episode(
        image=rng.integers(0, 256, (length, *SPEC.image_size, 3), np.uint8),
        vector=rng.normal(size=(length, 2)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        reward=rng.normal(size=length).astype(np.float32),
        is_first=flag(0),
        is_last=flag(length - 1, last),
        is_terminal=flag(length - 1, bool(rng.integers(2)) and last),
        stamp=start + PERIOD_NS * np.arange(length),
    )


def messages(
    episode: Episode, mode: codecs.Mode = codecs.Mode('explore', 7)
) -> List[Tuple[topics.Topic, object, int]]:
    """The five messages of each step as rclpy objects, with their stamps."""
    out = []
    for k, stamp in enumerate(episode.stamp.tolist()):
        image, info, joints, step, action = Image(), CameraInfo(), JointState(), JointState(), Joy()
        codecs.fill_image(image, episode.image[k], stamp)
        height, width = episode.image.shape[1:3]
        codecs.fill_camera_info(info, width, height, [9, 0, 5.5, 0, 9, 7.5, 0, 0, 1], stamp)
        hinge, slider = episode.vector[k]
        codecs.fill_joint_state(joints, JOINTS, [0.25, hinge], [slider, -0.5], stamp)
        codecs.fill_step(step, codecs.Step(
            stamp, float(episode.reward[k]), bool(episode.is_first[k]), bool(episode.is_last[k]),
            bool(episode.is_terminal[k])))
        codecs.fill_action(action, episode.action[k], stamp, mode)
        row = (image, info, joints, step, action)
        out += [(topic, message, stamp) for topic, message in zip(topics.PER_STEP, row)]
    return out


def to_cdr(message: object, type_name: str) -> bytes:
    """CDR of a message without the slack that `serialize_message` leaves behind it."""
    return bytes(typestore().serialize_cdr(decode(serialize_message(message), type_name), type_name))


def cdr_messages(episode: Episode, robot: str = 'sim0') -> List[Tuple[str, bytes, int]]:
    """The messages of an episode as `EpisodeWriter.write` takes them."""
    return [
        (topic.within(robot).name, to_cdr(message, topic.type), stamp)
        for topic, message, stamp in messages(episode)
    ]


def write_raw(
    folder: Path, name: str, rows: List[Tuple[str, bytes, int]], custom_data: Optional[Dict[str, str]] = None,
    robot: str = 'sim0',
) -> Path:
    """Write messages as a bag."""
    writer = EpisodeWriter(folder, name, [topic.within(robot) for topic in topics.PER_STEP], {'robot': robot})
    for row in rows:
        writer.write(*row)
    return writer.close({'spec_hash': SPEC.hash, 'spec': SPEC.to_json(), **(custom_data or {})})


def write_episode(
    folder: Path, name: str, episode: Episode, custom_data: Optional[Dict[str, str]] = None,
    robot: str = 'sim0',
) -> Path:
    """Write an episode as a bag."""
    summary = {'return': repr(episode.total_reward), 'length': str(len(episode))}
    return write_raw(folder, name, cdr_messages(episode, robot), {**summary, **(custom_data or {})}, robot)


def assert_equal(found: Episode, expected: Episode, rows: slice = slice(None)) -> None:
    """Every array bit for bit."""
    for key in ('stamp', 'image', 'vector', 'action', 'reward', 'is_first', 'is_last', 'is_terminal'):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key)[rows], err_msg=key)
