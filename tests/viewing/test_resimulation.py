"""Recorded episodes simulated once more: equal bit by bit, or the first step where they are not."""

from __future__ import annotations

import json

import pytest
import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.viewing.resimulation import resimulate
from tests.episodes.simulated import EPISODE, SEED, STEPS, simulated_bag


def test_the_same_episode_comes_out(tmp_path):
    result = resimulate(simulated_bag(tmp_path).bag)
    assert result.exact and result.steps == STEPS and result.remarks == ()
    assert (result.origin.seed, result.origin.episode) == (SEED, EPISODE)
    assert 'equal bit by bit' in result.report()
    written = json.loads(result.write(tmp_path / 'out').read_text())
    assert written['exact'] and written['departures'] == []


def test_another_action_is_found_at_its_step(tmp_path):
    """One recorded action is not the one that was taken."""
    result = resimulate(simulated_bag(tmp_path, actions={9: 1.0}).bag)
    assert not result.exact
    first = {departure.quantity: departure for departure in result.departures}
    assert first['velocity of slider'].step == 10, 'what follows the action departs first'
    assert min(departure.step for departure in result.departures) == 10
    assert (
        first['velocity of slider'].difference
        >= abs(first['velocity of slider'].recorded - first['velocity of slider'].simulated)
        > 0
    )
    assert first['velocity of slider'].steps <= STEPS - 10 and first['image'].step >= 10
    assert 'equal bit by bit up to step 9' in result.report()


def test_another_seed_departs_at_once(tmp_path):
    result = resimulate(simulated_bag(tmp_path, seed=SEED + 1).bag)
    assert min(departure.step for departure in result.departures) == 0
    assert 'different from the first step' in result.report()


def test_what_changed_since_is_said(tmp_path):
    bag = simulated_bag(tmp_path).bag
    for key, value, sentence in (
        ('mujoco', '3.0.0', 'recorded with mujoco 3.0.0'),
        ('world', '0' * 16, 'not the one that was recorded'),
    ):
        _change(bag, lambda origin: origin.update({key: value}))
        assert any(sentence in remark for remark in resimulate(bag).remarks)
        _change(
            bag,
            lambda origin: origin.update(
                json.loads(_custom_data(simulated_bag(tmp_path, f'fresh-{key}').bag)['simulation'])
            ),
        )


def test_what_cannot_be_simulated_is_refused(tmp_path):
    bag = simulated_bag(tmp_path).bag
    _change(bag, lambda origin: origin.update(stamp=origin['stamp'] - 1))
    with pytest.raises(InputError, match='from its beginning'):
        resimulate(bag)
    _change(bag, lambda origin: origin.update(stamp=origin['stamp'] + 1, task='moved.yaml'))
    with pytest.raises(InputError, match='moved.yaml'):
        resimulate(bag)
    assert resimulate(bag, task='cartpole_swingup').exact
    with pytest.raises(InputError, match='expected the recorded robot.*action is'):
        resimulate(bag, task='walker_walk')
    _change(bag, lambda origin: origin.update(seed='11'))
    with pytest.raises(InputError, match='seed: expected a whole number'):
        resimulate(bag)


def _custom_data(bag):
    return yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']['custom_data']


def _change(bag, change):
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    custom_data = content['rosbag2_bagfile_information']['custom_data']
    origin = json.loads(custom_data['simulation'])
    change(origin)
    custom_data['simulation'] = json.dumps(origin)
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(content))
