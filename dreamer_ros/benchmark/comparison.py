"""Benchmarks compared with each other and with published scores: tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from dreamer_ros.benchmark.results import FILE, Results, Run
from dreamer_ros.errors import InputError
from dreamer_ros.paths import share
from dreamer_ros.viewing.figures import new_figure, save_figure

MISSING = '–'
OUR_COLOURS = [colormaps[name](number) for name, count in (('Dark2', 8), ('Set1', 9)) for number in range(count)]
PUBLISHED_COLOURS = colormaps['tab10']
SHORTEST_AXIS = 100_000  # env steps; the published curves begin about there


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

COSTS = (
    'system',
    'runs',
    'env steps',
    'updates',
    'minutes of training',
    'action repeat',
    'image',
    'scored actions',
    'configuration',
    'machine',
)

Points = list[tuple[int, float]]  # (env steps, mean return), env steps increasing


class Published:
    """The curves of METHODS, from docs/data/dmc_scores.json.

    The file says for every method where its numbers come from and how they were measured: most are returns of
    training episodes with sampled actions, some of evaluation episodes. Env steps count control steps, action repeat
    included.

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
        """The published points; empty if there are none."""
        return self._points[method].get(task, [])

    def level(self, method: str) -> int | None:
        """The env steps of a method whose scores are all of the same number of them; None for curves."""
        steps = {steps for points in self._points[method].values() for steps, _ in points}
        return steps.pop() if len(steps) == 1 else None

    def score(self, method: str, task: str, steps: int) -> float | None:
        """The return after this many env steps, or that of a level; None if it is not known."""
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


class Comparison:
    """The runs of one or more benchmarks, compared with published scores.

    Args:
        paths: results files, or the folders they are in.
        at: env steps to compare at; None compares the final scores, and the published ones at the most env
            steps that any run made.

    Raises:
        InputError: a file cannot be read, there are no runs, or two benchmarks have the same run.
    """

    def __init__(self, paths: Sequence[Path], at: int | None = None):
        self.results = [Results(path.parent if path.name == FILE else path) for path in paths]
        self.runs: list[Run] = []
        for results in self.results:
            for run in results.runs:
                if any(run.key == other.key for other in self.runs):
                    raise InputError(
                        f'{results.path}: expected runs that the other files do not have, got '
                        f'{run.system} on {run.task} with seed {run.seed} again'
                    )
                self.runs.append(run)
        if not self.runs:
            raise InputError(f'{self.results[0].path}: expected finished runs, got none')
        self.tasks = sorted({run.task for run in self.runs})
        self.systems = list(dict.fromkeys(run.system for run in self.runs))
        self.at = at
        self.published = Published()
        # Baselines that learn nothing make no steps.
        self.published_at = (
            at
            or max(run.outcome.env_steps for run in self.runs)
            or max(results.protocol.steps for results in self.results)
        )

    # Scores

    def scores(self, system: str, task: str) -> list[float]:
        """One score per seed."""
        runs = self._runs(system, task)
        if self.at is None or not any(run.outcome.curve for run in runs):
            return [float(np.mean(run.outcome.returns)) for run in runs]
        values = [interpolate(run.outcome.points, self.at) for run in runs]
        return [value for value in values if value is not None]

    def _runs(self, system: str, task: str | None = None) -> list[Run]:
        return [run for run in self.runs if run.system == system and task in (None, run.task)]

    # Tables

    def tables(self) -> str:
        """Protocol, scores and costs as Markdown that is legible in a terminal too."""
        return '\n\n'.join([self._protocol(), self._score_table(), self._cost_table()]) + '\n'

    def _protocol(self) -> str:
        lines = []
        for results in self.results:
            p = results.protocol
            limit = f' or {p.minutes:g} minutes' if p.minutes else ''
            curve = (
                'deterministic episodes played during training, averaged between points'
                if p.over_ros
                else f'{p.curve_episodes} deterministic episodes'
            )
            where = 'over ROS' if p.over_ros else 'in one process'
            lines.append(
                f'{results.path.parent.name}: {p.steps} env steps{limit} per run, {where}; {p.evaluations} points '
                f'per curve, each the mean of {curve}; final score: mean of {p.episodes} episodes with the mode of '
                'the policy'
            )
        score = 'final scores' if self.at is None else f'scores at {self.at} env steps, on the curves'
        lines.append(
            f'Below: {score}, mean over seeds ± standard deviation; published means at {self.published_at} env '
            f'steps, between two published points on the line through them, "{MISSING}" outside them; columns '
            'with @ are known there only. How each was measured: docs/data/dmc_scores.json.'
        )
        return '\n'.join(lines)

    def _score_table(self) -> str:
        columns: dict[str, dict[str, float | None]] = {}
        cells: dict[str, dict[str, str]] = {}
        for system in self.systems:
            scores = {task: self.scores(system, task) for task in self.tasks}
            columns[system] = {task: float(np.mean(values)) if values else None for task, values in scores.items()}
            cells[system] = {task: _mean_and_deviation(values) for task, values in scores.items()}
        for method in METHODS:
            known = {task: self.published.score(method, task, self.published_at) for task in self.tasks}
            if any(value is not None for value in known.values()):
                name = self._name(method)
                columns[name] = known
                cells[name] = {task: _number(value) for task, value in known.items()}
        rows = [['task', *columns]]
        rows += [[task, *(cells[name][task] for name in columns)] for task in self.tasks]
        means = [_column_mean(list(column.values())) for column in columns.values()]
        rows.append([f'mean of {len(self.tasks)}', *means])
        return _markdown(rows)

    def _cost_table(self) -> str:
        rows = [list(COSTS)]
        for system in self.systems:
            runs = self._runs(system)
            rows.append(
                [
                    system,
                    str(len(runs)),
                    _range([run.outcome.env_steps for run in runs]),
                    _range([run.outcome.updates for run in runs]),
                    _range([round(run.outcome.seconds / 60, 1) for run in runs]),
                    _range([run.action_repeat for run in runs]),
                    _distinct('x'.join(map(str, run.image_size)) for run in runs),
                    _distinct(run.actions for run in runs),
                    _distinct(run.config_hash[:8] for run in runs),
                    _distinct(map(_machine, runs)),
                ]
            )
        return _markdown(rows)

    def _name(self, method: str) -> str:
        level = self.published.level(method)
        return method if level is None else f'{method} @{level // 1_000_000}M'

    # Pictures

    def plot(self, folder: Path) -> list[Path]:
        """One PNG per task and one of the mean over tasks; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [self._plot([task], task, folder / f'{task}.png') for task in self.tasks]
        if len(self.tasks) > 1:
            paths.append(self._plot(self.tasks, f'mean of {len(self.tasks)} tasks', folder / 'mean.png'))
        return paths

    def _plot(self, tasks: Sequence[str], title: str, path: Path) -> Path:
        figure = new_figure(900, 540, dpi=120)
        axis = figure.subplots()
        axis.set(title=title, xlabel='env steps', ylabel='return')
        axis.grid(alpha=0.3)
        end = max([SHORTEST_AXIS, *(run.outcome.env_steps for run in self.runs if run.task in tasks)])
        for number, method in enumerate(METHODS):
            points = mean_curve([self.published.points(method, task) for task in tasks])
            style: dict[str, Any] = dict(color=PUBLISHED_COLOURS(number), linewidth=1, alpha=0.6)
            if points and self.published.level(method) is not None:
                axis.axhline(points[0][1], linestyle=':', label=self._name(method), **style)
            elif points:
                axis.plot(*zip(*points), '--', label=method, **style)
        for number, system in enumerate(self.systems):
            self._draw_system(axis, system, tasks, OUR_COLOURS[number % len(OUR_COLOURS)])
        axis.set_xlim(0, 1.02 * end)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize='x-small', loc='center left', bbox_to_anchor=(1.0, 0.5))
        return save_figure(figure, path)

    def _draw_system(self, axis, system: str, tasks: Sequence[str], colour) -> None:
        """Line through the means over seeds, from the lowest to the highest seed shaded."""
        style = dict(color=colour, linewidth=2, zorder=3, label=system)
        if not any(run.outcome.curve for run in self._runs(system)):
            scores = [self.scores(system, task) for task in tasks]
            if all(scores):
                axis.axhline(np.mean([np.mean(values) for values in scores]), linestyle='-.', **style)
            return
        curves = [[run.outcome.points for run in self._runs(system, task)] for task in tasks]
        points = mean_curve([mean_curve(seeds) for seeds in curves])
        if not points:
            return
        axis.plot(*zip(*points), '-', marker='.', **style)
        if len(tasks) == 1 and len(curves[0]) > 1:
            values = np.array([[interpolate(curve, steps) for steps, _ in points] for curve in curves[0]])
            steps = [steps for steps, _ in points]
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2)


def mean_curve(curves: Sequence[Points]) -> Points:
    """Mean of curves at all their env steps that every one of them reaches; empty if one is empty."""
    steps = sorted({steps for curve in curves for steps, _ in curve})
    values = [(step, [interpolate(curve, step) for curve in curves]) for step in steps]
    return [(step, float(np.mean(np.array(row, float)))) for step, row in values if None not in row]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) < 2:
        return _number(values[0] if values else None)
    return f'{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}'


def _column_mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    part = f' ({len(known)} of {len(values)})' if 0 < len(known) < len(values) else ''
    return _number(float(np.mean(known)) if known else None) + part


def _number(value: float | None) -> str:
    return MISSING if value is None else f'{value:.1f}'


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f'{low}' if low == high else f'{low} to {high}'


def _distinct(values: Iterable[str]) -> str:
    return ', '.join(dict.fromkeys(values))


def _machine(run: Run) -> str:
    accelerator = run.machine['accelerator']
    cores = f'{run.machine["cores"]} x {run.machine["processor"]}'
    return cores if accelerator == 'none' else f'{cores}, {accelerator}'


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ['| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |' for row in rows]
    return '\n'.join([lines[0], '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *lines[1:]])
