"""Atomic checkpoint directories: safetensors and JSON, no pickle.

A checkpoint is a folder `tensors.safetensors` + `state.json`. It is written beside its place and renamed when
whole, so a folder that exists is complete unless the disk damaged it; a digest in the JSON tells that.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, sha256

TENSORS, STATE = 'tensors.safetensors', 'state.json'


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict) -> None:
    """Write a checkpoint, replacing one of the same name.

    Raises:
        InputError: the disk refused; earlier checkpoints are untouched.
    """
    folder = Path(folder)
    temporary = folder.with_name(f'.{folder.name}.partial')
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(temporary / TENSORS)
        )
        state = {**state, 'sha256': sha256(temporary / TENSORS)}
        (temporary / STATE).write_text(json.dumps(state))
        for path in (temporary / TENSORS, temporary / STATE):
            with open(path, 'rb') as file:
                os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f'checkpoint {folder}: cannot be written ({error}); earlier ones are untouched') from error


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and state of a checkpoint.

    Raises:
        InputError: a file is missing, unreadable or damaged.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text())
        if state.pop('sha256') != sha256(folder / TENSORS):
            raise InputError(f'checkpoint {folder}: {TENSORS} is damaged, its sha256 is not the recorded one')
        return load_file(str(folder / TENSORS)), state
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f'checkpoint {folder}: cannot be read ({type(error).__name__}: {error})') from error


def find_checkpoint(path: str | Path) -> Path:
    """The learner's folder of a checkpoint, or of the latest one of a run.

    Raises:
        InputError: it is neither.
    """
    path = Path(path)
    marker = path / 'checkpoints' / 'latest'
    if marker.exists():
        path = marker.parent / read_text(marker).strip()
    for folder in (path / 'learner', path):
        if (folder / STATE).exists():
            return folder
    raise InputError(f'{path}: expected a run directory with a checkpoint, or a checkpoint, found neither')
