"""Compares the actions of a recorded episode with those that a policy would have taken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.inspect import align
from dreamer_ros.files import write_result
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.spec import RobotSpec

PANEL = 130  # pixels of height per action in the plot


class Shadow:
    """Runs a policy on recorded steps, one after the other.

    It sees what the recorded agent saw, so its actions have no effect. The last step of an episode is left out,
    because it has no action.

    Args:
        runner: the policy; acts deterministically.
        episodes: in order of time.
    """

    def __init__(self, runner: PolicyRunner, episodes: list[Episode]):
        self._runner = runner
        self._steps = [(episode, k) for episode in episodes for k in range(len(episode)) if not episode.is_last[k]]
        self._next = 0
        self._actions: list[np.ndarray] = []

    @property
    def next_stamp(self) -> float:
        """Stamp of the step that `step` will take, ns; infinite after the last."""
        if self._next == len(self._steps):
            return float('inf')
        episode, k = self._steps[self._next]
        return int(episode.stamp[k])

    def step(self) -> np.ndarray:
        """The policy's action f32[A] at the next step."""
        episode, k = self._steps[self._next]
        self._next += 1
        # Without memory also where a recording begins within an episode, like an agent that joins it.
        action = self._runner.act(episode.image[k], episode.vector[k], k == 0, explore=False)
        self._actions.append(action)
        return action

    def comparison(self) -> Comparison:
        """Comparison of the steps taken so far."""
        steps = self._steps[: self._next]
        size = len(self._runner.spec.action)
        return Comparison(
            self._runner.spec,
            np.array([episode.stamp[k] for episode, k in steps], np.int64),
            np.array([episode.action[k] for episode, k in steps], np.float32).reshape(-1, size),
            np.array(self._actions, np.float32).reshape(-1, size),
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Recorded and shadow actions of N steps.

    Attributes:
        spec: names and number A of the actions.
        stamps: int64[N], nanoseconds.
        recorded, shadow: f32[N, A], normalised to [-1, 1].
    """

    spec: RobotSpec
    stamps: np.ndarray
    recorded: np.ndarray
    shadow: np.ndarray

    def errors(self) -> dict[str, dict[str, float]]:
        """By action: mean, root mean square and maximum of |shadow - recorded|, and its signed mean (bias)."""
        apart = self.shadow.astype(np.float64) - self.recorded
        if not len(apart):
            return {}
        return {
            name: {
                'mean': float(np.abs(column).mean()),
                'rms': float(np.sqrt(np.square(column).mean())),
                'max': float(np.abs(column).max()),
                'bias': float(column.mean()),
            }
            for name, column in zip(self.spec.action, apart.T)
        }

    def agreement(self) -> float:
        """Fraction of the steps with the same choice, for discrete actions."""
        return float((self.shadow.argmax(-1) == self.recorded.argmax(-1)).mean()) if len(self.stamps) else 0.0

    def table(self) -> str:
        """The errors as aligned text."""
        rows: list[tuple[str, ...]] = [('action', 'mean', 'rms', 'max', 'bias')]
        rows += [(name, *(f'{value:.6f}' for value in row.values())) for name, row in self.errors().items()]
        lines = align(rows, left=(0,))
        if self.spec.discrete:
            lines.append(f'the same choice in {100 * self.agreement():.1f} % of the steps')
        return '\n'.join(lines)

    def write(self, folder: Path, facts: dict[str, object]) -> Path:
        """Write shadow.json: `facts`, errors, stamps and actions. Returns its path.

        Raises:
            InputError: the folder cannot be written.
        """
        content = {
            **facts,
            'steps': len(self.stamps),
            'errors': self.errors(),
            **({'agreement': self.agreement()} if self.spec.discrete else {}),
            'actions': list(self.spec.action),
            'stamp': self.stamps.tolist(),
            'recorded': self.recorded.astype(np.float64).tolist(),
            'shadow': self.shadow.astype(np.float64).tolist(),
        }
        return write_result(folder / 'shadow.json', json.dumps(content) + '\n')

    def plot(self, path: Path, title: str) -> Path:
        """Draw both over time, a panel for each action, as PNG. Needs matplotlib."""
        from dreamer_ros.viewing.figures import new_figure, save_figure

        count = len(self.spec.action)
        figure = new_figure(1000, 60 + PANEL * count)
        figure.suptitle(title, fontsize='medium')
        seconds = (self.stamps - self.stamps[0]) / 1e9 if len(self.stamps) else self.stamps
        axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
        for number, (axis, name) in enumerate(zip(axes, self.spec.action)):
            recorded, shadow = self.recorded[:, number], self.shadow[:, number]
            axis.fill_between(seconds, recorded, shadow, step='post', color='tab:orange', alpha=0.3, linewidth=0)
            axis.step(seconds, recorded, where='post', color='black', linewidth=1, label='recorded')
            axis.step(seconds, shadow, where='post', color='tab:orange', linewidth=1, label='policy')
            axis.set_ylabel(name, fontsize='small')
            axis.set_ylim(-1.1, 1.1)
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize='x-small', loc='upper right')
        axes[-1].set_xlabel('time [s]')
        return save_figure(figure, path)
