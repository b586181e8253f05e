"""Checkpoints: any flipped bit is found, and the older one takes over; those of version 0.1 still load."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from dreamer_ros.errors import InputError
from dreamer_ros.files import replacing, sha256
from dreamer_ros.training.checkpoint import find_checkpoint, is_complete, read_checkpoint, write_checkpoint
from dreamer_ros.training.run_directory import RunDirectory
from tests.training.test_learner import learner, samples
from tests.training.test_run_directory import CONFIG, ROBOT

TRAINER = {
    'stored': 1234,
    'returns': [27.730488926172256, None],
    'store': {'rng': {'inc': 2**100 + 7}, 'seen': ['a', 'b']},
}
STATE = {'updates': 7, 'optimizer_steps': {'model': 7}, 'config': {'preset': 'cpu'}, 'spec': {'name': 'robot'}}


def tensors(scale=1.0):
    return {'agent.weight': scale * torch.arange(12.0).view(3, 4), 'random.torch': torch.get_rng_state()[:16].clone()}


def same(found, expected) -> bool:
    return (
        found[1:] == expected[1:]
        and found[0].keys() == expected[0].keys()
        and all(torch.equal(value, expected[0][name]) for name, value in found[0].items())
    )


def test_any_flipped_bit_is_refused_or_changes_nothing(tmp_path, rng):
    folder, expected = tmp_path / '000000007', (tensors(), STATE, TRAINER)
    write_checkpoint(folder, *expected)
    assert same(read_checkpoint(folder), expected) and is_complete(folder)
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    assert len(files) == 4
    refused = dict.fromkeys(files, 0)
    for path in files:
        content = path.read_bytes()
        for place in rng.choice(8 * len(content), 150, replace=False):
            data = bytearray(content)
            data[place // 8] ^= 1 << place % 8
            path.write_bytes(data)
            try:
                assert same(read_checkpoint(folder), expected)
            except InputError as error:
                assert '\n' not in str(error) and str(folder) in str(error)
                refused[path] += 1
        path.write_bytes(content)
    assert all(count == 150 for path, count in refused.items() if path.name != 'manifest.json')
    assert same(read_checkpoint(folder), expected)


@pytest.mark.parametrize('name', ['learner/tensors.safetensors', 'learner/state.json', 'trainer.json', 'manifest.json'])
def test_a_damaged_learner_goes_back_to_the_one_before(tmp_path, name):
    run, trained, warnings = RunDirectory(tmp_path / 'run', CONFIG, ROBOT), learner('cpu'), []
    try:
        for number in (1, 2):
            trained.update(samples(trained, number))
            run.save_checkpoint(trained.updates, trained.save, {'number': number})
        damaged = run.checkpoints / '000000002' / name
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 4
        damaged.write_bytes(data)
        assert run.load_checkpoint(trained.load, warnings.append) == {'number': 1} and trained.updates == 1
        assert len(warnings) == 1 and '000000002: damaged' in warnings[0]
    finally:
        run.close()


@pytest.mark.parametrize('key', ['updates', 'optimizer_steps', 'random.torch'])
def test_a_checkpoint_that_lacks_something_is_passed_over(tmp_path, key):
    """Whole by its manifest, but not what a learner needs."""
    run, trained, warnings = RunDirectory(tmp_path / 'run', CONFIG, ROBOT), learner('cpu'), []
    try:
        run.save_checkpoint(1, trained.save, {'number': 1})
        values, state = trained.state()
        values, state = ({name: value for name, value in part.items() if name != key} for part in (values, state))
        run.save_checkpoint(2, lambda folder, trainer: write_checkpoint(folder, values, state, trainer), {'number': 2})
        assert run.load_checkpoint(trained.load, warnings.append) == {'number': 1}
        assert len(warnings) == 1
    finally:
        run.close()


def as_version_0_1(folder):
    """Rewrite a checkpoint as that version did: the trainer's file names the others, the learner's its tensors."""
    (folder / 'manifest.json').unlink()
    state = folder / 'learner' / 'state.json'
    digest = sha256(folder / 'learner' / 'tensors.safetensors')
    state.write_text(json.dumps({**json.loads(state.read_text()), 'extra': {}, 'sha256': digest}))
    names = ('learner/state.json', 'learner/tensors.safetensors')
    trainer = json.loads((folder / 'trainer.json').read_text())
    trainer['files'] = {name: sha256(folder / name) for name in names}
    (folder / 'trainer.json').write_text(json.dumps(trainer))


def test_checkpoints_of_version_0_1(tmp_path):
    folder = tmp_path / 'checkpoints' / '000000007'
    write_checkpoint(folder, tensors(), STATE, TRAINER)
    as_version_0_1(folder)
    assert find_checkpoint(tmp_path) == find_checkpoint(folder / 'learner') == folder and is_complete(folder)
    values, state, trainer = read_checkpoint(folder)
    assert same((values, {}, {}), (tensors(), {}, {})) and trainer == TRAINER and state.items() >= STATE.items()
    alone = tmp_path / 'copied'
    shutil.copytree(folder / 'learner', alone)
    values, state, trainer = read_checkpoint(find_checkpoint(alone))
    assert same((values, {}, {}), (tensors(), {}, {})) and trainer == {} and state.items() >= STATE.items()
    for whole, part in ((folder, folder / 'learner'), (alone, alone)):
        file = part / 'tensors.safetensors'
        file.write_bytes(file.read_bytes()[:-1] + b'?')
        with pytest.raises(InputError, match='tensors.safetensors is damaged'):
            read_checkpoint(whole)


def test_a_checkpoint_replaces_one_of_its_name(tmp_path):
    folder = tmp_path / 'c'
    for scale in (1.0, 2.0):
        write_checkpoint(folder, tensors(scale), STATE, TRAINER)
    assert read_checkpoint(folder)[0]['agent.weight'][2, 3] == 22.0
    assert [path.name for path in tmp_path.iterdir()] == ['c']


def test_what_is_replaced_is_whole_at_any_time(tmp_path):
    for kind in ('file', 'folder'):
        path = tmp_path / kind
        for content in ('first', 'second', 'third'):
            try:
                with replacing(path) as partial:
                    assert partial.parent == tmp_path and partial.name.startswith(f'.{kind}.')
                    target = partial
                    if kind == 'folder':
                        partial.mkdir()
                        target = partial / 'inside'
                    target.write_text(content)
                    if content == 'third':
                        raise RuntimeError('no power')
            except RuntimeError:
                pass
        assert (path if kind == 'file' else path / 'inside').read_text() == 'second'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'folder']
