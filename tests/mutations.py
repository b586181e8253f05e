"""Damaged and malicious versions of every kind of file that people bring, and the rule that their readers keep.

A reader gives a result, or one InputError of one line, within SECONDS and without much memory.
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import yaml

from dreamer_ros.config import load_preset
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.errors import InputError
from dreamer_ros.formats.importing import import_source
from dreamer_ros.formats.npz import write_arrays
from dreamer_ros.paths import share
from dreamer_ros.policy.loader import load
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.simulation import task_file
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import read_checkpoint
from dreamer_ros.training.metrics import read_metrics
from tests.episodes.bags import SPEC, random_episode
from tests.episodes.fuzz import FILE_DAMAGE, within
from tests.formats.lerobot_datasets import frames, write_dataset

DATA = Path(__file__).parent / 'data'
SECONDS = 10
LABELS = {'episodes': [{'bag': 'monday', 'start': 1.5, 'end': 9, 'rewards': [{'time': 2.0, 'reward': 1.0}]}]}
# What may stand in the place of a word or a number.
VALUES = (
    '', '0', '-1', '1', '1e999', '-.inf', '.nan', 'NaN', '9' * 400, '1e-320', '[]', '{}', 'null', '~', 'true', '"', "'",
    '[[[[', '&a [*a]', '!!python/object:os.system', '2001-13-45', '0x', 'é', '\0', '\ufeff', '../../etc/passwd',
    'x' * 10_000,
)  # fmt: skip


class Subject(NamedTuple):
    """A kind of file: one that is right, or a folder of them, and its reader."""

    original: Path
    read: Callable[[Path], object]


def subjects(folder: Path) -> dict[str, Subject]:
    """Every kind by its name, with originals in a folder."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / 'labels.yaml').write_text(yaml.safe_dump(LABELS))
    write_arrays(folder / 'episode.npz', random_episode(rng, 8), SPEC)
    write_dataset(folder / 'lerobot', 'v3.0', [frames(rng, 5)])
    policy = onnx.load(str(DATA / 'dreamer' / 'policies' / 'policy_000003.onnx'))
    while policy.metadata_props and policy.metadata_props[-1].key == 'content_sha256':
        del policy.metadata_props[-1]  # else it finds all damage first
    onnx.save(policy, str(folder / 'policy.onnx'))
    run = DATA / 'dreamer'
    (folder / 'run').mkdir()
    shutil.copy(run / 'metrics.jsonl', folder / 'run')
    return {
        'contract': Subject(share('sim', 'rover', 'robot.yaml'), load_contract),
        'large contract': Subject(share('sim', 'quadruped', 'robot.yaml'), load_contract),
        'task': Subject(share('sim', 'rover', 'rover_target.yaml'), task_file.read),
        'preset': Subject(share('models', 'cpu.yaml'), lambda path: load_preset(str(path))),
        'labels': Subject(folder / 'labels.yaml', Labels.load),
        'manifest': Subject(run / 'policies' / 'latest.json', lambda path: Manifest.from_json(_text(path), str(path))),
        'spec': Subject(run / 'spec.json', lambda path: RobotSpec.from_json(_text(path), str(path))),
        'metrics': Subject(folder / 'run', read_metrics),
        'checkpoint': Subject(run / 'checkpoints' / '000000011', read_checkpoint),
        'policy': Subject(folder / 'policy.onnx', load),
        'npz': Subject(folder / 'episode.npz', _import),
        'lerobot': Subject(folder / 'lerobot', _import),
    }


def trial(subject: Subject, folder: Path, rng: np.random.Generator) -> str:
    """Mutate a copy and read it.

    Returns:
        What the reader refused it with; '' if it gave a result.

    Raises:
        Exception: anything but an InputError of one line, or fuzz.Wrong after SECONDS.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy = folder / subject.original.name
    if subject.original.is_dir():
        shutil.copytree(subject.original, copy)
    else:
        shutil.copy(subject.original, copy)
    files = sorted(path for path in copy.rglob('*') if path.is_file()) or [copy]
    file = files[int(rng.integers(len(files)))]
    mutate(file, rng)
    try:
        with within(SECONDS):
            subject.read(copy)
    except InputError as error:
        assert '\n' not in str(error) and len(str(error)) < 3000 and str(error).isprintable(), repr(str(error))
        return str(error)
    return ''


def mutate(file: Path, rng: np.random.Generator) -> None:
    """Change a file in one to three places."""
    for _ in range(int(rng.integers(1, 4))):
        data = file.read_bytes()
        if file.suffix == '.npz' and zipfile.is_zipfile(file) and rng.integers(4):
            _mutate_arrays(file, rng)
        elif file.suffix in ('.yaml', '.json', '.jsonl') and rng.integers(4):
            file.write_bytes(_mutate_text(data.decode(errors='replace'), rng).encode(errors='replace'))
        elif len(data) > 10:
            file.write_bytes(FILE_DAMAGE[str(rng.choice(list(FILE_DAMAGE)))](bytearray(data), rng))


def _mutate_text(text: str, rng: np.random.Generator) -> str:
    words = list(re.finditer(r'[\w.+-]+', text))
    lines = text.splitlines(keepends=True)
    kind = int(rng.integers(4))
    if kind < 2 and words:
        word = words[int(rng.integers(len(words)))]
        value = str(rng.choice(VALUES)) if kind else words[int(rng.integers(len(words)))][0]
        return text[: word.start()] + value + text[word.end() :]
    if lines:
        line = int(rng.integers(len(lines)))
        lines[line : line + 1] = [] if kind == 2 else [lines[line]] * 2
    return ''.join(lines)


def _mutate_arrays(file: Path, rng: np.random.Generator) -> None:
    try:
        with np.load(file) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):  # damaged before
        return
    name = str(rng.choice(list(arrays)))
    value, kind = arrays[name], int(rng.integers(6))
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = value[..., None]
    elif kind == 2:
        arrays[name] = value[: len(value) // 2] if value.ndim else np.array('')
    elif kind == 3:
        arrays[name] = np.full(value.shape, float(rng.choice([np.nan, np.inf, 1e300, -1.0])))
    elif kind == 4:
        arrays[name] = np.full(value.shape, rng.choice(VALUES))
    else:
        arrays[name] = np.zeros(value.shape, str(rng.choice(['complex64', 'int8', 'uint64', 'datetime64[s]', 'bool'])))
    np.savez(file, **arrays)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors='replace')  # as it comes by a topic


def _import(path: Path) -> None:
    result = import_source(path, path.parent / 'episodes')
    if result.problems:
        raise InputError(str(next(iter(result.problems))))
    assert result.steps
