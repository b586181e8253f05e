"""Matplotlib figures of an exact size in pixels, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dreamer_ros.errors import InputError
from dreamer_ros.files import replacing


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
