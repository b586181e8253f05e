"""RobotSpec: what a robot and a policy agree on."""

import dataclasses
import json

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec

SPEC = RobotSpec(
    'walker_walk', (64, 48), ('hip/position', 'hip/velocity'), ('hip', 'knee'), (-1.0, -2.5), (1.0, 0.5), 0.05, 2
)
OTHERS = dict(
    image_size=(48, 64),
    vector=('hip/position',),
    action=('hip', 'foot'),
    action_low=(-1.0, -2.0),
    action_high=(1.0, 1.0),
    control_period=0.04,
    action_repeat=1,
    cameras=('camera', 'wrist'),
    discrete=True,
)


def test_json_round_trip():
    again = RobotSpec.from_json(SPEC.to_json(), 'test')
    assert again == SPEC and again.hash == SPEC.hash and isinstance(again.image_size, tuple)
    assert json.loads(SPEC.to_json())['action_low'] == [-1.0, -2.5]


def test_hash_ignores_the_name_and_nothing_else():
    assert dataclasses.replace(SPEC, name='my robot').hash == SPEC.hash
    hashes = {dataclasses.replace(SPEC, **{key: value}).hash for key, value in OTHERS.items()}
    assert len(hashes | {SPEC.hash}) == len(OTHERS) + 1
    assert {field.name for field in dataclasses.fields(SPEC)} == set(OTHERS) | {'name'}
    assert len(SPEC.hash) == 16 and int(SPEC.hash, 16) >= 0


def test_equal_robots_hash_equally_however_their_numbers_are_written():
    limits = np.array([-1, -2.5], np.float64), np.array([1, 0.5], np.float32)
    same = RobotSpec(
        'walker_walk',
        [np.int64(64), 48],
        ['hip/position', 'hip/velocity'],
        ['hip', 'knee'],
        *limits,
        np.float64(0.05),
        np.int64(2),
    )
    assert same == SPEC and same.hash == SPEC.hash and same.to_json() == SPEC.to_json()
    whole = RobotSpec('a', (64, 64), (), ('x',), (-1,), (1,), 1, 1)
    assert whole.hash == RobotSpec.from_json(whole.to_json(), 'test').hash


def test_difference_names_what_differs_in_the_words_of_the_other():
    assert not SPEC.difference(SPEC) and not SPEC.difference(dataclasses.replace(SPEC, name='other'))
    other = dataclasses.replace(SPEC, control_period=0.1, image_size=(32, 32))
    text = SPEC.difference(other)
    assert 'image_size is [32, 32] instead of [64, 48]' in text
    assert 'control_period is 0.1 instead of 0.05' in text
    assert 'action' not in text


def test_what_older_specs_do_not_say_leaves_their_hash_as_it_was():
    data = json.loads(SPEC.to_json())
    assert data.pop('cameras') == ['camera'] and data.pop('discrete') is False
    assert RobotSpec.from_json(json.dumps(data), 'test') == SPEC
    assert SPEC.hash == '86b85261843dddc0'


def test_actions_to_units_and_back():
    limits = SPEC.limits  # hip -1 to 1, knee -2.5 to 0.5
    actions = np.array([[-1, -1], [0, 0], [1, 1], [0.5, -0.5]], np.float32)
    units = limits.to_units(actions)
    assert units.dtype == np.float64
    np.testing.assert_allclose(units, [[-1, -2.5], [0, -1], [1, 0.5], [0.5, -1.75]])
    back = limits.from_units(units)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, actions, atol=1e-7)
    np.testing.assert_array_equal(limits.from_units([5, -9]), [1, -1])
    np.testing.assert_array_equal(limits.within([[1, 0.5], [1.001, 0], [0, -2.6], [1 + 1e-6, 0.5]]), [1, 0, 0, 1])
    assert limits.within(np.array([1.05, 0.5]), tolerance=0.1)
    assert 'limits' not in SPEC.to_json() and dataclasses.replace(SPEC) == SPEC  # they are no part of the spec


def test_robots_without_cameras_and_with_choices():
    blind = dataclasses.replace(SPEC, cameras=(), image_size=(0, 0))
    assert blind.channels == 0 and SPEC.channels == 3
    assert dataclasses.replace(SPEC, cameras=('left', 'right')).channels == 6
    for robot in (blind, dataclasses.replace(SPEC, discrete=True)):
        assert RobotSpec.from_json(robot.to_json(), 'test') == robot
    for fields in (dict(vector=()), dict(image_size=(64, 64))):
        with pytest.raises(InputError, match='without cameras'):
            dataclasses.replace(blind, **fields)
    with pytest.raises(InputError, match='at least 2 choices'):
        dataclasses.replace(SPEC, discrete=True, action=('go',), action_low=(0,), action_high=(1,))


@pytest.mark.parametrize(
    'text, names',
    [
        ('not json', 'expected JSON'),
        ('[1, 2]', 'list'),
        ('{"name": "a"}', 'expected the keys'),
        (json.dumps({**json.loads(SPEC.to_json()), 'colour': 'red'}), 'colour'),
    ],
)
def test_other_texts_are_refused(text, names):
    with pytest.raises(InputError, match='topic spec: robot spec') as refusal:
        RobotSpec.from_json(text, 'topic spec')
    assert names in str(refusal.value)


@pytest.mark.parametrize(
    'key, value',
    [
        ('image_size', 64),
        ('image_size', [64]),
        ('image_size', ['a', 'b']),
        ('image_size', [0, 64]),
        ('action', 'hip'),
        ('action', ['hip']),
        ('action_low', [-1.0]),
        ('action_high', [1.0, 'much']),
        ('control_period', 'fast'),
        ('control_period', 0.0),
        ('control_period', float('nan')),
        ('action_repeat', 0),
        ('vector', None),
        ('cameras', 'camera'),
        ('cameras', ['wrist', 'wrist']),
        ('cameras', ['1']),
        ('cameras', ['a/b']),
        ('cameras', ['wrist', 'camera']),
        ('cameras', []),
        ('discrete', 'yes'),
    ],
)
def test_bad_values_are_refused_by_name(key, value):
    text = json.dumps({**json.loads(SPEC.to_json()), key: value})
    with pytest.raises(InputError) as refusal:
        RobotSpec.from_json(text, 'topic spec')
    sentence = str(refusal.value)
    assert sentence.startswith('topic spec: ') and key in sentence and '\n' not in sentence
