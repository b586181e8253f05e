"""ROS messages to numpy and back.

Readers use a message's fields, not its class, so they take messages from rclpy and from a bag.
Writers fill a message that the caller made, so nothing here imports rclpy.
"""

from __future__ import annotations

import array
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.errors import InputError

STEP_NAMES = ('reward', 'is_first', 'is_last', 'is_terminal')
# Followed by an action's name: what a simulator in real time applied to arrive at the step.
APPLIED = 'applied/'
# Followed by a topic of a robot's contract: nanoseconds from the message's stamp to the step's; NaN without a message.
AGE_PREFIX = 'age/'
# Followed by who says at the end of an episode whether it was a success (1) or a failure (0).
VERDICT = 'verdict/'
# Seconds: a year before the last time that a message can hold.
LATEST = 2**31 - 366 * 86_400
AHEAD = 366 * 86_400 * 10**9  # nanoseconds
# Larger numbers become infinite in training. Comparisons with it are written so that NaN fails them too.
FLOAT32_MAX = float(np.finfo(np.float32).max)


# Stamps


def stamp_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time to nanoseconds.

    Raises:
        InputError: not between 1970 and 2037.
    """
    return _nanoseconds(stamp.sec, stamp.nanosec)


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    # Near the end of time the next stamp would not fit into its message.
    if not (0 <= seconds < LATEST and nanoseconds < 1_000_000_000):
        raise InputError(f'stamp: expected a time from 1970 to 2037, got {seconds} s and {nanoseconds} ns')
    return seconds * 1_000_000_000 + nanoseconds


def check_ahead(ns: int) -> None:
    """Refuse a stamp of a running session that lies further ahead than simulated time may have run.

    Raises:
        InputError: it is more than a year from now.
    """
    if ns > time.time_ns() + AHEAD:
        raise InputError(f'stamp: expected at most a year from now, got {ns // 1_000_000_000} s')


def fill_stamp(stamp: Any, ns: int) -> None:
    """Set a builtin_interfaces/Time from nanoseconds."""
    stamp.sec, stamp.nanosec = divmod(ns, 1_000_000_000)


def header_stamp(cdr: bytes | memoryview) -> int:
    """Nanoseconds of header.stamp in a serialised message that begins with a std_msgs/Header.

    Raises:
        InputError: too few bytes, or a stamp that is not between 1970 and 2037.
    """
    if len(cdr) < 12:
        raise InputError(f'serialised message: expected a header stamp, got {len(cdr)} bytes')
    # The second byte of the encapsulation says the byte order.
    sec, nanosec = struct.unpack_from('<iI' if cdr[1] & 1 else '>iI', cdr, 4)
    return _nanoseconds(sec, nanosec)


# Images


def join_images(images: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate images [H, W, 3] of a robot's cameras to uint8 [H, W, 3 per image]; shape [0, 0, 0] without any."""
    if len(images) == 1:
        return images[0]
    return np.concatenate(images, -1) if images else np.zeros((0, 0, 0), np.uint8)


def fill_image(msg: Any, image: np.ndarray, stamp: int, frame_id: str = 'camera') -> None:
    """Fill a sensor_msgs/Image (rgb8) from uint8 [H, W, 3]."""
    fill_stamp(msg.header.stamp, stamp)
    msg.header.frame_id = frame_id
    msg.height, msg.width = image.shape[:2]
    msg.encoding = 'rgb8'
    msg.is_bigendian = 0
    msg.step = 3 * msg.width
    # rclpy takes an array.array as it is, and checks and copies anything else byte by byte.
    data = array.array('B')
    data.frombytes(memoryview(np.ascontiguousarray(image)).cast('B'))
    msg.data = data


def fill_camera_info(
    msg: Any, width: int, height: int, k: Sequence[float], stamp: int, frame_id: str = 'camera'
) -> None:
    """Fill a sensor_msgs/CameraInfo of an ideal pinhole. k is the intrinsic matrix, 9 values row by row."""
    fill_stamp(msg.header.stamp, stamp)
    msg.header.frame_id = frame_id
    msg.height, msg.width = height, width
    k = [float(value) for value in np.asarray(k).ravel()]
    msg.distortion_model = 'plumb_bob'
    msg.d = [0.0] * 5
    msg.k = k
    msg.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    msg.p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]


# Joint states


def fill_joint_state(msg: Any, names: Sequence[str], position: np.ndarray, velocity: np.ndarray, stamp: int) -> None:
    """Fill a sensor_msgs/JointState; position and velocity are float64 [J] in rad or m, and per second."""
    fill_stamp(msg.header.stamp, stamp)
    msg.name = list(names)
    msg.position = array.array('d', np.asarray(position, np.float64).tobytes())
    msg.velocity = array.array('d', np.asarray(velocity, np.float64).tobytes())


def read_vector(msg: Any, names: Sequence[str]) -> np.ndarray:
    """Pick scalar inputs such as `slider/position` and `hinge/velocity` from a sensor_msgs/JointState.

    The names are those of state interfaces in ros2_control.

    Returns:
        float32 [len(names)].

    Raises:
        InputError: a position or velocity is missing or not finite.
    """
    values = dict(zip((f'{name}/position' for name in msg.name), msg.position))
    values.update(zip((f'{name}/velocity' for name in msg.name), msg.velocity))
    missing = [name for name in names if name not in values]
    if missing:  # a value that belongs to no joint is a position under its own name
        values.update(zip(msg.name, msg.position))
        missing = [name for name in names if name not in values]
    if missing:
        raise InputError(f'joint_states: expected {", ".join(missing)}, got {", ".join(values) or "nothing"}')
    vector = np.array([values[name] for name in names], np.float64)
    if not (np.abs(vector) <= FLOAT32_MAX).all():
        raise InputError(f'joint_states: expected finite values, got {vector.tolist()}')
    return vector.astype(np.float32)


# Step scalars


class Step(NamedTuple):
    """Reward and flags of arriving at an observation."""

    stamp: int
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool


def read_step(msg: Any) -> Step:
    """Read the step scalars from a sensor_msgs/JointState.

    Raises:
        InputError: a scalar is missing, the reward is not finite, or a flag is neither 0 nor 1.
    """
    values = dict(zip(msg.name, (float(value) for value in msg.position)))
    if any(name not in values for name in STEP_NAMES):
        raise InputError(f'step: expected {", ".join(STEP_NAMES)}, got {", ".join(values) or "nothing"}')
    reward, *flags = (values[name] for name in STEP_NAMES)
    if not abs(reward) <= FLOAT32_MAX:
        raise InputError(f'step: expected a finite reward, got {reward}')
    if any(flag not in (0.0, 1.0) for flag in flags):
        raise InputError(f'step: expected flags 0 or 1, got {dict(zip(STEP_NAMES[1:], flags))}')
    return Step(stamp_to_ns(msg.header.stamp), reward, *(flag == 1.0 for flag in flags))


class Verdict(NamedTuple):
    """Whether an episode was a success, and who says so: `joystick`, `person` (by a service) or `classifier`."""

    success: bool
    by: str

    def data(self) -> dict[str, str]:
        """For custom_data of a bag."""
        return {'verdict': 'success' if self.success else 'failure', 'verdict_by': self.by}


def read_verdict(msg: Any) -> Verdict | None:
    """The verdict of a step's sensor_msgs/JointState, if it has one."""
    for name, value in zip(msg.name, msg.position):
        if name.startswith(VERDICT):
            return Verdict(value == 1.0, name[len(VERDICT) :])
    return None


def fill_step(msg: Any, step: Step) -> None:
    """Fill a sensor_msgs/JointState with the step scalars."""
    fill_stamp(msg.header.stamp, step.stamp)
    msg.name = list(STEP_NAMES)
    msg.position = array.array('d', [step.reward, step.is_first, step.is_last, step.is_terminal])


# Actions


class Mode(NamedTuple):
    """Who chose an action: `kind` is random, explore, evaluate or human; `version` is the policy's, if any."""

    kind: str
    version: int | None = None

    def __str__(self) -> str:
        """The text in header.frame_id: `random`, `human`, `policy/12/explore`, `policy/12/evaluate`."""
        return self.kind if self.version is None else f'policy/{self.version}/{self.kind}'


def parse_mode(text: str) -> Mode:
    """Read a mode from header.frame_id of an action.

    Raises:
        InputError: it is none of the known forms.
    """
    parts = text.split('/')
    if text in ('random', 'human'):
        return Mode(text)
    if len(parts) == 3 and parts[0] == 'policy' and parts[1].isdecimal():
        if parts[2] in ('explore', 'evaluate'):
            return Mode(parts[2], int(parts[1]))
    raise InputError(f'action: expected frame_id random, human or policy/<version>/<explore|evaluate>, got {text!r}')


def fill_action(msg: Any, action: np.ndarray, stamp: int, mode: Mode | str) -> None:
    """Fill a sensor_msgs/Joy with an action float [A] in [-1, 1] that answers the observation of that stamp."""
    fill_stamp(msg.header.stamp, stamp)
    msg.header.frame_id = str(mode)
    msg.axes = array.array('f', np.asarray(action, np.float32).tobytes())


def read_action(axes: Sequence[float] | np.ndarray, size: int) -> np.ndarray:
    """Check the axes of an action, as a sensor_msgs/Joy has them.

    Returns:
        float32 [size], clipped to [-1, 1].

    Raises:
        InputError: another length, or not finite.
    """
    action = np.array(axes, np.float32)
    if action.shape != (size,):
        raise InputError(f'action: expected {size} axes, got {action.size}')
    if not np.isfinite(action).all():
        raise InputError(f'action: expected finite axes, got {action.tolist()}')
    return np.clip(action, -1.0, 1.0)
