"""Makes commands finite, within limits and no faster than allowed, and computes the stop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract


class Limited(NamedTuple):
    """Values that may be published.

    Attributes:
        values: f64[A] in the units of the axes, NaN for what is not to be published (see `Safety.stop`).
        clamped: some value lay outside its limits.
        slowed: some value would have changed faster than its rate limit.
        refused: some value was not finite, so these are the stop's.
        blocked: some value would have gone further beyond a limit of the robot's state.
    """

    values: np.ndarray
    clamped: bool = False
    slowed: bool = False
    refused: bool = False
    blocked: bool = False


class Safety:
    """Remembers the last command. Not thread-safe: one lock must cover it and the publication.

    Times are seconds of a steady clock. A rate limit applies to the time since the last command, at most one
    control period, so nothing jumps after a pause.
    """

    def __init__(self, contract: RobotContract):
        command = contract.command
        self._names = [axis.name for axis in command.axes]
        self._low, self._high = np.array([axis.limits for axis in command.axes]).T
        self._rate = np.array([axis.rate_limit or np.inf for axis in command.axes])
        self._period = 1 / contract.rate
        self._stop, self._at_once = command.stop, command.stop_at_once
        self._last = self._stop  # f64[A], NaN for an axis that holds its place and was not told it
        self._time: float | None = None
        self._down, self._up = np.zeros((2, len(command.axes)), bool)

    def start(self, feedback: np.ndarray) -> None:
        """Begin where the robot stands.

        Args:
            feedback: f64[A], see `Sensed.feedback`; an axis without feedback (NaN) counts as stopped.

        Raises:
            InputError: an axis is outside its limits by more than one period's movement.
        """
        last = np.where(np.isnan(feedback), np.where(np.isnan(self._stop), self._low, self._stop), feedback)
        inside = np.clip(last, self._low, self._high)
        far = np.abs(last - inside) > self._rate * self._period
        if far.any():
            number = int(far.argmax())
            raise InputError(
                f'{self._names[number]}: expected it within its limits {self._low[number]:g} to '
                f'{self._high[number]:g} before it is commanded, but it stands at {last[number]:g}'
            )
        self._last, self._time = inside, None

    def limit(self, values: np.ndarray, now: float) -> Limited:
        """Make values f64[A] safe; the stop if one of them is not finite.

        Raises:
            RuntimeError: the stop is to hold the pose, and `start` did not tell it.
        """
        if np.isnan(self._last).any():
            raise RuntimeError('where the robot stands is not known: call start() first')
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            return Limited(self.stop(now), refused=True)
        clamped = np.clip(values, self._low, self._high)
        rest = self._rest()
        slowed = self._toward(clamped, now)
        self._last = inside = self._within(slowed, rest)
        return Limited(
            inside,
            clamped=bool((clamped != values).any()),
            slowed=bool((slowed != clamped).any()),
            blocked=bool((inside != slowed).any()),
        )

    def block(self, down: np.ndarray, up: np.ndarray) -> np.ndarray | None:
        """Keep axes from going further down or up, from now on.

        Velocities, which stop at zero, may not lead there at all, and break their rate limits for it. Positions may
        not go beyond the last command.

        Args:
            down, up: bool[A].

        Returns:
            f64[A] to publish at once; None if the last command may stand.
        """
        self._down, self._up = down, up
        inside = self._within(self._last, self._rest())
        if np.array_equal(inside, self._last, equal_nan=True):
            return None
        self._last = inside
        return inside

    def stop(self, now: float) -> np.ndarray:
        """f64[A] that stops the robot, to be repeated at the control rate until `stopped`.

        `zero` stops at once, a pose is approached at the rate limits, `hold` repeats the last command. NaN for an axis
        that should hold, if neither `start` nor a command told its place: then silence holds it.
        """
        goal = self._toward(np.where(np.isnan(self._stop), self._last, self._stop), now)
        self._last = np.where(self._at_once, self._stop, goal)
        return self._last

    @property
    def stopped(self) -> bool:
        """Whether the last command was the final stop."""
        return bool((np.isnan(self._stop) | (self._last == self._stop)).all())

    def _rest(self) -> np.ndarray:
        """f64[A]: commands by which no axis moves."""
        return np.where(self._at_once, 0.0, self._last)

    def _within(self, values: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Values that lead nowhere where they may not."""
        values = np.where(self._up, np.minimum(values, rest), values)
        return np.where(self._down, np.maximum(values, rest), values)

    def _toward(self, goal: np.ndarray, now: float) -> np.ndarray:
        """Move the last command towards the goal, as far as the rate limits allow."""
        elapsed = self._period if self._time is None else min(max(now - self._time, 0.0), self._period)
        limited = np.isfinite(self._rate) & ~np.isnan(self._last)
        step = np.where(limited, self._rate, 0.0) * elapsed
        goal = np.where(limited, np.clip(goal, self._last - step, self._last + step), goal)
        self._last, self._time = goal, now
        return goal
