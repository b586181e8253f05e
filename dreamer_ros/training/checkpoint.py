"""Checkpoints: folders of safetensors and JSON, no pickle, whole or not there.

    learner/tensors.safetensors   parameters, optimiser, normaliser, random states
    learner/state.json            the learner's counters, the run's config and its robot
    trainer.json                  {"state": the trainer's counters}
    manifest.json                 {"files": {name: SHA-256}} of all others

The manifest shows any damage by the disk. Launchers use this module as well, so only the functions that need torch
import it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, replacing, sha256
from dreamer_ros.schema import load_json

if TYPE_CHECKING:
    from torch import Tensor

LEARNER, TENSORS, STATE = 'learner', 'tensors.safetensors', 'state.json'
TRAINER, MANIFEST, LATEST = 'trainer.json', 'manifest.json', 'latest'


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict, trainer: dict) -> None:
    """Write a checkpoint, replacing one of the same name.

    Args:
        tensors, state: the learner's; the state is JSON-ready.
        trainer: JSON-ready state of the learner's owner.

    Raises:
        InputError: the disk refused; earlier checkpoints are untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing(folder) as partial:
            (partial / LEARNER).mkdir(parents=True)
            save_file(tensors, str(partial / LEARNER / TENSORS))
            (partial / LEARNER / STATE).write_text(json.dumps(state))
            (partial / TRAINER).write_text(json.dumps({'state': trainer}))
            files = {name: sha256(partial / name) for name in _files(partial)}
            (partial / MANIFEST).write_text(json.dumps({'files': files}))
    except (OSError, SafetensorError) as error:
        raise InputError(f'checkpoint {folder}: cannot be written ({error}); earlier ones are untouched') from error


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict, dict]:
    """What `write_checkpoint` was given: tensors, the learner's state, the trainer's state.

    Raises:
        InputError: a file is missing, unreadable or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        for name, digest in _recorded(folder).items():
            if sha256(folder / name) != digest:
                raise InputError(f'checkpoint {folder}: {name} is damaged, its sha256 is not the recorded one')
        alone = not (folder / LEARNER).is_dir()
        learner = folder if alone else folder / LEARNER
        state = json.loads(read_text(learner / STATE))
        trainer = {} if alone else json.loads(read_text(folder / TRAINER))['state']
        return load_file(str(learner / TENSORS)), state, trainer
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise InputError(f'checkpoint {folder}: cannot be read ({type(error).__name__}: {error})') from error


def is_complete(folder: Path) -> bool:
    """Whether all files of a checkpoint are there. Their content is not checked."""
    try:
        return all((folder / name).is_file() for name in _recorded(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint at a path: the folder itself, the one around its `learner` folder, or the latest of a run.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    for folder in (*newest_first(path / 'checkpoints'), path, path.parent):
        if (folder / LEARNER / STATE).exists():
            return folder
    if (path / STATE).exists():
        return path
    raise InputError(f'{path}: expected a run directory with a checkpoint, or a checkpoint, found neither')


def newest_first(checkpoints: Path) -> list[Path]:
    """The checkpoints in a folder. The one that `latest` names comes first, if that file can be read."""
    try:
        latest = read_text(checkpoints / LATEST).strip()
    except InputError:
        latest = ''
    found = (path for path in checkpoints.glob('*') if re.fullmatch(r'\d+', path.name) and path.is_dir())
    folders = sorted(found, reverse=True)
    return sorted(folders, key=lambda folder: folder.name != latest)


def _recorded(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a checkpoint, by their names in it."""
    if (folder / MANIFEST).exists():
        files = load_json(folder / MANIFEST, f'checkpoint {folder}: {MANIFEST}')['files']
        if sorted(files) != _files(folder):
            raise ValueError(f'expected the files {", ".join(files)}, found {", ".join(_files(folder))}')
        return files
    # Version 0.1 wrote no manifest. The trainer's file named the others, and the learner's state its tensors.
    if (folder / TRAINER).exists():
        return json.loads(read_text(folder / TRAINER))['files']
    return {TENSORS: json.loads(read_text(folder / STATE))['sha256']}


def _files(folder: Path) -> list[str]:
    """Names of all files of a checkpoint except the manifest."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())
    return sorted(name for name in names if name != MANIFEST)
