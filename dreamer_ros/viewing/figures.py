"""Matplotlib figures of an exact size in pixels, written whole or not at all."""
from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamer_ros.errors import InputError

DPI = 100


def new_figure(width: int, height: int) -> Figure:
    """A figure of so many pixels, without any window."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG; returns its path.

    Raises:
        InputError: the folder cannot be written.
    """
    partial = path.with_name(f'.{path.stem}.partial.png')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, dpi=DPI)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f'{path}: expected a file that can be written ({error})') from error
    return path
