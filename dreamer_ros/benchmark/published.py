"""Published scores of the dm_control tasks, from docs/data/dmc_scores.json.

The file says for every method where its numbers come from and how they were measured: most are returns of
training episodes with sampled actions, some of evaluation episodes. Env steps count control steps, action repeat
included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from dreamer_ros.paths import share

# name for people -> key in the file
METHODS = {
    'A3C': 'a3c_proprio',
    'D4PG': 'd4pg_vision',
    'PlaNet': 'planet_vision',
    'Dreamer': 'dreamer_v1_vision',
    'DreamerV2': 'dreamer_v2_vision',
    'DreamerV3': 'dreamer_v3_vision',
    'DrQ-v2': 'drqv2_vision',
    'MR.Q': 'mrq_vision',
    'TD-MPC2': 'tdmpc2_vision',
}

Points = list[tuple[int, float]]  # (env steps, mean return), env steps increasing


class Published:
    """The curves of METHODS.

    A method known at one number of env steps only, such as A3C after 100M, is a level, not a curve.
    """

    def __init__(self):
        data = json.loads(share('docs', 'data', 'dmc_scores.json').read_text())
        self._points: dict[str, dict[str, Points]] = {
            method: {
                task: sorted((int(steps), score['mean_return']) for steps, score in scores.items())
                for task, scores in data[key].items()
                if not task.startswith('_')
            }
            for method, key in METHODS.items()
        }

    def points(self, method: str, task: str) -> Points:
        """What is published; empty where nothing is."""
        return self._points[method].get(task, [])

    def level(self, method: str) -> int | None:
        """The env steps that a method's scores belong to, if they all belong to the same; None for curves."""
        steps = {steps for points in self._points[method].values() for steps, _ in points}
        return steps.pop() if len(steps) == 1 else None

    def score(self, method: str, task: str, steps: int) -> float | None:
        """The return at so many env steps, or that of a level; None where it is not known."""
        points = self.points(method, task)
        if self.level(method) is not None:
            return points[0][1] if points else None
        return interpolate(points, steps)


def interpolate(points: Sequence[tuple], steps: int) -> float | None:
    """Value at `steps` on the line through (steps, value) points; None outside them."""
    if not points or not points[0][0] <= steps <= points[-1][0]:
        return None
    x, y = zip(*points)
    return float(np.interp(steps, x, y))
