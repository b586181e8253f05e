"""How many updates are due, and how far robots may run ahead, so that the replay ratio is kept exactly."""

from __future__ import annotations

import dataclasses
import math

from dreamer_ros.errors import InputError

# A robot may run this many updates' worth of steps ahead, so that it works while the learner does.
SLACK_UPDATES = 4


@dataclasses.dataclass(frozen=True)
class Schedule:
    """All numbers are agent steps (transitions).

    Attributes:
        steps_per_update: agent steps collected for each update.
        prefill: steps before the first update is due.
        budget: steps of the whole run.
    """

    steps_per_update: float
    prefill: int
    budget: int

    @classmethod
    def make(cls, schedule, env_steps: int, action_repeat: int) -> Schedule:
        """Make the schedule of a config's schedule section and a budget in env steps.

        Raises:
            InputError: the budget ends before the first update.
        """
        budget = math.ceil(env_steps / action_repeat)
        if budget <= schedule.prefill:
            raise InputError(
                f'steps: expected more than the {schedule.prefill * action_repeat} env steps that are played '
                f'at random before learning begins (schedule.prefill {schedule.prefill}), got {env_steps}'
            )
        trained = schedule.batch * schedule.length
        made = cls(trained / schedule.replay_ratio, schedule.prefill, budget)
        if not made.updates_due(budget):
            needed = math.ceil(schedule.prefill + made.steps_per_update) * action_repeat
            raise InputError(
                f'steps: expected at least {needed} env steps, after which the first update is made (schedule.prefill '
                f'{schedule.prefill}, schedule.replay_ratio {schedule.replay_ratio:g}), got {env_steps}'
            )
        return made

    def updates_due(self, collected: int) -> int:
        """Updates that should have been made once `collected` steps exist."""
        past = min(collected, self.budget) - self.prefill
        # The small term keeps 3 × 0.1 / 0.1 at 3.
        return max(0, math.floor(past / self.steps_per_update + 1e-9))

    def steps_allowed(self, updates: int) -> int:
        """Steps that may exist once `updates` updates are made."""
        # One more, so that a step is always allowed when no update is due, however many updates it brings.
        ahead = math.floor((updates + SLACK_UPDATES) * self.steps_per_update) + 1
        return min(self.budget, self.prefill + ahead)


@dataclasses.dataclass(frozen=True)
class OfflineSchedule:
    """The schedule of learning from bags alone: no steps are collected, and all updates are due at once.

    Attributes:
        updates: of the whole run.
    """

    updates: int
    prefill: int = 0
    budget: int = 0

    def updates_due(self, collected: int) -> int:
        """All of them."""
        return self.updates

    def steps_allowed(self, updates: int) -> int:
        """None."""
        return 0
