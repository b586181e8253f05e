from __future__ import annotations

import math

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.robot.expressions import Expression

VALUES = {'speed': 0.5, 'turn': -2.0, 'contact': 1.0}


@pytest.mark.parametrize(
    'text, value',
    [
        ('speed', 0.5),
        (' 1 + 2 * speed - turn / 4 ', 2.5),
        ('-speed ** 2', -0.25),
        ('exp(-abs(turn)) + max(speed, turn, 0)', math.exp(-2) + 0.5),
        ('hypot(speed, turn) * cos(pi)', -math.hypot(0.5, 2)),
        ('speed > 0 and turn > 0', 0.0),
        ('0 < speed <= 0.5', 1.0),
        ('not contact', 0.0),
        ('10 if contact else speed', 10.0),
        ('1e3 * (speed == 0.5)', 1000.0),
        ('contact or 1 / 0', 1.0),
    ],
)
def test_values(text, value):
    assert Expression(text, VALUES)(VALUES) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    'text',
    [
        '__import__("os").system("true")',
        'speed.real',
        '(lambda: 1)()',
        '[speed]',
        '"text"',
        'open',
        'speed; turn',
        'x := 1',
        'abs(speed, turn)',
        'abs(x=speed)',
        'min(speed)',
        '1 +',
        '',
        'f"{speed}"',
        'speed @ turn',
        'speed % 2',
        '1 if',
        '(' * 300 + '1' + ')' * 300,
        '-' * 900 + '1',
        '1' * 1001,
        'True.real',
        'min(*[1, 2])',
        'a is b',
        '1j',
    ],
)
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(InputError):
        Expression(text, VALUES)


def test_unknown_names_are_listed():
    with pytest.raises(InputError, match="expected one of the names speed, turn, contact, pi, got 'sped'"):
        Expression('sped + 1', VALUES)


@pytest.mark.parametrize(
    'text',
    [
        '1 / (speed - 0.5)',
        'log(turn)',
        'sqrt(turn)',
        'turn ** 0.5',
        'exp(1e6)',
        '1e308 * 10',
        '(0 - 1e308) * 10 + 1e308 * 10',
        '9 ** 9 ** 9 ** 9',
        ' ** '.join(['((1 < 2) + (1 < 2))'] * 7),
    ],
)
def test_formulas_without_a_finite_value(text):
    with pytest.raises(InputError, match='speed 0.5, turn -2'):
        Expression(text, VALUES)(VALUES)
