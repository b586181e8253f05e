"""What a policy would have done in a recorded episode, beside what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.spec import RobotSpec

PANEL = 130  # pixels of height per action in the plot


class Shadow:
    """A policy that watches recorded steps one after the other, and the actions of both.

    It sees what the recorded agent saw; what it would do has no effect on what it sees next. The last step of an
    episode is left out, as nothing was done after it.

    Args:
        runner: the policy; acts deterministically.
        episodes: in the order in which they are given to `step`.
    """

    def __init__(self, runner: PolicyRunner, episodes: list[Episode]):
        self._runner = runner
        self._steps = [(episode, k) for episode in episodes for k in range(len(episode)) if not episode.is_last[k]]
        self._next = 0
        self._actions: list[np.ndarray] = []

    @property
    def next_stamp(self) -> float:
        """Of the step that `step` will take, nanoseconds; infinite after the last."""
        if self._next == len(self._steps):
            return float('inf')
        episode, k = self._steps[self._next]
        return int(episode.stamp[k])

    def step(self) -> np.ndarray:
        """The policy's action f32[A] at the next step."""
        episode, k = self._steps[self._next]
        self._next += 1
        # A recording that begins within an episode begins without memory, as an agent that joins it.
        action = self._runner.act(episode.image[k], episode.vector[k], k == 0, explore=False)
        self._actions.append(action)
        return action

    def comparison(self) -> Comparison:
        """Of the steps taken so far."""
        steps = self._steps[: self._next]
        size = len(self._runner.spec.action)
        return Comparison(
            self._runner.spec,
            np.array([episode.stamp[k] for episode, k in steps], np.int64),
            np.array([episode.action[k] for episode, k in steps], np.float32).reshape(-1, size),
            np.array(self._actions, np.float32).reshape(-1, size),
        )


class Comparison:
    """Recorded and shadow actions of N steps.

    Args:
        spec: names and number A of the actions.
        stamps: int64[N], nanoseconds.
        recorded, shadow: f32[N, A], normalised to [-1, 1].
    """

    def __init__(self, spec: RobotSpec, stamps: np.ndarray, recorded: np.ndarray, shadow: np.ndarray):
        self.spec, self.stamps, self.recorded, self.shadow = spec, stamps, recorded, shadow

    def errors(self) -> dict[str, dict[str, float]]:
        """By action: mean and maximum of the absolute difference, root of the mean square, and the mean of
        shadow - recorded (bias).
        """
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
        """Of a robot with discrete actions: the part of the steps with the same choice."""
        return float((self.shadow.argmax(-1) == self.recorded.argmax(-1)).mean()) if len(self.stamps) else 0.0

    def table(self) -> str:
        """The errors as aligned text."""
        width = max(len(name) for name in ('action', *self.spec.action))
        lines = [f'{"action":{width}}  {"mean":>9}  {"rms":>9}  {"max":>9}  {"bias":>9}']
        lines += [
            f'{name:{width}}  {row["mean"]:9.6f}  {row["rms"]:9.6f}  {row["max"]:9.6f}  {row["bias"]:9.6f}'
            for name, row in self.errors().items()
        ]
        if self.spec.discrete:
            lines.append(f'the same choice in {100 * self.agreement():.1f} % of the steps')
        return '\n'.join(lines)

    def write(self, folder: Path, facts: dict[str, object]) -> Path:
        """Write shadow.json: `facts`, the errors, and every step's stamp and actions. Returns its path.

        Raises:
            InputError: the folder cannot be written.
        """
        path = folder / 'shadow.json'
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(content) + '\n')
        except OSError as error:
            raise InputError(f'{folder}: expected a folder that can be written ({error})') from error
        return path

    def plot(self, path: Path, title: str) -> Path:
        """Draw both actions over time, a panel each, as PNG; needs matplotlib."""
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
