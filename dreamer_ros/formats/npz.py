"""Episodes as NumPy files (.npz), with the names of Gymnasium, as most learning code reads and writes them.

One file is one episode of T actions:

| key | content |
|---|---|
| `observations/image` | uint8 [T+1, H, W, 3 per camera] |
| `observations/vector` | float [T+1, N] |
| `actions` | float [T, A] in [-1, 1], or between `action_low` and `action_high` [A]; whole numbers [T] for choices |
| `rewards` | float [T], what each action earned |
| `terminations`, `truncations` | bool [T], the last one says how it ended; or `terminated`, `truncated` |

A single array may be called `observations`. We also write `spec` (JSON of a RobotSpec), `stamps` (int64 [T+1] ns) and
`meta` (JSON; the mode and the policy's version are read). They are optional.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_ros.episodes.assemble import GAP_PERIODS, LARGEST_REWARD
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.schema import load_json
from dreamer_ros.spec import ActionLimits, RobotSpec

ARRAYS = '.npz'
MOST_CHOICES = 1000
# Limits of arrays in memory: MB (10^6 bytes), or multiples of the size of their file if that is more.
LARGEST_MB, LARGEST_RATIO = 1000, 30
# First stamp (ns) of a file without stamps, the year 2000. The same file always gives the same bag.
EPOCH = 946_684_800_000_000_000
LAST_STAMP = 2**31 * 10**9  # ns; ROS counts seconds in 31 bits
IMAGE, VECTOR, SINGLE = 'observations/image', 'observations/vector', 'observations'
# Names of the flags in `Env.step`.
STEP_FLAGS = {'terminations': 'terminated', 'truncations': 'truncated'}
# Names that may mean either flag, or that belong to files of many episodes.
OTHER_FLAGS = {'done', 'dones', 'terminals', 'timeouts'}
NUMBERS = {IMAGE, VECTOR, SINGLE, 'actions', 'rewards', 'action_low', 'action_high', 'stamps'}
NUMBERS |= {*STEP_FLAGS, *STEP_FLAGS.values()}
TEXTS = {'spec', 'meta'}


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
        arrays[IMAGE] = episode.image
    if spec.vector:
        arrays[VECTOR] = episode.vector
    try:
        with path.open('xb') as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise InputError(f'{path}: can not be written ({error.strerror})') from error


def read_arrays(path: Path, period: float | None, problems: list[Problem]) -> tuple[RobotSpec, Episode]:
    """The robot and the episode of a file.

    Args:
        period: s between two steps, for files without `spec`.
        problems: gets what is left out.

    Raises:
        InputError: the file can't be read, or arrays do not fit.
    """
    arrays, unused = _load(path)
    image, vector = _observations(arrays, unused)
    for key in ('actions', 'rewards'):
        if key not in arrays:
            raise InputError(f'{key}: expected an array of that name, got none')
    actions, rewards = arrays['actions'], arrays['rewards']
    length = len(image if image is not None else vector)
    if not len(actions) == len(rewards) == length - 1 or length < 2:
        raise InputError(
            f'expected one action and one reward less than observations, got {len(actions)} actions, '
            f'{len(rewards)} rewards and {length} observations'
        )
    if rewards.ndim != 1:
        raise InputError(f'rewards: expected [T], got {list(rewards.shape)}')
    _check_finite('rewards', rewards)
    if np.abs(rewards).max() > LARGEST_REWARD:
        raise InputError(f'rewards: expected numbers within ±{LARGEST_REWARD:g}, got {np.abs(rewards).max():g}')
    ends = [_flags(arrays, unused, key, len(rewards)) for key in STEP_FLAGS]
    if all(flags is None for flags in ends):
        problems.append(Problem(path, 'expected terminations or truncations, got none: the episode counts as cut'))
    terminations, truncations = (np.zeros(len(rewards), bool) if flags is None else flags for flags in ends)
    if (terminations | truncations)[:-1].any():
        raise InputError('terminations, truncations: expected one episode in a file, but it ends before the last step')
    in_units = 'action_low' in arrays or 'action_high' in arrays
    if 'spec' in arrays and in_units:
        raise InputError('expected spec or action_low and action_high, got both')
    spec = (
        _stored_spec(str(arrays['spec']), image, vector)
        if 'spec' in arrays
        else _made_spec(path, arrays, image, vector, period)
    )
    if unused:
        problems.append(Problem(path, f'not used: {", ".join(sorted(unused))}'))
    end, cut = bool(terminations[-1]), bool(truncations[-1])
    stamps = _stamps(arrays.get('stamps'), length, spec)
    episode = Episode.of_transitions(image, vector, _actions(spec, actions, in_units), rewards, stamps, end or cut, end)
    episode.meta, episode.path = _meta(str(arrays.get('meta', '{}'))), path
    return spec, episode


def _load(path: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """The arrays whose names are known, and the names of the others, which are not loaded."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist()) / 1e6
        most = max(LARGEST_MB, LARGEST_RATIO * path.stat().st_size / 1e6)
        if size > most:
            raise InputError(f'expected arrays of {most:.0f} MB at most in a file of its size, got {size:.0f} MB')
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            for name in names & (NUMBERS | TEXTS):
                arrays[name] = _array(file, name)
    except InputError:
        raise
    except Exception as error:  # whatever damaged zip files and headers of arrays provoke
        raise InputError(f'expected a NumPy file that can be read ({error})') from error
    return arrays, names - set(arrays)


def _array(file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        array = file[name]
    except ValueError as error:
        if 'allow_pickle' not in str(error):
            raise
        array = np.array(None)
    if name in NUMBERS and (array.dtype.kind not in 'iufb' or array.ndim == 0):
        got = f'{array.dtype} {list(array.shape)}'
        if array.dtype.kind == 'O':
            got = 'one of Python objects, which are never loaded'
        raise InputError(f'{name}: expected an array of numbers, got {got}')
    return array


def _check_finite(key: str, array: np.ndarray) -> None:
    if not finite(array):
        raise InputError(f'{key}: expected finite numbers, as float32, got others')


def finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite as float32, the type of episodes."""
    with np.errstate(over='ignore'):
        return bool(np.isfinite(array.astype(np.float32)).all())


def _flags(arrays: dict[str, np.ndarray], unused: set[str], key: str, length: int) -> np.ndarray | None:
    """Bool [T], or None without such an array."""
    names = [name for name in (key, STEP_FLAGS[key]) if name in arrays]
    if len(names) > 1:
        raise InputError(f'expected {key} or {STEP_FLAGS[key]}, got both')
    if not names:
        for other in sorted(unused & OTHER_FLAGS):
            raise InputError(
                f'{other}: expected terminations and truncations, which tell a terminal state from a time limit'
            )
        return None
    flags = arrays[names[0]]
    if flags.shape != (length,) or not np.isin(flags, (0, 1)).all():
        raise InputError(f'{names[0]}: expected {length} flags, got {list(flags.shape)} of {flags.dtype}')
    return flags.astype(bool)


def _meta(text: str) -> dict[str, str]:
    """Who acted, if the file has it."""
    try:
        meta = load_json(text, 'meta')
        return {key: str(meta[key]) for key in ('mode', 'policy_version') if key in meta}
    except (ValueError, TypeError, RecursionError):
        return {}


def _observations(arrays: dict[str, np.ndarray], unused: set[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Images uint8 [T+1, H, W, C] and vectors float [T+1, N], or None each."""
    found = {key: (key, arrays[key]) for key in (IMAGE, VECTOR) if key in arrays}
    if SINGLE in arrays:
        meant = IMAGE if arrays[SINGLE].ndim == 4 else VECTOR
        if meant in found:
            raise InputError(f'expected {SINGLE} or {meant}, got both')
        found[meant] = SINGLE, arrays[SINGLE]
    if not found:
        raise InputError(
            f'expected {SINGLE}, {IMAGE} or {VECTOR}, got {", ".join(sorted({*arrays, *unused})) or "none"}'
        )
    (image_key, image), (vector_key, vector) = (found.get(key, (key, None)) for key in (IMAGE, VECTOR))
    if image is not None:
        if image.ndim == 4 and image.shape[1] in (3, 6, 9) and image.shape[3] not in (3, 6, 9):
            image = image.transpose(0, 2, 3, 1)
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] % 3 or not image.size:
            raise InputError(
                f'{image_key}: expected uint8 [T+1, H, W, 3] from 0 to 255, got {image.dtype} {list(image.shape)}'
            )
    if vector is not None:
        if vector.ndim != 2:
            raise InputError(f'{vector_key}: expected [T+1, N], got {list(vector.shape)}')
        _check_finite(vector_key, vector)
    if len(found) == 2 and len(image) != len(vector):
        raise InputError(
            f'expected as many images as vectors, got {len(image)} in {image_key} and {len(vector)} in {vector_key}'
        )
    return image, vector


def _stored_spec(text: str, image: np.ndarray | None, vector: np.ndarray | None) -> RobotSpec:
    """The robot that the file describes."""
    spec = RobotSpec.from_json(text, 'spec')
    shape, size = (0, 0, 0) if image is None else image.shape[1:], 0 if vector is None else vector.shape[1]
    if shape != spec.image_shape or size != len(spec.vector):
        raise InputError(
            f'expected the observations of spec, images {list(spec.image_shape)} and {len(spec.vector)} numbers, got '
            f'images {list(shape)} and {size} numbers'
        )
    return spec


def _made_spec(
    path: Path, arrays: dict[str, np.ndarray], image: np.ndarray | None, vector: np.ndarray | None, period: float | None
) -> RobotSpec:
    """A robot that fits the arrays."""
    actions = arrays['actions']
    if period is None:
        raise InputError('it does not hold the time between two steps: expected --period')
    discrete = actions.ndim == 1 and actions.dtype.kind in 'iu'
    if not discrete and (actions.ndim != 2 or not actions.size):
        raise InputError(f'actions: expected [T, A] or whole numbers [T], got {actions.dtype} {list(actions.shape)}')
    size = choice_count(actions, 'actions') if discrete else actions.shape[1]
    low = arrays.get('action_low', np.full(size, 0.0 if discrete else -1.0))
    high = arrays.get('action_high', np.ones(size))
    if low.shape != (size,) or high.shape != (size,) or not (low < high).all():
        raise InputError(f'action_low, action_high: expected {size} limits each, the low ones below the high ones')
    return RobotSpec(
        name=path.parent.name or path.stem,
        image_size=(0, 0) if image is None else image.shape[1:3],
        vector=tuple(f'v{k}/position' for k in range(0 if vector is None else vector.shape[1])),
        action=tuple(f'a{k}' for k in range(size)),
        action_low=tuple(low),
        action_high=tuple(high),
        control_period=period,
        action_repeat=1,
        cameras=() if image is None else ('camera', *(f'camera{k}' for k in range(1, image.shape[3] // 3))),
        discrete=discrete,
    )


def choice_count(choices: np.ndarray, key: str) -> int:
    """The number of choices, from some of them in an array. `key` names the array in errors.

    Raises:
        InputError: the numbers are no choices, which count from 0.
    """
    if choices.min() < 0 or choices.max() >= MOST_CHOICES:
        raise InputError(
            f'{key}: expected choices from 0 to {MOST_CHOICES - 1}, got {choices.min():g} to {choices.max():g}'
        )
    return max(2, int(choices.max()) + 1)


def one_hot(choices: np.ndarray, size: int, key: str) -> np.ndarray:
    """Actions float32 [T, A] of choices [T]. `key` names them in errors.

    Raises:
        InputError: a choice does not exist.
    """
    if (choices != np.round(choices)).any() or choices.min() < 0 or choices.max() >= size:
        raise InputError(
            f'{key}: expected whole numbers from 0 to {size - 1}, got {choices.dtype} from '
            f'{choices.min():g} to {choices.max():g}'
        )
    return np.eye(size, dtype=np.float32)[choices.astype(int)]


def _actions(spec: RobotSpec, actions: np.ndarray, in_units: bool) -> np.ndarray:
    """float32 [T, A] in [-1, 1], from actions in that range or in the robot's units."""
    size = len(spec.action)
    if spec.discrete and actions.ndim == 1:
        return one_hot(actions, size, 'actions')
    if actions.shape[1:] != (size,) or not np.isfinite(actions).all():
        raise InputError(f'actions: expected finite [T, {size}], got {list(actions.shape)}')
    limits = spec.limits if in_units else ActionLimits([-1] * size, [1] * size)
    if not limits.within(actions, 5e-7).all():
        raise InputError(
            'actions: expected numbers in [-1, 1], or between action_low and action_high, '
            f'got {actions.min():g} to {actions.max():g}'
        )
    return limits.from_units(actions) if in_units else np.clip(actions, -1, 1).astype(np.float32)


def _stamps(stamps: np.ndarray | None, length: int, spec: RobotSpec) -> np.ndarray:
    """int64 [T+1], ns."""
    if stamps is None:
        return EPOCH + (np.arange(length) * round(spec.control_period * 1e9)).astype(np.int64)
    if stamps.shape != (length,) or stamps.dtype.kind not in 'iu':
        raise InputError(f'stamps: expected {length} whole numbers, got {stamps.dtype} {list(stamps.shape)}')
    if stamps.min() < 0 or stamps.max() >= LAST_STAMP:
        raise InputError(f'stamps: expected times in ns from 0 to 2^31 s, got {stamps.min()} to {stamps.max()}')
    stamps = stamps.astype(np.int64)
    steps = np.diff(stamps) / 1e9
    if steps.min() <= 0 or steps.max() > GAP_PERIODS * spec.control_period:
        wrong = steps.min() if steps.min() <= 0 else steps.max()
        raise InputError(f'stamps: expected {spec.control_period:g} s from one to the next, got {wrong:g} s')
    return stamps
