from __future__ import annotations

import json

import numpy as np
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.episodes.bag_reader import partial_path
from dreamer_ros.episodes.inspect import BagInfo, describe, format_table, totals
from dreamer_ros.errors import InputError
from tests.episodes.bags import random_episode, write_episode


@pytest.fixture
def run(tmp_path):
    """A run directory: two good bags, a damaged one and a leftover."""
    rng = np.random.default_rng(0)
    episodes = tmp_path / 'episodes'
    write_episode(episodes, 'a', random_episode(rng, 26), {'mode': 'random', 'return': '2.0'})
    write_episode(
        tmp_path / 'evaluation' / '20270101-000000',
        'c',
        random_episode(rng, 11),
        {'mode': 'evaluate', 'policy_version': '12', 'return': '4.5'},
    )
    (write_episode(episodes, 'b', random_episode(rng, 5)) / 'metadata.yaml').unlink()
    partial_path(episodes, 'd').mkdir()
    return tmp_path


def test_describe(run):
    rows = {row.name: row for row in describe(run)}
    assert list(rows) == ['.d.partial', 'a', 'b', 'c']
    good = rows['a']
    assert (good.steps, good.total_reward, good.mode, good.policy_version) == (26, 2.0, 'random', '')
    assert good.duration == pytest.approx(2.0) and good.rate == pytest.approx(12.5)
    assert good.messages['/sim0/camera/image_raw'] == 26 and len(good.messages) == 5
    assert rows['c'].policy_version == '12'
    assert rows['b'].problem == 'metadata.yaml is missing'
    assert 'crash' in rows['.d.partial'].problem
    assert [row.name for row in describe(run / 'episodes' / 'a')] == ['a']
    assert len(describe(run / 'episodes')) == 3
    assert [row.name for row in describe(run / 'evaluation')] == ['c']


def test_table(run):
    text = format_table(describe(run))
    lines = text.splitlines()
    assert lines[0].split() == [
        'folder',
        'bag',
        'steps',
        'missing',
        'return',
        'mode',
        'policy',
        'seconds',
        'steps/s',
        'KiB',
    ]
    assert lines[2].split()[:9] == ['episodes', 'a', '26', '0', '2.00', 'random', '-', '2.0', '12.5']
    assert 'metadata.yaml is missing' in lines[3]
    assert '37  /sim0/step' in text
    assert lines[4].split()[:4] == ['evaluation/20270101-000000', 'c', '11', '0']
    assert lines[-2].startswith('episodes: 3 bags, 26 steps') and lines[-2].endswith('returns 2.00 to 2.00, mean 2.00')
    assert lines[-1].startswith('evaluation: 1 bags, 11 steps') and lines[-1].endswith('4.50 to 4.50, mean 4.50')


def test_one_folder_has_one_total(run):
    rng = np.random.default_rng(1)
    write_episode(run / 'episodes', 'e', random_episode(rng, 3), {'return': '5.0'})
    lines = format_table(describe(run / 'episodes')).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ['.'] * 4
    assert lines[-1].startswith('.: 4 bags, 29 steps') and lines[-1].endswith('returns 2.00 to 5.00, mean 3.50')


def test_json_keeps_evaluations_apart(run, capsys):
    assert main(['bag', 'info', str(run), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert {bag['name']: bag['folder'] for bag in told['bags']} == {
        '.d.partial': 'episodes',
        'a': 'episodes',
        'b': 'episodes',
        'c': 'evaluation/20270101-000000',
    }
    assert {folder: (total['bags'], total['steps'], total['mean']) for folder, total in told['folders'].items()} == {
        'episodes': (3, 26, 2.0),
        'evaluation': (1, 11, 4.5),
    }
    assert totals([BagInfo('x')]) == {
        '.': {'bags': 1, 'steps': 0, 'bytes': 0, 'least': None, 'mean': None, 'most': None}
    }


def test_nothing_to_describe(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        describe(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='found none'):
        describe(tmp_path)
