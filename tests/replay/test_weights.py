"""Several folders with weights: shares of the samples, and that training continues where it stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import chisquare

from dreamer_ros.config import ReplayConfig
from dreamer_ros.errors import InputError
from dreamer_ros.replay.dataset import bag_folder, open_replay
from dreamer_ros.wire import codecs
from tests.episodes.bags import PERIOD_NS, SPEC, START_NS, cdr_messages, random_episode, write_episode, write_raw

FOLDERS = ('own', 'a', 'b')


def write(rng, folder, lengths, first=0):
    """Bags whose rewards are all of one folder: 0 of own, 1 of a, 2 of b."""
    for number, length in enumerate(lengths, start=first):
        start = START_NS + (number + 1000 * FOLDERS.index(folder.name)) * 10_000 * PERIOD_NS
        episode = random_episode(rng, length, start)
        episode.reward[:] = FOLDERS.index(folder.name)
        write_episode(folder, f'bag{number:03d}', episode)


def open_mix(root, bags=('a:3', 'b'), validation=0.0, seed=0, look=True, **limits):
    names = tuple(f'{root}/{name}' for name in bags)
    config = ReplayConfig(bags=names, validation=validation, **{'capacity': 1000, **limits})
    mix = open_replay(root / 'own', config, SPEC, length=4, seed=seed)
    if look:
        mix.refresh()
    return mix


def counts(mix, batches, batch=16):
    found = np.zeros(3, int)
    for _ in range(batches):
        rewards = mix.sample(batch, 4)['reward']
        assert (rewards == rewards[:, :1]).all()  # a sequence stays in its folder
        found += np.bincount(rewards[:, 0].astype(int), minlength=3)
    return found


def test_sequences_come_by_weight_not_by_size(tmp_path, rng, seed):
    write(rng, tmp_path / 'a', [10])
    write(rng, tmp_path / 'b', [200, 300])
    mix = open_mix(tmp_path, seed=seed)
    assert mix.steps == 510 and mix.episodes == 3
    assert chisquare(counts(mix, 200)[1:], [2400, 800]).pvalue > 1e-6
    write(rng, tmp_path / 'own', [3])
    mix.refresh()
    assert counts(mix, 20)[0] == 0  # no sequence yet
    write(rng, tmp_path / 'own', [3], first=1)
    assert [info.path.parent.name for info in mix.refresh()] == ['own']
    assert chisquare(counts(mix, 200), [640, 1920, 640]).pvalue > 1e-6
    peeked = np.concatenate([mix.peek(16, 4)['reward'][:, 0] for _ in range(20)])
    assert set(peeked) == {0, 1, 2}


def test_continues_with_the_same_samples(tmp_path, rng):
    for name in FOLDERS:
        write(rng, tmp_path / name, [20, 30])
    mix = open_mix(tmp_path)
    for _ in range(3):
        mix.sample(8, 4)
    cursor = mix.cursor()
    expected = [mix.sample(8, 4) for _ in range(4)]
    resumed = open_mix(tmp_path, seed=9, look=False)
    resumed.load_state_dict(json.loads(json.dumps(mix.state_dict(cursor))))
    assert resumed.refresh() == [] and resumed.problems == []
    for batch in expected:
        found = resumed.sample(8, 4)
        for key in batch:
            np.testing.assert_array_equal(found[key], batch[key], err_msg=key)
    # a checkpoint from before there were several folders
    alone = open_mix(tmp_path, bags=())
    resumed = open_mix(tmp_path, bags=(), seed=9, look=False)
    resumed.load_state_dict(json.loads(json.dumps(alone.state_dict()['folders'][''])))
    assert resumed.refresh() == [] and resumed.steps == 50
    np.testing.assert_array_equal(resumed.sample(8, 4)['image'], alone.sample(8, 4)['image'])
    # of a run that had no other folders, and then gets some
    resumed = open_mix(tmp_path, look=False)
    resumed.load_state_dict(open_mix(tmp_path, bags=()).state_dict())
    assert {info.path.parent.name for info in resumed.refresh()} == {'a', 'b'}


def test_held_out_sequences_are_the_same_every_time(tmp_path, rng):
    write(rng, tmp_path / 'own', [20] * 5)
    write(rng, tmp_path / 'a', [20] * 10)
    write(rng, tmp_path / 'b', [20] * 10)
    mix = open_mix(tmp_path, validation=0.5)
    assert mix.validation(1, 4) is not None and mix.validation(1, 10_000) is None
    assert 100 < mix.steps < 500
    first, again = mix.validation(32, 4), mix.validation(32, 4)
    np.testing.assert_array_equal(first['image'], again['image'])
    assert set(first['reward'].ravel()) == {1, 2}  # what the run itself records is for training
    trained = {image.tobytes() for _ in range(100) for image in mix.sample(16, 1)['image'][:, 0]}
    assert not trained & {image.tobytes() for image in first['image'].reshape(-1, *first['image'].shape[2:])}


def test_limits_by_bytes(tmp_path, rng):
    write(rng, tmp_path / 'a', [20] * 5)
    size = 16 * 12 * 3 + 2 * 4 + 2 * 4 + 4 + 4
    assert open_mix(tmp_path, ('a',), disk_gb=65 * size / 1e9).steps == 60
    with pytest.raises(InputError, match='replay.disk_gb allow 3'):
        open_mix(tmp_path, ('a',), disk_gb=3.5 * size / 1e9)


def test_folders_are_checked(tmp_path, rng):
    write(rng, tmp_path / 'a', [5])
    (tmp_path / 'run' / 'episodes').mkdir(parents=True)
    (tmp_path / 'odd:name').mkdir()
    assert bag_folder(f'{tmp_path}/run:0.5') == (tmp_path / 'run' / 'episodes', 0.5)
    assert bag_folder(f'{tmp_path}/odd:name') == (tmp_path / 'odd:name', 1.0)
    for text, words in (
        (f'{tmp_path}/a:0', 'positive weight, got 0'),
        (f'{tmp_path}/a:nan', 'positive weight'),
        (f'{tmp_path}/none', 'found none'),
        (f'{tmp_path}/a/bag000', 'it is a bag'),
    ):
        with pytest.raises(InputError, match=words):
            bag_folder(text)
    with pytest.raises(InputError, match='twice'):
        open_mix(tmp_path, ('a', 'a:2'))
    (tmp_path / 'own').mkdir(exist_ok=True)
    with pytest.raises(InputError, match='twice'):
        open_mix(tmp_path, ('own/../own',))


def test_steps_by_people_come_by_their_share(tmp_path, rng, seed):
    """Of 1,000 steps 30 are by people, 10 in the own folder and 20 in another one."""
    for folder, number, length, mode in (('own', 0, 970, 'explore'), ('own', 1, 10, 'human'), ('a', 2, 20, 'human')):
        episode = random_episode(rng, length, START_NS + number * 10_000 * PERIOD_NS)
        rows = [(name, cdr, stamp) for name, cdr, stamp in cdr_messages(episode, mode=codecs.Mode(mode))]
        write_raw(tmp_path / folder, f'bag{number}', rows, {'mode': mode})

    def share(batches=150, **options):
        mix = open_mix(tmp_path, ('a:0.001',), seed=seed, **options)
        samples = [mix.sample(16, 4) for _ in range(batches)]
        assert all(sample['is_human'].shape == (16, 4) for sample in samples)
        return np.concatenate([sample['is_human'].any(1) for sample in samples]).mean(), samples, mix

    shown, samples, _ = share()
    assert shown < 0.03
    wanted, more, mix = share(demonstrations=0.3)
    assert abs(wanted - shown - 0.3) < 0.05
    assert mix.sample(1, 4)['reward'].shape == (1, 4)
    again = [sample['index'].tolist() for sample in share(5)[1]]
    assert again == [sample['index'].tolist() for sample in samples[:5]], 'without a share nothing else is drawn'
    buffer = mix._buffers()[0]
    drawn = buffer.sample_human(2000, 4)
    assert drawn['is_human'].any(1).all() and buffer.human_steps == 10
    cursor = mix.cursor()
    expected = [mix.sample(8, 4) for _ in range(3)]
    resumed = open_mix(tmp_path, ('a:0.001',), seed=9, look=False, demonstrations=0.3)
    resumed.load_state_dict(json.loads(json.dumps(mix.state_dict(cursor))))
    for batch in expected:
        np.testing.assert_array_equal(resumed.sample(8, 4)['is_human'], batch['is_human'])
