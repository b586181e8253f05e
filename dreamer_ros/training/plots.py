"""Learning curves as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dreamer_ros.errors import InputError
from dreamer_ros.schema import Record, check, load_json
from dreamer_ros.training.metrics import FILE, read_metrics
from dreamer_ros.viewing.figures import new_figure, save_figure

SERIES = (
    # key in the metrics, label, colour, whether it is the curve or its background
    ('return_random', 'random', '0.6', False),
    ('return_explore', 'exploration', 'tab:blue', False),
    ('return_evaluate', 'evaluation (deterministic)', 'tab:orange', True),
)
HELD_OUT = (
    ('validation_prediction_error', 'predicted from actions', 'tab:green', True),
    ('validation_reconstruction_error', 'seen', '0.6', False),
)
SMOOTHING = 5  # episodes of a running mean


def plot_run(run: str | Path) -> Path:
    """Draw <run>/curve.png: episode returns over env steps and over wall time, and the error of held-out episodes.

    Raises:
        InputError: the run's metrics have neither.
    """
    run = Path(run)
    lines = _with_evaluations(run, read_metrics(run))
    panels = [
        (label, series, unit, smoothing)
        for label, series, unit, smoothing in (
            ('episode return', SERIES, 'step', SMOOTHING),
            ('squared error of held-out images', HELD_OUT, 'updates', 1),
        )
        if any(key in line for line in lines for key, *_ in series)
    ]
    if not panels:
        raise InputError(f'run {run}: expected finished episodes in {run / FILE}, got {len(lines)} other lines')
    figure, rows = _figure(*((label, unit) for label, _, unit, _ in panels))
    for (_, series, _, smoothing), axes in zip(panels, rows):
        for axis, unit, scale in axes:
            for key, name, colour, curve in series:
                x, y = _series(lines, unit, key)
                if len(x):
                    axis.plot(x * scale, y, '.', color=colour, alpha=1.0 if curve else 0.35, label=name)
                if curve and len(x) > 1:
                    axis.plot(x * scale, _running_mean(y, smoothing), '-', color=colour)
        axes[0][0].legend(fontsize='small')
    figure.suptitle(run.resolve().name, fontsize='medium')
    return save_figure(figure, run / 'curve.png')


class _Result(Record):
    """What a result.json says of the policy that was scored."""

    step: int | None = None  # older results have none
    mean_return: float


def _with_evaluations(run: Path, lines: list[dict]) -> list[dict]:
    """The metrics and the results in <run>/evaluation/, each at the step after which its policy was made."""
    found = []
    for file in run.glob('evaluation/*/result.json'):
        result = check(_Result, load_json(file, str(file)), str(file))
        if result.step is not None:
            time = max((line['time'] for line in lines if line['step'] <= result.step), default=0.0)
            found.append({'step': result.step, 'time': time, 'return_evaluate': result.mean_return})
    return sorted([*lines, *found], key=lambda line: line['step']) if found else lines


def plot_comparison(runs: Sequence[Path], path: Path) -> Path:
    """Draw the deterministic evaluation returns of several runs into one picture at `path`.

    Raises:
        InputError: a run has no evaluation episode.
    """
    figure, (axes,) = _figure(('return of deterministic episodes', 'step'))
    for run in runs:
        lines = read_metrics(run)
        for axis, unit, scale in axes:
            x, y = _series(lines, unit, 'return_evaluate')
            if not len(x):
                raise InputError(f'run {run}: expected evaluation episodes in {run / FILE}, got none')
            (dots,) = axis.plot(x * scale, y, '.', alpha=0.3)
            axis.plot(x * scale, _running_mean(y), '-', color=dots.get_color(), label=run.resolve().name)
    axes[0][0].legend(fontsize='x-small')
    return save_figure(figure, path)


def _figure(*rows: tuple[str, str]) -> tuple[Figure, list]:
    """A figure with a row per label and unit of the metrics, over that unit and over wall time.

    Returns:
        The figure, and for each row its two axes, each with its key in the metrics and a factor.
    """
    figure = new_figure(1200, 480 * len(rows), dpi=120)
    axes = figure.subplots(len(rows), 2, sharey='row', squeeze=False)
    for (label, unit), (over_unit, over_time) in zip(rows, axes):
        over_unit.set(xlabel={'step': 'env steps'}.get(unit, unit), ylabel=label)
        over_time.set(xlabel='wall time [min]')
        for axis in (over_unit, over_time):
            axis.grid(alpha=0.3)
    return figure, [
        ((over_unit, unit, 1.0), (over_time, 'time', 1 / 60)) for (_, unit), (over_unit, over_time) in zip(rows, axes)
    ]


def _series(lines: list[dict], unit: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    points = [(line[unit], line[key]) for line in lines if line.get(key) is not None]
    array = np.array(points, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _running_mean(values: np.ndarray, window: int = SMOOTHING) -> np.ndarray:
    """Mean of each value and up to `window` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
