"""Episodes as NumPy files (.npz), named as in Gymnasium: what most learning code reads and writes.

One file is one episode of T actions:

| key | content |
|---|---|
| `observations/image` | uint8 [T+1, H, W, 3 per camera] |
| `observations/vector` | float [T+1, N] |
| `actions` | float [T, A] in [-1, 1], or between `action_low` and `action_high` [A]; whole numbers [T] for choices |
| `rewards` | float [T], what each action earned |
| `terminations`, `truncations` | bool [T], the last one says how it ended; or `terminated`, `truncated` |

A single array may be called `observations`. `spec` (JSON of a RobotSpec), `stamps` (int64 [T+1] ns) and `meta` (JSON,
of which the mode and the policy's version are read) are written, too, and used where they are there.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.messages import EPOCH, Sent, episode_data, episode_messages
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import Mode, parse_mode

ARRAYS = '.npz'
MOST_CHOICES = 1000
# What `Env.step` calls the flags.
STEP_FLAGS = {'terminations': 'terminated', 'truncations': 'truncated'}
# Names that do not say which of the two they mean, or that data sets of many episodes in a file have.
OTHER_FLAGS = ('done', 'dones', 'terminals', 'timeouts')


def write_arrays(path: Path, episode: Episode, spec: RobotSpec) -> None:
    """Write an episode.

    Raises:
        InputError: the disk refuses.
    """
    arrays: dict[str, Any] = {
        'actions': episode.action[:-1],
        'rewards': episode.reward[1:],
        'terminations': episode.is_terminal[1:],
        'truncations': episode.is_last[1:] & ~episode.is_terminal[1:],
        'stamps': episode.stamp,
        'spec': np.array(spec.to_json()),
        'meta': np.array(json.dumps(episode.meta)),
    }
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
    path: Path, period: float | None, problems: list[Problem]
) -> tuple[RobotSpec, dict[str, str], Iterator[Sent]]:
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
        raise InputError(
            f'expected one action and one reward less than observations, got {len(actions)} actions, '
            f'{len(rewards)} rewards and {length} observations'
        )
    if rewards.ndim != 1:
        raise InputError(f'rewards: expected [T], got {list(rewards.shape)}')
    if not finite(rewards):
        raise InputError('rewards: expected finite numbers, as float32, got others')
    ends = [_flags(arrays, key, len(rewards)) for key in STEP_FLAGS]
    if all(flags is None for flags in ends):
        problems.append(Problem(path, 'expected terminations or truncations, got none: the episode counts as cut'))
    terminations, truncations = (np.zeros(len(rewards), bool) if flags is None else flags for flags in ends)
    if (terminations | truncations)[:-1].any():
        raise InputError('terminations, truncations: expected one episode in a file, but it ends before the last step')
    mode = _mode(arrays)
    in_units = 'action_low' in arrays or 'action_high' in arrays
    spec = _spec(path, arrays, image, vector, actions, period)
    actions = _actions(spec, actions, in_units)
    stamps = _stamps(arrays, length, spec)
    unknown = sorted(arrays)
    if unknown:
        problems.append(Problem(path, f'not used: {", ".join(unknown)}'))
    episode = Episode.of_transitions(
        image, vector, actions, rewards, stamps, bool(terminations[-1] or truncations[-1]), bool(terminations[-1])
    )
    return spec, episode_data(episode, mode), episode_messages(episode, spec, mode)


def _load(path: Path) -> dict[str, np.ndarray]:
    """All arrays; for one of Python objects a single None, so that it is refused only where it is needed."""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                try:
                    arrays[name] = file[name]
                except ValueError as error:
                    if 'allow_pickle' not in str(error):
                        raise
                    arrays[name] = np.array(None)
    # What damaged zip files and headers of arrays provoke.
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        NotImplementedError,
        MemoryError,
        SyntaxError,
        RuntimeError,
        TypeError,
        OverflowError,
        UnicodeDecodeError,
    ) as error:
        raise InputError(f'it is no NumPy file that can be read ({error})') from error
    return arrays


def _take(arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise InputError(f'{key}: expected an array of that name, got none')
    array = arrays.pop(key)
    if array.dtype.kind == 'O':
        raise InputError(f'{key}: expected an array of numbers, got one of Python objects, which are never loaded')
    if array.dtype.kind not in 'iufb' or array.ndim == 0:
        raise InputError(f'{key}: expected an array of numbers, got {array.dtype} {list(array.shape)}')
    return array


def _flags(arrays: dict[str, np.ndarray], key: str, length: int) -> np.ndarray | None:
    """Bool [T], or None without such an array."""
    names = [name for name in (key, STEP_FLAGS[key]) if name in arrays]
    if len(names) > 1:
        raise InputError(f'expected {key} or {STEP_FLAGS[key]}, got both')
    if not names:
        others = [name for name in OTHER_FLAGS if name in arrays]
        if others:
            raise InputError(
                f'{others[0]}: expected terminations and truncations, which tell an end for good from one by time'
            )
        return None
    flags = _take(arrays, names[0])
    if flags.shape != (length,) or not np.isin(flags, (0, 1)).all():
        raise InputError(f'{names[0]}: expected {length} flags, got {list(flags.shape)} of {flags.dtype}')
    return flags.astype(bool)


def finite(array: np.ndarray) -> bool:
    """Whether all numbers are, as float32, which episodes are made of."""
    with np.errstate(over='ignore'):
        return bool(np.isfinite(array.astype(np.float32)).all())


def _mode(arrays: dict[str, np.ndarray]) -> Mode:
    """Who acted, as our own files say; an episode of another origin counts as a human's."""
    try:
        meta = json.loads(str(arrays.pop('meta', '{}')))
        version = meta.get('policy_version')
        return parse_mode(str(Mode(meta['mode'], int(version) if version else None)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Mode('human')


def _observations(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Images uint8 [T+1, H, W, C] and vectors float [T+1, N], or None each."""
    image_key, vector_key = 'observations/image', 'observations/vector'
    if 'observations' in arrays:
        hidden = image_key if arrays['observations'].ndim == 4 else vector_key
        if hidden in arrays:
            raise InputError(f'expected observations or {hidden}, got both')
        image_key, vector_key = ('observations', vector_key) if hidden == image_key else (image_key, 'observations')
    image, vector = (_take(arrays, key) if key in arrays else None for key in (image_key, vector_key))
    if image is not None:
        if image.ndim == 4 and image.shape[1] in (3, 6, 9) and image.shape[3] not in (3, 6, 9):
            image = image.transpose(0, 2, 3, 1)
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] % 3 or not image.size:
            raise InputError(
                f'{image_key}: expected uint8 [T+1, H, W, 3] from 0 to 255, got {image.dtype} {list(image.shape)}'
            )
    if vector is not None and vector.ndim != 2:
        raise InputError(f'{vector_key}: expected [T+1, N], got {list(vector.shape)}')
    if vector is not None and not finite(vector):
        raise InputError(f'{vector_key}: expected finite numbers, as float32, got others')
    if image is None and vector is None:
        raise InputError(
            'expected observations, observations/image or observations/vector, got '
            f'{", ".join(sorted(arrays)) or "none"}'
        )
    if image is not None and vector is not None and len(image) != len(vector):
        raise InputError(
            f'expected as many images as vectors, got {len(image)} in {image_key} and {len(vector)} in {vector_key}'
        )
    return image, vector


def _spec(
    path: Path,
    arrays: dict[str, np.ndarray],
    image: np.ndarray | None,
    vector: np.ndarray | None,
    actions: np.ndarray,
    period: float | None,
) -> RobotSpec:
    """The robot as the file says, else as the arrays look."""
    limits = {key: _take(arrays, key) for key in ('action_low', 'action_high') if key in arrays}
    if 'spec' in arrays:
        spec = RobotSpec.from_json(str(arrays.pop('spec')), 'spec')
        if limits:
            raise InputError('expected spec or action_low and action_high, got both')
        shape = (0, 0, 0) if image is None else image.shape[1:]
        if shape != spec.image_shape or (0 if vector is None else vector.shape[1]) != len(spec.vector):
            raise InputError(
                f'the observations are others than those of spec: images {list(shape)} and '
                f'{0 if vector is None else vector.shape[1]} numbers'
            )
        return spec
    if period is None:
        raise InputError('it does not tell the time between two steps: expected --period')
    discrete = actions.ndim == 1 and actions.dtype.kind in 'iu'
    if discrete and (actions.min() < 0 or actions.max() >= MOST_CHOICES):
        raise InputError(f'actions: expected choices from 0, got {actions.min()} to {actions.max()}')
    if not discrete and (actions.ndim != 2 or not actions.size):
        raise InputError(f'actions: expected [T, A] or whole numbers [T], got {actions.dtype} {list(actions.shape)}')
    size = max(2, int(actions.max()) + 1) if discrete else actions.shape[1]
    low, high = (
        limits.get(key, np.full(size, default))
        for key, default in (('action_low', 0.0 if discrete else -1.0), ('action_high', 1.0))
    )
    if low.shape != (size,) or high.shape != (size,) or not (low < high).all():
        raise InputError(f'action_low, action_high: expected {size} limits each, the low ones below the high ones')
    cameras = () if image is None else ('camera', *(f'camera{k}' for k in range(1, image.shape[3] // 3)))
    return RobotSpec(
        name=path.parent.name or path.stem,
        image_size=(0, 0) if image is None else image.shape[1:3],
        vector=[f'v{k}/position' for k in range(0 if vector is None else vector.shape[1])],
        action=[f'a{k}' for k in range(size)],
        action_low=low,
        action_high=high,
        control_period=period,
        action_repeat=1,
        cameras=cameras,
        discrete=discrete,
    )


def _actions(spec: RobotSpec, actions: np.ndarray, in_units: bool) -> np.ndarray:
    """float32 [T, A] in [-1, 1], of actions that are so already or between the limits."""
    size = len(spec.action)
    if spec.discrete and actions.ndim == 1:
        if actions.dtype.kind not in 'iu' or actions.min() < 0 or actions.max() >= size:
            raise InputError(
                f'actions: expected whole numbers from 0 to {size - 1}, got {actions.dtype} from '
                f'{actions.min():g} to {actions.max():g}'
            )
        return np.eye(size, dtype=np.float32)[actions.astype(int)]
    if actions.shape[1:] != (size,) or not np.isfinite(actions).all():
        raise InputError(f'actions: expected finite [T, {size}], got {list(actions.shape)}')
    scaled = actions
    if in_units:
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        scaled = (actions - low) / (high - low) * 2 - 1
    if np.abs(scaled).max() > 1 + 1e-6:
        raise InputError(
            'actions: expected numbers in [-1, 1], or action_low and action_high that they lie between, '
            f'got {actions.min():g} to {actions.max():g}'
        )
    return np.clip(scaled, -1, 1).astype(np.float32)


def _stamps(arrays: dict[str, np.ndarray], length: int, spec: RobotSpec) -> np.ndarray:
    if 'stamps' not in arrays:
        return EPOCH + (np.arange(length) * round(spec.control_period * 1e9)).astype(np.int64)
    stamps = _take(arrays, 'stamps')
    if stamps.shape != (length,) or stamps.dtype.kind not in 'iu' or stamps[0] < 0 or not (np.diff(stamps) > 0).all():
        raise InputError(f'stamps: expected {length} growing whole numbers, got {stamps.dtype} {list(stamps.shape)}')
    return stamps
