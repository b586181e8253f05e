"""Real bags for tests: random steps as CDR messages, written by `EpisodeWriter`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy

from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.definitions import decode, typestore

PERIOD_NS = 80_000_000
START_NS = 1_800_000_000_123_456_789
JOINTS = ('slider', 'hinge')
SPEC = RobotSpec(
    name='test',
    image_size=(16, 12),
    vector=('hinge/position', 'slider/velocity'),
    action=('motor', 'brake'),
    action_low=(-1.0, 0.0),
    action_high=(1.0, 5.0),
    control_period=PERIOD_NS / 1e9,
    action_repeat=8,
)


# The same robot with other senses.
TWO_CAMERAS = dataclasses.replace(SPEC, cameras=('camera', 'wrist'))
BLIND = dataclasses.replace(SPEC, cameras=(), image_size=(0, 0))


def random_episode(
    rng: np.random.Generator, length: int, start: int = START_NS, last: bool = True, spec: RobotSpec = SPEC
) -> Episode:
    """An episode that fits the spec, of random numbers; `last` says whether it comes to its end."""

    def flag(row: int, value: bool = True) -> np.ndarray:
        return np.arange(length) == (row if value else -1)

    return Episode(
        image=rng.integers(0, 256, (length, *spec.image_shape), np.uint8),
        vector=rng.normal(size=(length, 2)).astype(np.float32),
        action=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        reward=rng.normal(size=length).astype(np.float32),
        is_first=flag(0),
        is_last=flag(length - 1, last),
        is_terminal=flag(length - 1, bool(rng.integers(2)) and last),
        stamp=start + PERIOD_NS * np.arange(length),
    )


def messages(
    episode: Episode, mode: codecs.Mode = codecs.Mode('explore', 7), spec: RobotSpec = SPEC
) -> list[tuple[topics.Topic, object, int]]:
    """The messages of each step as rclpy objects, with their stamps: five of a robot with one camera."""
    out = []
    for k, stamp in enumerate(episode.stamp.tolist()):
        images, infos = [Image() for _ in spec.cameras], [CameraInfo() for _ in spec.cameras]
        joints, step, action = JointState(), JointState(), Joy()
        height, width = episode.image.shape[1:3]
        for number, camera in enumerate(spec.cameras):
            codecs.fill_image(images[number], episode.image[k, ..., 3 * number : 3 * number + 3], stamp, camera)
            codecs.fill_camera_info(infos[number], width, height, [9, 0, 5.5, 0, 9, 7.5, 0, 0, 1], stamp, camera)
        hinge, slider = episode.vector[k]
        codecs.fill_joint_state(joints, JOINTS, [0.25, hinge], [slider, -0.5], stamp)
        codecs.fill_step(
            step,
            codecs.Step(
                stamp,
                float(episode.reward[k]),
                bool(episode.is_first[k]),
                bool(episode.is_last[k]),
                bool(episode.is_terminal[k]),
            ),
        )
        codecs.fill_action(action, episode.action[k], stamp, mode)
        row = (*images, *infos, joints, step, action)
        out += [(topic, message, stamp) for topic, message in zip(topics.per_step(spec.cameras), row)]
    return out


def to_cdr(message: object, type_name: str) -> bytes:
    """CDR of a message without the slack that `serialize_message` leaves behind it."""
    return bytes(typestore().serialize_cdr(decode(serialize_message(message), type_name), type_name))


def cdr_messages(
    episode: Episode, robot: str = 'sim0', spec: RobotSpec = SPEC, mode: codecs.Mode = codecs.Mode('explore', 7)
) -> list[tuple[str, bytes, int]]:
    """The messages of an episode as `EpisodeWriter.write` takes them."""
    return [
        (topic.within(robot).name, to_cdr(message, topic.type), stamp)
        for topic, message, stamp in messages(episode, mode, spec)
    ]


def write_raw(
    folder: Path,
    name: str,
    rows: list[tuple[str, bytes, int]],
    custom_data: dict[str, str] | None = None,
    robot: str = 'sim0',
    spec: RobotSpec = SPEC,
) -> Path:
    """Write messages as a bag."""
    names = [topic.within(robot) for topic in topics.per_step(spec.cameras)]
    writer = EpisodeWriter(folder, name, names, {'robot': robot})
    for row in rows:
        writer.write(*row)
    return writer.close({'spec_hash': spec.hash, 'spec': spec.to_json(), **(custom_data or {})})


def write_episode(
    folder: Path,
    name: str,
    episode: Episode,
    custom_data: dict[str, str] | None = None,
    robot: str = 'sim0',
    spec: RobotSpec = SPEC,
) -> Path:
    """Write an episode as a bag."""
    summary = {'return': repr(episode.total_reward), 'length': str(len(episode))}
    rows = cdr_messages(episode, robot, spec)
    return write_raw(folder, name, rows, {**summary, **(custom_data or {})}, robot, spec)


def assert_equal(found: Episode, expected: Episode, rows: slice = slice(None)) -> None:
    """Every array bit for bit."""
    for key in ('stamp', 'image', 'vector', 'action', 'reward', 'is_first', 'is_last', 'is_terminal'):
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key)[rows], err_msg=key)
