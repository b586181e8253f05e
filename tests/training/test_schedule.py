"""The replay ratio is exact, and nobody ever waits for nobody."""

from __future__ import annotations

import math
import types

import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.training.schedule import SLACK_UPDATES, Schedule


def make(batch=16, length=64, replay_ratio=256.0, prefill=1000, env_steps=100_000, action_repeat=2):
    section = types.SimpleNamespace(batch=batch, length=length, replay_ratio=replay_ratio, prefill=prefill)
    return Schedule.make(section, env_steps, action_repeat)


def test_dreamerv3_numbers():
    schedule = make()
    assert schedule.budget == 50_000 and schedule.steps_per_update == 4
    assert [schedule.updates_due(n) for n in (0, 999, 1003, 1004, 1400)] == [0, 0, 0, 1, 100]
    # beyond the budget nothing more is due
    assert schedule.updates_due(60_000) == schedule.updates_due(50_000) == 12_250
    assert schedule.steps_allowed(0) == 1000 + 4 * SLACK_UPDATES + 1
    assert schedule.steps_allowed(10**6) == 50_000


def test_any_ratio_ends_exact_without_deadlock(rng):
    for _ in range(50):
        batch, length = int(rng.integers(1, 50)), int(rng.integers(2, 65))
        ratio = float(rng.choice([0.3, 1, 7, 100, 512, 1e4]))
        prefill, repeat = int(rng.integers(1, 300)), int(rng.integers(1, 9))
        budget = prefill + math.ceil(batch * length / ratio) + int(rng.integers(1, 400))
        schedule = make(batch, length, ratio, prefill, budget * repeat, repeat)
        collected = updates = 0
        while collected < budget or updates < schedule.updates_due(collected):
            before = collected, updates
            if collected < min(schedule.steps_allowed(updates), budget) and rng.random() < 0.7:
                collected += 1
            elif updates < schedule.updates_due(collected):
                updates += 1
            elif collected < schedule.steps_allowed(updates):
                collected += 1
            assert (collected, updates) != before, schedule
            ahead = collected - prefill - updates * schedule.steps_per_update
            assert ahead <= SLACK_UPDATES * schedule.steps_per_update + 1 + 1e-9
        assert collected == budget
        assert updates == pytest.approx(ratio * (budget - prefill) / (batch * length), abs=1)
        assert updates <= ratio * (budget - prefill) / (batch * length) + 1e-6


def test_a_budget_without_an_update_is_refused():
    with pytest.raises(InputError, match='expected at least 2008 env steps, .* got 2006'):
        make(env_steps=2006)
    assert make(env_steps=2008).updates_due(1004) == 1


def test_budget_within_the_prefill_is_refused():
    with pytest.raises(InputError, match='expected more than the 2000 env steps .* got 1500'):
        make(env_steps=1500)
