"""Matplotlib figures of an exact size in pixels, written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamer_ros.errors import InputError
from dreamer_ros.files import replacing

CURSOR = np.array([214, 39, 40], np.uint8)


def new_figure(width: int, height: int, dpi: int = 100) -> Figure:
    """A figure of so many pixels, without any window; more dots per inch make larger letters."""
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG; returns its path.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=False) as partial:
            figure.savefig(partial, dpi=figure.dpi, format='png')
    except OSError as error:
        raise InputError(f'{path}: expected a file that can be written ({error})') from error
    return path


class WithCursor:
    """A drawn figure with a vertical line that moves along the x axis of its panels.

    Args:
        figure: complete.
        axes: one below the other, of one x axis.
    """

    def __init__(self, figure: Figure, axes: Sequence[Axes]):
        figure.canvas.draw()
        self._picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        self._transform = axes[0].transData
        self._top = len(self._picture) - round(axes[0].bbox.y1)
        self._bottom = len(self._picture) - round(axes[-1].bbox.y0)

    def at(self, x: float) -> np.ndarray:
        """The picture uint8 [H, W, 3] with the line at x."""
        picture = self._picture.copy()
        column = int(np.rint(self._transform.transform((x, 0.0))[0]))
        picture[self._top : self._bottom, column : column + 2] = CURSOR
        return picture
