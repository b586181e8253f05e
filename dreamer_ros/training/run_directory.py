"""The directory of one training run: its layout, its lock, its checkpoints and policies."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dreamer_ros.config import Config, stored_config
from dreamer_ros.errors import InputError
from dreamer_ros.files import (
    DISK_RESERVE,
    Locked,
    free_megabytes,
    lock_file,
    nearest_existing,
    read_text,
    replacing,
    user_path,
    write_file,
)
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.schema import Name, Record, check, load_json, load_yaml
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import LATEST, is_complete, newest_first

CHECKPOINTS_KEPT = 2
POLICIES_KEPT = 5
LOCK = '.trainer.lock'
TASK, TASK_FOLDER = 'task.json', 'task'


def new_logdir(task: str, preset: str) -> Path:
    """Make runs/<task>-<preset>-<time> under the working directory, for a run that starts now.

    Raises:
        InputError: it cannot be made.
    """
    return _new_folder(Path('runs').absolute(), f'{task}-{preset}-')


def new_evaluation(run: Path) -> Path:
    """Make <run>/evaluation/<time>, for the bags and result.json of an evaluation that starts now.

    Raises:
        InputError: it cannot be made.
    """
    return _new_folder(run / 'evaluation', '')


def _new_folder(parent: Path, prefix: str) -> Path:
    """<parent>/<prefix><time>, or with -2, -3, … where others start within the same second: each gets its own."""
    name = prefix + time.strftime('%Y%m%d-%H%M%S')
    for ending in itertools.chain([''], (f'-{number}' for number in itertools.count(2))):
        folder = parent / (name + ending)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError as error:
            if not folder.is_dir():  # a file stands in the way, here or further up
                raise _unwritable(folder, error) from error
        except OSError as error:
            raise _unwritable(folder, error) from error
    raise AssertionError('the numbers never end')


def latest_policy(run: str | Path) -> Path:
    """The newest policy file of a run.

    Raises:
        InputError: the run has none.
    """
    marker = Path(run) / 'policies' / 'latest.json'
    if not marker.exists():
        raise InputError(f'run {run}: expected a policy named by {marker}, found none')
    return marker.parent / Manifest.from_json(read_text(marker), str(marker)).uri


def preset_of(preset: str, run: str | Path | None) -> str:
    """The preset that was asked for, else the one that a run began with, else `cpu`."""
    config = user_path(run) / 'config.yaml' if run else None
    return preset or (str(config) if config and config.exists() else 'cpu')


class _TaskRecord(Record):
    """task.json: where the task file of a run lies, and its copy in the run."""

    path: Name
    kept: Name


def save_task(run: Path, files: Sequence[Path]) -> None:
    """Keep the files of a task in a run, which may move or change later.

    Args:
        files: see `simulation.task_files`; none for a task with a name.

    Raises:
        InputError: they cannot be copied.
    """
    if not files or files[0].is_relative_to(run):
        return
    base = os.path.commonpath([file.parent for file in files])
    try:
        run.mkdir(parents=True, exist_ok=True)
        with replacing(run / TASK_FOLDER) as partial:
            for file in files:
                copy = partial / file.relative_to(base)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        record = _TaskRecord(path=str(files[0]), kept=str(files[0].relative_to(base)))
        write_file(run / TASK, json.dumps(record.model_dump()) + '\n')
    except OSError as error:
        raise _unwritable(run, error) from error


def discard_unused(folder: Path) -> None:
    """Remove the folder of a run in which nothing began: no file is in it, but for the copy of its task."""
    files = (path.relative_to(folder) for path in folder.rglob('*') if not path.is_dir())
    if all(file.parts[0] in (TASK, TASK_FOLDER) for file in files):
        shutil.rmtree(folder, ignore_errors=True)


def saved_task(place: Path) -> str | None:
    """The task file of the run that a policy, a bag or a folder belongs to: the original, or the copy if that is gone.

    None if the run is of a task with a name, or there is no run.

    Raises:
        InputError: task.json is damaged.
    """
    place = place.absolute()
    for folder in (place, *place.parents)[:4]:  # a bag in evaluation/<time> lies deepest
        file = folder / TASK
        if file.is_file():
            record = check(_TaskRecord, load_json(file, str(file)), str(file))
            return record.path if Path(record.path).exists() else str(folder / TASK_FOLDER / record.kept)
    return None


class RunDirectory:
    """Opens a run directory for one trainer; a fresh one is created, one with a checkpoint is continued.

    Args:
        path: the directory.
        config, spec: of the run about to start; they must agree with what the directory holds.
        sign: makes of a policy's manifest the one to give out: a signed one.

    Raises:
        InputError: it belongs to another task, robot or preset, another trainer has it open, or it cannot be
            written.
    """

    def __init__(
        self, path: str | Path, config: Config, spec: RobotSpec, sign: Callable[[Manifest], Manifest] | None = None
    ):
        self.path = Path(path)
        self._sign = sign
        self.episodes = self.path / 'episodes'
        self.policies = self.path / 'policies'
        self.checkpoints = self.path / 'checkpoints'
        try:
            for folder in (self.path, self.episodes, self.policies, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            _check(self.path, spec, config)
            write_file(self.path / 'config.yaml', config.to_yaml())
            write_file(self.path / 'spec.json', spec.to_json() + '\n')
            folders = (self.path, self.policies, self.checkpoints)
            for leftover in itertools.chain(*(folder.glob('.*.partial') for folder in folders)):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _unwritable(self.path, error) from error
            raise

    def save_checkpoint(self, step: int, save_learner: Callable[[Path, dict], None], state: dict) -> Path:
        """Write checkpoints/<step>/, point `latest` at it, and drop all but the newest few.

        Args:
            step: updates made; names the folder.
            save_learner: writes a whole checkpoint, or nothing, from a folder's name and the trainer's state.
            state: the trainer's counters, JSON-ready.
        """
        folder = self.checkpoints / f'{step:09d}'
        save_learner(folder, state)
        write_file(self.checkpoints / LATEST, folder.name + '\n')
        for old in list(filter(is_complete, newest_first(self.checkpoints)))[CHECKPOINTS_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def load_checkpoint(self, load_learner: Callable[[Path], dict], warn: Callable[[str], None]) -> dict | None:
        """Load the newest checkpoint that is whole.

        Args:
            load_learner: reads a checkpoint, and returns the trainer's state in it.
            warn: gets one sentence for each checkpoint passed over.

        Returns:
            The trainer's state, or None when there are no checkpoints.

        Raises:
            InputError: there are checkpoints, and none is whole.
        """
        folders = newest_first(self.checkpoints)
        for folder in folders:
            try:
                state = load_learner(folder)
            except Exception as error:  # whatever a damaged file makes a reader say
                warn(f'checkpoint {folder}: damaged ({error}); trying the one before')
                continue
            for damaged in folders[: folders.index(folder)]:
                # Out of the way, or it would count as one of the newest that are kept.
                aside = damaged.with_suffix('.damaged')
                shutil.rmtree(aside, ignore_errors=True)
                damaged.rename(aside)
            return state
        if folders:
            raise _all_damaged(self.path, folders)
        return None

    def newest_policy_version(self) -> int:
        """0 when none was written yet."""
        return max(self._policy_versions(), default=0)

    def write_policy(self, version: int, write: Callable[[Path], Manifest]) -> Manifest:
        """Have `write` make policies/policy_<version>.onnx, name it in latest.json, drop old ones."""
        path = self.policies / f'policy_{version:06d}.onnx'
        manifest = write(path)
        if self._sign:
            manifest = self._sign(manifest)
        write_file(self.policies / 'latest.json', manifest.at(path.name).to_json() + '\n')
        versions = self._policy_versions()
        for old in sorted(versions)[:-POLICIES_KEPT]:
            versions[old].unlink()
        return manifest

    def _policy_versions(self) -> dict[int, Path]:
        """The policies that the trainer named; others may lie beside them."""
        names = ((re.fullmatch(r'policy_(\d+)\.onnx', path.name), path) for path in self.policies.glob('policy_*'))
        return {int(name[1]): path for name, path in names if name}

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._lock)


def check_run(path: Path, spec: RobotSpec | None, config: Config | None = None) -> None:
    """Refuse at once a directory that a trainer would refuse after its start. Nothing in it is changed.

    Args:
        path: of the directory, which need not exist.
        spec: of the robot; None if only its simulator will tell.
        config: of the run about to start; None if nobody learns.

    Raises:
        InputError: it belongs to another task, robot or preset, another trainer has it open, none of its checkpoints is
            whole, it cannot be written, or the disk is nearly full.
    """
    there = nearest_existing(path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f'run {path}: expected a directory that can be written, but {there} is none')
    free = free_megabytes(path)
    if free < DISK_RESERVE:
        raise InputError(f'run {path}: expected {DISK_RESERVE} MB to be free, which recorders leave so, got {free} MB')
    try:
        if config is not None and (path / LOCK).exists():
            os.close(_lock(path))
    except OSError as error:
        raise _unwritable(path, error) from error
    _check(path, spec, config)
    folders = newest_first(path / 'checkpoints') if config is not None else []
    if folders and not any(map(is_complete, folders)):
        raise _all_damaged(path, folders)


def _all_damaged(run: Path, folders: list[Path]) -> InputError:
    return InputError(
        f'run {run}: expected a whole checkpoint in {run / "checkpoints"}, but all of '
        f'{", ".join(folder.name for folder in folders)} are damaged; delete them to start learning '
        'afresh from the episodes'
    )


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f'run {path}: expected a directory that can be written ({error})')


def _check(path: Path, spec: RobotSpec | None, config: Config | None) -> None:
    marker = path / 'checkpoints' / LATEST
    if marker.is_dir():
        raise InputError(f'{marker}: expected a file that names the latest checkpoint, got a folder')
    spec_file, config_file = path / 'spec.json', path / 'config.yaml'
    stored = None
    if spec is not None and spec_file.exists():
        stored = RobotSpec.from_json(read_text(spec_file), str(spec_file))
        if stored.name != spec.name:
            raise InputError(
                f'run {path}: expected the task {stored.name}, which this run was '
                f'started with, got {spec.name}; choose another log directory'
            )
    if config is not None and config_file.exists():
        before = stored_config(load_yaml(config_file, f'run {path}: config.yaml'), f'run {path}: config.yaml')
        changed = sorted(_differences(before.to_dict(), config.to_dict()))
        if changed:
            raise InputError(
                f'run {path}: expected the preset {before.preset} it was started with, but '
                f'{"; ".join(changed[:4])}{" …" * (len(changed) > 4)}; choose another log directory'
            )
    if stored is not None and stored.hash != spec.hash:
        raise InputError(
            f'run {path}: expected the robot this run was started with, but '
            f'{stored.difference(spec)}; choose another log directory'
        )


def _lock(path: Path) -> int:
    """Hold the lock of a run; see `lock_file`."""
    try:
        return lock_file(path / LOCK)
    except Locked as error:
        raise InputError(f'run {path}: expected to be its only trainer, but process {error} trains in it') from error


def _differences(stored: dict, wanted: dict, prefix: str = '') -> Iterator[str]:
    """`key is new instead of old` for all that shapes the model. Schedule and replay may change on resuming."""
    for key in {**stored, **wanted}:
        old, new = stored.get(key), wanted.get(key)
        if prefix == '' and key in ('schedule', 'replay'):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f'{prefix}{key}.')
        elif old != new:
            yield f'{prefix}{key} is {new} instead of {old}'
