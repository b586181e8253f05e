"""Episodes as NumPy files (.npz), named as in Gymnasium: what most learning code reads and writes.

One file is one episode of T actions:

| key | content |
|---|---|
| `observations/image` | uint8 [T+1, H, W, 3 per camera] |
| `observations/vector` | float [T+1, N] |
| `actions` | float [T, A] in [-1, 1], or between `action_low` and `action_high` [A]; whole numbers [T] for choices |
| `rewards` | float [T], what each action earned |
| `terminations`, `truncations` | bool [T], the last one says how it ended |

A single array may be called `observations`. `spec` (JSON of a RobotSpec), `stamps` (int64 [T+1] ns) and `meta` (JSON)
are written, too, and used where they are there.
"""
from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from dreamer_ros.bridge.codecs import STEP_NAMES, Mode, fill_stamp
from dreamer_ros.bridge.definitions import blank_message, encode
from dreamer_ros.bridge.topics import ACTION, JOINT_STATES, STEP, Topic, images
from dreamer_ros.errors import InputError
from dreamer_ros.replay.episode import Episode, Problem
from dreamer_ros.spec import RobotSpec

ARRAYS = '.npz'
# Stamps of a file that has none count from 2000-01-01: the same file gives the same bag.
EPOCH = 946_684_800_000_000_000
MOST_CHOICES = 1000


def write_arrays(path: Path, episode: Episode, spec: RobotSpec) -> None:
    """Write an episode.

    Raises:
        InputError: the disk refuses.
    """
    arrays: Dict[str, Any] = {
        'actions': episode.action[:-1], 'rewards': episode.reward[1:], 'terminations': episode.is_terminal[1:],
        'truncations': episode.is_last[1:] & ~episode.is_terminal[1:],
        'stamps': episode.stamp, 'spec': np.array(spec.to_json()), 'meta': np.array(json.dumps(episode.meta))}
    if spec.cameras:
        arrays['observations/image'] = episode.image
    if spec.vector:
        arrays['observations/vector'] = episode.vector
    try:
        with path.open('xb') as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise InputError(f'{path}: can not be written ({error.strerror})') from error


def read_arrays(
    path: Path, period: Optional[float], problems: List[Problem]
) -> Tuple[RobotSpec, Dict[str, str], Iterator[Tuple[Topic, Tuple[str, bytes, int]]]]:
    """An episode as messages of our own topics.

    Args:
        period: s between two steps, for files without `spec`.
        problems: gets what is left out.

    Returns:
        The robot, what custom_data says, and the messages: topic, and (name, CDR bytes, stamp).

    Raises:
        InputError: the file can't be read, or arrays do not fit.
    """
    arrays = _load(path)
    image, vector = _observations(arrays)
    actions, rewards = (_take(arrays, key) for key in ('actions', 'rewards'))
    length = len(image if image is not None else vector)
    if not len(actions) == len(rewards) == length - 1 or length < 2:
        raise InputError(f'expected one action and one reward less than observations, got {len(actions)} actions, '
                         f'{len(rewards)} rewards and {length} observations')
    terminations, truncations = (_flags(arrays, key, len(rewards)) for key in ('terminations', 'truncations'))
    if (terminations | truncations)[:-1].any():
        raise InputError('expected one episode in a file, but it ends before the last step')
    if not np.isfinite(rewards).all() or (vector is not None and not np.isfinite(vector).all()):
        raise InputError('expected finite observations and rewards')
    in_units = 'action_low' in arrays or 'action_high' in arrays
    spec = _spec(path, arrays, image, vector, actions, period)
    actions = _actions(spec, actions, in_units)
    stamps = _stamps(arrays, length, spec)
    unknown = sorted(arrays)
    if unknown:
        problems.append(Problem(path, f'not used: {", ".join(unknown)}'))
    total = float(rewards.sum(dtype=np.float64))
    meta = {'length': str(length), 'return': repr(total), 'mode': 'human', 'policy_version': '',
            'begins': str(int(stamps[0]))}
    last = length - 1
    rows = (
        message
        for k, stamp in enumerate(stamps.tolist())
        for message in _messages(
            spec, stamp, None if image is None else image[k], None if vector is None else vector[k],
            actions[min(k, last - 1)] * (k < last), 0.0 if k == 0 else float(rewards[k - 1]),
            (k == 0, k == last and bool(terminations[-1] or truncations[-1]), k == last and bool(terminations[-1]))))
    return spec, meta, rows


def _load(path: Path) -> Dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    # What damaged zip files and headers of arrays provoke.
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, MemoryError,
            SyntaxError, RuntimeError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(f'it is no NumPy file that can be read ({error})') from error


def _take(arrays: Dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise InputError(f'expected an array {key}, got {", ".join(sorted(arrays)) or "none"}')
    array = arrays.pop(key)
    if array.dtype.kind not in 'iufb' or array.ndim == 0:
        raise InputError(f'{key}: expected an array of numbers, got {array.dtype} {list(array.shape)}')
    return array


def _flags(arrays: Dict[str, np.ndarray], key: str, length: int) -> np.ndarray:
    if key not in arrays:
        return np.zeros(length, bool)
    flags = _take(arrays, key)
    if flags.shape != (length,) or not np.isin(flags, (0, 1)).all():
        raise InputError(f'{key}: expected {length} flags, got {list(flags.shape)} of {flags.dtype}')
    return flags.astype(bool)


def _observations(arrays: Dict[str, np.ndarray]) -> Tuple[Optional[np.ndarray], Optional[np.ndarray]]:
    """Images uint8 [T+1, H, W, C] and vectors float [T+1, N], or None each."""
    if 'observations' in arrays:
        key = 'observations/image' if arrays['observations'].ndim == 4 else 'observations/vector'
        arrays.setdefault(key, arrays.pop('observations'))
    image = _take(arrays, 'observations/image') if 'observations/image' in arrays else None
    vector = _take(arrays, 'observations/vector') if 'observations/vector' in arrays else None
    if image is not None:
        if image.ndim == 4 and image.shape[1] in (3, 6, 9) and image.shape[3] not in (3, 6, 9):
            image = image.transpose(0, 2, 3, 1)
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] % 3 or not image.shape[3]:
            raise InputError(
                f'observations/image: expected uint8 [T+1, H, W, 3], got {image.dtype} {list(image.shape)}')
    if vector is not None and vector.ndim != 2:
        raise InputError(f'observations/vector: expected [T+1, N], got {list(vector.shape)}')
    if image is None and vector is None:
        raise InputError('expected observations, observations/image or observations/vector, got '
                         f'{", ".join(sorted(arrays)) or "none"}')
    if image is not None and vector is not None and len(image) != len(vector):
        raise InputError(f'expected as many images as vectors, got {len(image)} and {len(vector)}')
    return image, vector


def _spec(
    path: Path, arrays: Dict[str, np.ndarray], image: Optional[np.ndarray], vector: Optional[np.ndarray],
    actions: np.ndarray, period: Optional[float]
) -> RobotSpec:
    """The robot as the file says, else as the arrays look."""
    limits = {key: _take(arrays, key) for key in ('action_low', 'action_high') if key in arrays}
    arrays.pop('meta', None)
    if 'spec' in arrays:
        spec = RobotSpec.from_json(str(arrays.pop('spec')), path.name)
        if limits:
            raise InputError('expected spec or action_low and action_high, got both')
        shape = (0, 0, 0) if image is None else image.shape[1:]
        if shape != spec.image_shape or (0 if vector is None else vector.shape[1]) != len(spec.vector):
            raise InputError(f'the observations are others than those of spec: images {list(shape)} and '
                             f'{0 if vector is None else vector.shape[1]} numbers')
        return spec
    if period is None:
        raise InputError('it does not tell the time between two steps: expected --period')
    discrete = actions.ndim == 1 and actions.dtype.kind in 'iu'
    if discrete and (actions.min() < 0 or actions.max() >= MOST_CHOICES):
        raise InputError(f'actions: expected choices from 0, got {actions.min()} to {actions.max()}')
    if not discrete and actions.ndim != 2:
        raise InputError(f'actions: expected [T, A] or whole numbers [T], got {actions.dtype} {list(actions.shape)}')
    size = max(2, int(actions.max()) + 1) if discrete else actions.shape[1]
    low, high = (limits.get(key, np.full(size, default)) for key, default in (
        ('action_low', 0.0 if discrete else -1.0), ('action_high', 1.0)))
    if low.shape != (size,) or high.shape != (size,) or not (low < high).all():
        raise InputError(f'action_low, action_high: expected {size} limits each, the low ones below the high ones')
    cameras = () if image is None else ('camera', *(f'camera{k}' for k in range(1, image.shape[3] // 3)))
    return RobotSpec(
        name=path.parent.name or path.stem,
        image_size=(0, 0) if image is None else image.shape[1:3],
        vector=[f'v{k}/position' for k in range(0 if vector is None else vector.shape[1])],
        action=[f'a{k}' for k in range(size)], action_low=low, action_high=high, control_period=period,
        action_repeat=1, cameras=cameras, discrete=discrete)


def _actions(spec: RobotSpec, actions: np.ndarray, in_units: bool) -> np.ndarray:
    """float32 [T, A] in [-1, 1], of actions that are so already or between the limits."""
    size = len(spec.action)
    if spec.discrete and actions.ndim == 1:
        if actions.max() >= size:
            raise InputError(f'actions: expected choices below {size}, got {actions.max()}')
        return np.eye(size, dtype=np.float32)[actions.astype(int)]
    if actions.shape[1:] != (size,) or not np.isfinite(actions).all():
        raise InputError(f'actions: expected finite [T, {size}], got {list(actions.shape)}')
    scaled = actions
    if in_units:
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        scaled = (actions - low) / (high - low) * 2 - 1
    if np.abs(scaled).max() > 1 + 1e-6:
        raise InputError('actions: expected numbers in [-1, 1], or action_low and action_high that they lie between, '
                         f'got {actions.min():g} to {actions.max():g}')
    return np.clip(scaled, -1, 1).astype(np.float32)


def _stamps(arrays: Dict[str, np.ndarray], length: int, spec: RobotSpec) -> np.ndarray:
    if 'stamps' not in arrays:
        return EPOCH + (np.arange(length) * round(spec.control_period * 1e9)).astype(np.int64)
    stamps = _take(arrays, 'stamps')
    if stamps.shape != (length,) or stamps.dtype.kind not in 'iu' or stamps[0] < 0 or not (np.diff(stamps) > 0).all():
        raise InputError(f'stamps: expected {length} growing whole numbers, got {stamps.dtype} {list(stamps.shape)}')
    return stamps


def _messages(
    spec: RobotSpec, stamp: int, image: Optional[np.ndarray], vector: Optional[np.ndarray], action: np.ndarray,
    reward: float, flags: Tuple[bool, bool, bool]
) -> Iterator[Tuple[Topic, Tuple[str, bytes, int]]]:
    """The messages of one step."""
    def finished(topic: Topic, message: Any) -> Tuple[Topic, Tuple[str, bytes, int]]:
        fill_stamp(message.header.stamp, stamp)
        topic = topic.within('')
        return topic, (topic.name, encode(message, topic.type), stamp)

    for number, topic in enumerate(images(spec.cameras)):
        message = blank_message(topic.type)
        message.height, message.width = image.shape[:2]
        message.encoding, message.step = 'rgb8', 3 * message.width
        message.data = np.ascontiguousarray(image[:, :, 3 * number:3 * number + 3]).ravel()
        yield finished(topic, message)
    if vector is not None:
        message = blank_message(JOINT_STATES.type)
        joints = list(dict.fromkeys(name.rpartition('/')[0] or name for name in spec.vector))
        message.name = joints
        values = dict(zip(spec.vector, vector.tolist()))
        message.position, message.velocity = (
            np.array([values.get(f'{joint}/{quantity}', values.get(joint, 0.0)) for joint in joints])
            for quantity in ('position', 'velocity'))
        yield finished(JOINT_STATES, message)
    message = blank_message(STEP.type)
    message.name, message.position = list(STEP_NAMES), np.array([reward, *flags], np.float64)
    yield finished(STEP, message)
    message = blank_message(ACTION.type)
    message.header.frame_id = str(Mode('human'))
    message.axes = action.astype(np.float32)
    yield finished(ACTION, message)
