"""Whatever a policy says, what is published is finite, within limits and no faster than allowed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.robot.safety import Safety
from tests.robot.robots import contract

PERIOD = 0.1
LOW, HIGH = np.array([-1.5, 0]), np.array([2.5, 2])
RATE = np.array([4.0, 1.0])
STRANGE = [math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-320, -0.0]


def anything(rng) -> np.ndarray:
    """f64[2], one in five of them strange."""
    values = rng.normal(0, 10 ** rng.uniform(-3, 6), 2)
    for place in range(2):
        if rng.random() < 0.1:
            values[place] = rng.choice(STRANGE)
    return values


@pytest.mark.parametrize('stop', ['hold', 'zero', {'shoulder': 1.0, 'elbow': 0.5}, {'shoulder': 0, 'elbow': 0}])
def test_whatever_comes_in(stop, rng):
    """10,000 commands and stops at random times, in bursts and after pauses, with clocks that stand still."""
    safety = Safety(contract(command__stop=stop))
    start = rng.uniform(LOW, HIGH)
    safety.start(start)
    last, now, before = start, 100.0, None
    for _ in range(10_000):
        now += rng.choice([0.0, 1e-6, 0.02, PERIOD, 0.11, 5.0])
        elapsed = PERIOD if before is None else min(now - before, PERIOD)
        asked = anything(rng)
        if stopping := rng.random() < 0.1:
            values = safety.stop(now)
        else:
            limited = safety.limit(asked, now)
            values = limited.values
            assert limited.refused == (not np.isfinite(asked).all())
            stopping = limited.refused
            if not stopping:
                assert limited.clamped == bool(((asked < LOW) | (asked > HIGH)).any())
                assert limited.slowed == (not np.array_equal(values, np.clip(asked, LOW, HIGH)))
        assert values.shape == (2,) and np.isfinite(values).all()
        assert (values >= LOW).all() and (values <= HIGH).all()
        if stopping and stop == 'zero':
            assert not values.any()  # at once
        else:
            assert (np.abs(values - last) <= RATE * elapsed + 1e-12).all()
        if stopping and stop == 'hold':
            np.testing.assert_array_equal(values, last)
        last, before = values, now


def test_what_is_allowed_passes_untouched(rng):
    safety = Safety(contract(command__axes__0__rate_limit=None, command__axes__1__rate_limit=None))
    safety.start(np.zeros(2))
    for number in range(100):
        values = rng.uniform(LOW, HIGH)
        limited = safety.limit(values, number * PERIOD)
        np.testing.assert_array_equal(limited.values, values)
        assert not (limited.clamped or limited.slowed or limited.refused)
    limited = safety.limit(values, number * PERIOD)  # twice at one time
    np.testing.assert_array_equal(limited.values, values)


def test_the_first_command_begins_where_the_robot_stands():
    safety = Safety(contract())
    with pytest.raises(RuntimeError, match='start'):
        safety.limit(np.zeros(2), 0.0)
    assert np.isnan(safety.stop(0.0)).all() and safety.stopped  # nothing is known to hold
    safety.start(np.array([2.0, 1.0]))
    np.testing.assert_allclose(safety.limit(np.array([-1.0, 0.0]), 50.0).values, [1.6, 0.9])
    np.testing.assert_allclose(safety.stop(50.1), [1.6, 0.9])
    safety.start(np.array([0.0, 0.0]))  # moved by hand meanwhile
    np.testing.assert_allclose(safety.limit(np.array([1.0, 1.0]), 60.0).values, [0.4, 0.1])


def test_a_robot_outside_its_limits_is_not_started():
    safety = Safety(contract())
    safety.start(np.array([2.5 + 0.39, -0.05]))  # within one period's movement
    np.testing.assert_array_equal(safety.stop(0.0), [2.5, 0])
    with pytest.raises(InputError, match='elbow: expected it within its limits 0 to 2 .*, but it stands at 2.2'):
        safety.start(np.array([0.0, 2.2]))


def test_an_axis_that_does_not_tell_counts_as_stopped():
    safety = Safety(contract(command__stop={'shoulder': 1.0, 'elbow': 0.5}, command__axes__0__feedback=None))
    safety.start(np.array([math.nan, 1.5]))
    np.testing.assert_allclose(safety.limit(np.array([2.0, 2.0]), 0.0).values, [1.4, 1.6])


def test_a_pose_is_approached_until_it_is_reached():
    safety = Safety(contract(command__stop={'shoulder': 1.0, 'elbow': 0.5}))
    safety.start(np.array([2.0, 0.25]))
    poses = []
    while not safety.stopped:
        poses.append(safety.stop(len(poses) * PERIOD))
    np.testing.assert_allclose(poses, [[1.6, 0.35], [1.2, 0.45], [1.0, 0.5]])
