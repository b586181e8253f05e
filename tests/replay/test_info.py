from __future__ import annotations

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.replay.bag import partial_path
from dreamer_ros.replay.info import describe, format_table
from tests.replay.bags import random_episode, write_episode


@pytest.fixture
def run(tmp_path):
    """A run directory: two good bags, a damaged one and a leftover."""
    rng = np.random.default_rng(0)
    episodes = tmp_path / 'episodes'
    write_episode(episodes, 'a', random_episode(rng, 26), {'mode': 'random', 'return': '2.0'})
    write_episode(tmp_path / 'evaluation' / '20270101-000000', 'c', random_episode(rng, 11), {
        'mode': 'evaluate', 'policy_version': '12', 'return': '4.5'})
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
    assert lines[0].split() == ['bag', 'steps', 'missing', 'return', 'mode', 'policy', 'seconds', 'steps/s', 'KiB']
    assert lines[2].split()[:8] == ['a', '26', '0', '2.00', 'random', '-', '2.0', '12.5']
    assert 'metadata.yaml is missing' in lines[3]
    assert '37  /sim0/step' in text
    assert '4 bags, 37 steps' in lines[-1] and 'returns 2.00 to 4.50, mean 3.25' in lines[-1]


def test_nothing_to_describe(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        describe(tmp_path / 'nowhere')
    with pytest.raises(InputError, match='found none'):
        describe(tmp_path)
