"""A joystick's messages as actions."""

from __future__ import annotations

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.robot.joystick import Sticks
from tests.robot.robots import contract, message
from tests.robot.test_contract import TWIST

NOWHERE = np.full(2, np.nan)
MIXED = {'left': {'axes[1]': 2, 'axes[0]': -1}, 'right': {'axes[1]': 2, 'axes[0]': 1}}


def joy(axes, buttons=()):
    made = message('sensor_msgs/msg/Joy')
    made.axes, made.buttons = np.array(axes, np.float32), np.array(buttons, np.int32)
    return made


def test_sticks_say_how_fast():
    """Limits are ±3 in the axes' unit, so that 3 is the action 1; at rest the axes stand still."""
    sticks = Sticks(contract(command=TWIST, joystick={'axes': MIXED}))
    hand = sticks.read(joy([0.5, 1.0]))
    assert hand.takes_over and hand.values.tolist() == [1.5, 2.5]
    np.testing.assert_allclose(sticks.action(hand, NOWHERE), [0.5, 2.5 / 3])
    assert sticks.action(sticks.read(joy([1, 1])), NOWHERE)[1] == 1.0, 'no further than its limit'
    rest = sticks.read(joy([0.09, -0.09]))
    assert not rest.takes_over and sticks.action(rest, NOWHERE).tolist() == [0, 0]


def test_sticks_move_from_where_it_is():
    """The arm has 10 Hz, a shoulder from -1.5 to 2.5 and an elbow from 0 to 2."""
    sticks = Sticks(contract(joystick={'axes': {'elbow': {'axes[0]': 2}}, 'mode': 'relative'}))
    action = sticks.action(sticks.read(joy([-1])), np.array([0.5, 1.2]))
    np.testing.assert_allclose(action, [0, 0], atol=1e-6)  # 0.5 is the middle; 1.2 - 2 / 10 is, too
    assert sticks.action(sticks.read(joy([1])), np.array([9.0, 2.0])).tolist() == [1, 1]


def test_only_while_the_button_is_held():
    sticks = Sticks(contract(command=TWIST, joystick={'axes': MIXED, 'takeover': 'buttons[1]'}))
    held = sticks.read(joy([0, 0], [0, 1]))
    assert held.takes_over and sticks.action(held, NOWHERE).tolist() == [0, 0]
    released = sticks.read(joy([1, 1], [1, 0]))
    assert not released.takes_over and not released.values.any()


def test_buttons_choose():
    choices = {
        'wait': {'shoulder': 0, 'elbow': 0},
        'up': {'shoulder': 1, 'elbow': 0},
        'down': {'shoulder': -1, 'elbow': 2},
    }
    sticks = Sticks(
        contract(
            command__choices=choices,
            command__stop='zero',
            joystick={'choices': {'down': 'buttons[1]', 'up': 'axes[0]'}},
        )
    )
    actions = [sticks.read(joy([push], [0, press])) for push, press in ((0, 0), (0.5, 0), (1, 1), (0, 1))]
    assert [hand.takes_over for hand in actions] == [False, True, True, True]
    names = [choices_of(sticks.action(hand, NOWHERE), choices) for hand in actions]
    assert names == ['wait', 'up', 'up', 'down'], 'the first in the order of the choices'


def choices_of(action, choices):
    assert sorted(action.tolist()) == [0, 0, 1]
    return list(choices)[int(action.argmax())]


@pytest.mark.parametrize(
    'bad, reason',
    [
        ([0.2], r'axes\[1\]: expected more than 1 elements, got 1'),
        ([0.0, np.nan], r'joy: axes\[1\]: expected a finite value, got nan'),
    ],
)
def test_messages_that_say_nothing(bad, reason):
    with pytest.raises(InputError, match=reason):
        Sticks(contract(command=TWIST, joystick={'axes': MIXED})).read(joy(bad))


def test_buttons_by_which_a_person_speaks_move_nothing():
    sticks = Sticks(contract(command=TWIST, joystick={'success': 'buttons[0]', 'failure': 'axes[0]'}))
    assert [
        sorted(sticks.read(joy([axis], [button])).said) for axis, button in ((0, 0), (0, 1), (-1, 1), (0.05, 0))
    ] == [[], ['success'], ['failure', 'success'], []]
    assert not sticks.read(joy([1], [1])).takes_over
