"""Run directories: refusals, lock, checkpoints, policies."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError, run_main
from dreamer_ros.files import write_file
from dreamer_ros.policy.manifest import Golden, Manifest
from dreamer_ros.training.checkpoint import (
    find_checkpoint,
    is_complete,
    newest_first,
    read_checkpoint,
    write_checkpoint,
)
from dreamer_ros.training.run_directory import (
    RunDirectory,
    check_run,
    discard_unused,
    latest_policy,
    new_evaluation,
    new_logdir,
    save_task,
)
from tests.policy.tiny import spec

CONFIG = load_preset('cpu')
ROBOT = spec(image_size=(64, 64))


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / 'run', CONFIG, ROBOT)
    yield run
    run.close()


def save(run, step, text='weights'):
    def learner(folder, state):
        write_checkpoint(folder, {'weights': torch.zeros(9)}, {'text': f'{text} {step}'}, state)

    return run.save_checkpoint(step, learner, {'step': step})


def load(run):
    loaded, warnings = [], []

    def learner(folder):
        _, state, trainer = read_checkpoint(folder)
        loaded.append(state['text'])
        return trainer

    state = run.load_checkpoint(learner, warnings.append)
    return state, loaded, warnings


def reopen(run, config=CONFIG, robot=ROBOT):
    run.close()
    try:
        return RunDirectory(run.path, config, robot)
    finally:
        run._lock = None


@pytest.mark.parametrize(
    'config, robot, sentence',
    [
        (CONFIG, dataclasses.replace(ROBOT, name='walker_walk'), 'expected the task tiny, .* got walker_walk'),
        (CONFIG, dataclasses.replace(ROBOT, control_period=0.5), 'control_period is 0.5 instead of 0.02'),
        (load_preset('dreamerv3_1m'), ROBOT, 'expected the preset cpu .* instead of'),
        (load_preset('cpu', ('rssm.deter=72',)), ROBOT, r'rssm.deter is 72 instead of \d+'),
    ],
)
def test_another_run_is_refused(tmp_path, config, robot, sentence):
    RunDirectory(tmp_path, CONFIG, ROBOT).close()
    before = (tmp_path / 'config.yaml').read_text(), (tmp_path / 'spec.json').read_text()
    with pytest.raises(InputError, match=sentence) as refused:
        RunDirectory(tmp_path, config, robot)
    with pytest.raises(InputError) as early:
        check_run(tmp_path, robot, config)
    assert str(early.value) == str(refused.value)
    if robot == ROBOT:
        check_run(tmp_path, robot)  # of nobody who learns
    assert ((tmp_path / 'config.yaml').read_text(), (tmp_path / 'spec.json').read_text()) == before
    RunDirectory(tmp_path, CONFIG, ROBOT).close()  # the refused one left no lock


@pytest.mark.parametrize('name', ['config.yaml', 'spec.json'])
@pytest.mark.parametrize('content', [b'', b'[1, 2', b'\xff\xfe\x00'])
def test_a_damaged_run_is_refused_by_the_file(tmp_path, name, content):
    RunDirectory(tmp_path, CONFIG, ROBOT).close()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f'{name}: .*expected') as refusal:
        RunDirectory(tmp_path, CONFIG, ROBOT)
    assert '\n' not in str(refusal.value)
    assert (tmp_path / name).read_bytes() == content


def test_a_longer_budget_is_welcome(tmp_path):
    RunDirectory(tmp_path, CONFIG, ROBOT).close()
    longer = load_preset('cpu', ('schedule.steps=999999',))
    RunDirectory(tmp_path, longer, ROBOT).close()
    assert load_preset(str(tmp_path / 'config.yaml')).to_dict() == longer.to_dict()


def test_one_trainer_at_a_time(run):
    with pytest.raises(InputError, match='only trainer, but process \\d+ trains in it'):
        RunDirectory(run.path, CONFIG, ROBOT)


def test_the_lock_dies_with_its_owner(tmp_path):
    code = (
        f'import os, signal; from tests.training.test_run_directory import CONFIG, ROBOT, RunDirectory; '
        f'RunDirectory({str(tmp_path)!r}, CONFIG, ROBOT); os.kill(os.getpid(), signal.SIGKILL)'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    RunDirectory(tmp_path, CONFIG, ROBOT).close()


def test_unwritable_place(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='expected a directory that can be written'):
        RunDirectory(tmp_path / 'file' / 'run', CONFIG, ROBOT)


def test_newest_checkpoint_comes_back_and_two_are_kept(run):
    assert load(run) == (None, [], [])
    for step in (5, 10, 100):
        save(run, step)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ['000000010', '000000100', 'latest']
    assert load(run) == ({'step': 100}, ['weights 100'], [])
    save(run, 100, 'better')  # again at the same update, by the service
    assert load(run)[1] == ['better 100']


@pytest.mark.parametrize(
    'damage',
    [
        lambda folder: (folder / 'learner' / 'state.json').write_text('{"text": "weighty 20"}'),
        lambda folder: (folder / 'learner' / 'tensors.safetensors').unlink(),
        lambda folder: (folder / 'manifest.json').unlink(),
        lambda folder: (folder / 'manifest.json').write_text('[]'),
        lambda folder: (folder / 'learner' / 'stray').write_text(''),
        lambda folder: (folder / 'trainer.json').write_text('{"state": {'),
        lambda folder: (folder / 'trainer.json').unlink(),
    ],
)
def test_a_damaged_checkpoint_falls_back(run, damage):
    save(run, 10)
    damage(save(run, 20))
    state, loaded, warnings = load(run)
    assert state == {'step': 10} and loaded[-1] == 'weights 10'
    assert len(warnings) == 1 and '000000020: damaged' in warnings[0]
    # the damaged one is kept aside and takes no good one's place
    save(run, 15)
    assert sorted(p.name for p in run.checkpoints.iterdir() if p.is_dir()) == [
        '000000010',
        '000000015',
        '000000020.damaged',
    ]
    assert load(run)[0] == {'step': 15}


def test_only_damaged_checkpoints_is_an_error(run):
    (save(run, 10) / 'trainer.json').unlink()
    run.close()
    for early in (lambda: check_run(run.path, ROBOT, CONFIG), lambda: load(run)):
        with pytest.raises(InputError, match='expected a whole checkpoint .*000000010 are damaged'):
            early()
    check_run(run.path, ROBOT)  # of nobody who learns
    reopened = RunDirectory(run.path, CONFIG, ROBOT)
    save(reopened, 5)
    reopened.close()
    check_run(run.path, ROBOT, CONFIG)
    run._lock = os.open(run.path, os.O_RDONLY)


def test_a_file_in_the_way_is_refused_at_once(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(
            InputError, match=f'run {path}: expected a directory that can be written, but .*file is none'
        ):
            check_run(path, None, CONFIG)


def test_a_disk_that_is_nearly_full_is_refused_at_once(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=999_999_999))
    with pytest.raises(InputError, match='new/run: expected 1000 MB to be free.*got 999 MB'):
        check_run(tmp_path / 'new' / 'run', None, CONFIG)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1_000_000_000))
    check_run(tmp_path / 'new' / 'run', None, CONFIG)


def test_a_failed_save_leaves_the_old_one(run, monkeypatch):
    save(run, 10)

    def fail(path, *_):
        Path(path).write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', lambda _: fail(run.path / 'log'))
    with pytest.raises(InputError, match='cannot be written .*No space left.*earlier ones are untouched'):
        save(run, 20)
    monkeypatch.undo()
    assert load(run) == ({'step': 10}, ['weights 10'], [])
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ['000000010', 'latest']


@pytest.mark.parametrize('marker', [b'\xff\xfe\x00', b'/etc', b'000000099', b''])
def test_a_marker_that_names_nothing(run, marker):
    for step in (10, 20):
        save(run, step)
    (run.checkpoints / 'latest').write_bytes(marker)
    check_run_of_another(run)
    assert load(run) == ({'step': 20}, ['weights 20'], [])
    assert find_checkpoint(run.path).name == '000000020'
    save(run, 30)
    assert (run.checkpoints / 'latest').read_text() == '000000030\n'


def check_run_of_another(run):
    """The early check, as if nobody had the run open."""
    os.close(run._lock)
    check_run(run.path, ROBOT, CONFIG)
    run._lock = os.open(run.path, os.O_RDONLY)


def test_a_folder_in_the_place_of_the_marker(run):
    (run.checkpoints / 'latest').mkdir()
    run.close()
    for early in (lambda: check_run(run.path, ROBOT, CONFIG), lambda: RunDirectory(run.path, CONFIG, ROBOT)):
        with pytest.raises(InputError, match='checkpoints/latest: expected a file .* got a folder'):
            early()
    run._lock = os.open(run.path, os.O_RDONLY)


def test_what_a_crash_left_half_written_is_removed(run):
    (run.checkpoints / '.000000030.partial').mkdir()
    (run.policies / '.policy_000001.onnx.partial').write_text('half')
    again = reopen(run)
    try:
        assert not list(run.checkpoints.iterdir()) and not list(run.policies.iterdir())
    finally:
        run._lock = again._lock


def test_policies(run):
    strangers = [run.policies / name for name in ('policy_best.onnx', 'best.onnx', 'policy_000001.onnx.bak')]
    for path in strangers:
        path.write_text('of somebody else')
    with pytest.raises(InputError, match='expected a policy named by'):
        latest_policy(run.path)
    assert run.newest_policy_version() == 0
    for version in range(1, 9):

        def write(path):
            path.write_text(f'policy {version}')
            return Manifest(
                version=version,
                uri=str(path),
                sha256='0' * 64,
                size=8,
                spec_hash=ROBOT.hash,
                control_period=0.02,
                golden=Golden(seed=0, action=((0.0,), (0.0,))),
            )

        assert run.write_policy(version, write).uri.startswith('/')
    assert latest_policy(run.path).read_text() == 'policy 8'
    assert run.newest_policy_version() == 8
    assert sorted(path.name for path in run.policies.glob('policy_0*.onnx')) == [
        f'policy_00000{version}.onnx' for version in range(4, 9)
    ]
    assert all(path.exists() for path in strangers)
    # the folder may be moved or copied
    assert json.loads((run.policies / 'latest.json').read_text())['uri'] == 'policy_000008.onnx'


def test_launches_of_one_second_have_a_directory_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, 'strftime', lambda pattern: '20260131-120000')
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: new_logdir('cup_catch', 'cpu'), range(8)))
    assert {folder.name for folder in folders} == {
        'cup_catch-cpu-20260131-120000',
        *(f'cup_catch-cpu-20260131-120000-{n}' for n in range(2, 9)),
    }
    assert all(folder.is_dir() and folder.parent == tmp_path / 'runs' for folder in folders)
    assert [new_evaluation(folders[0]).name for _ in range(2)] == ['20260131-120000', '20260131-120000-2']


def test_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').write_text('a file')
    with pytest.raises(InputError, match='runs/cup_catch.*expected a directory that can be written'):
        new_logdir('cup_catch', 'cpu')


def test_a_folder_in_which_nothing_began_is_discarded(tmp_path):
    (tmp_path / 'own.yaml').write_text('x: 1')
    for keeps in (False, True):
        folder = tmp_path / 'run'
        save_task(folder, [tmp_path / 'own.yaml'])
        (folder / 'episodes').mkdir()
        if keeps:
            (folder / 'episodes' / 'bag.mcap').touch()
        discard_unused(folder)
        assert folder.exists() == keeps


def test_a_file_that_the_disk_refuses_is_named(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.EFBIG, 'File too large')

    monkeypatch.setattr(Path, 'write_bytes', refuse)
    assert run_main(lambda: write_file(tmp_path / 'policy.onnx', b'')) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert 'policy.onnx: expected' in line and 'File too large' in line


def test_strange_entries_among_the_checkpoints_hold_nothing_up(run):
    """A pipe would hold up whoever opens it, even to delete it; nothing of it counts as one of the newest."""
    os.mkfifo(run.checkpoints / '900000000')
    (run.checkpoints / '900000001').mkdir()
    os.mkfifo(run.checkpoints / '900000001' / 'manifest.json')
    (run.checkpoints / '900000002').symlink_to('900000002')
    for step in (10, 20, 30):
        save(run, step)
    assert [folder.name for folder in newest_first(run.checkpoints) if is_complete(folder)] == [
        '000000030',
        '000000020',
    ]
    load(run)
