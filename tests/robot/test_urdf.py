"""Joint limits of a URDF."""

from __future__ import annotations

import math
import random

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.robot.urdf import JointLimits, read_limits

URDF = """<?xml version="1.0"?>
<!-- a comment -->
<robot name="arm">
  <link name="base"/>
  <joint name="fixed" type="fixed"><parent link="base"/></joint>
  <joint name="elbow" type="revolute"><limit lower="-1.5" upper="2" velocity="3" effort="1"/></joint>
  <joint name="slide" type="prismatic"><limit upper="0.3" velocity="0" effort="1"/></joint>
  <joint name="wheel" type="continuous"><limit velocity="12" effort="1"/></joint>
</robot>"""


def test_limits_of_movable_joints():
    assert read_limits(URDF, 'x') == {
        'elbow': JointLimits(-1.5, 2.0, 3.0, 'rad'),
        'slide': JointLimits(0.0, 0.3, math.inf, 'm'),
        'wheel': JointLimits(-math.inf, math.inf, 12.0, 'rad'),
    }


@pytest.mark.parametrize(
    'text',
    [
        '',
        'no xml',
        '<sdf/>',
        URDF.replace('"-1.5"', '"left"'),
        URDF.replace('"-1.5"', '"nan"'),
        '<!DOCTYPE robot [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><robot name="&b;"/>',
        '<robot>' + '<joint>' * 100_000,
    ],
)
def test_what_is_no_urdf_is_told_in_a_sentence(text):
    with pytest.raises(InputError, match=r'^/robot_description: .*expected'):
        read_limits(text, '/robot_description')


def test_a_thousand_mutations(rng):
    """Of a stranger's text comes a result or a sentence."""
    picks = random.Random(int(rng.integers(1 << 31)))
    for _ in range(1000):
        text = list(URDF)
        for _ in range(picks.randint(1, 8)):
            text[picks.randrange(len(text))] = picks.choice('<>/"=&;\0\ud7ff0-e!x ')
        try:
            assert isinstance(read_limits(''.join(text), 'x'), dict)
        except InputError as error:
            assert str(error).startswith('x: ')
