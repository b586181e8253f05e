"""Plots a bag's rewards, actions and senses over time, and films them below the camera images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from dreamer_ros.errors import InputError
from dreamer_ros.frames import side_by_side
from dreamer_ros.viewing import film
from dreamer_ros.viewing.figures import new_figure, save_figure
from dreamer_ros.viewing.look import Look

WIDTH = 1200
PANEL = 190  # pixels of height per panel
STRIP = 8  # images above the panels
LEGEND = 12  # names at most; more curves have no legend
FILM_IMAGE = 384  # pixels of height of a film's images at least
FILM_WIDTH = 720  # pixels at least
FILM_PANEL = 120  # pixels of height per panel
FILMED = 3  # panels: reward, return, action
FASTEST = 60.0  # frames per second; faster robots are shown with fewer frames than steps
UNITS = {'position': 'position [rad, m]', 'velocity': 'velocity [rad/s, m/s]', 'input': 'inputs'}


class Panel(NamedTuple):
    """Curves by name, float64[T] each; `held` values last until the next step."""

    label: str
    curves: dict[str, np.ndarray]
    held: bool = False


def panels(look: Look, number: int) -> list[Panel]:
    """The panels of an episode."""
    episode = look.episodes[number]
    reward = episode.reward.astype(np.float64)
    drawn = [
        Panel('reward', {'reward': reward}),
        Panel('return', {'return': np.cumsum(reward)}),
        Panel('action', dict(zip(look.spec.action, episode.action.astype(np.float64).T)), held=True),
    ]
    return drawn + [Panel(UNITS[group], columns) for group, columns in look.senses[number].items()]


def draw(axes: Sequence[Axes], drawn: Sequence[Panel], seconds: np.ndarray, named: bool = True) -> None:
    """Draw an episode's panels on axes of their own, with legends if `named`."""
    for axis, panel in zip(axes, drawn):
        for place, (name, values) in enumerate(panel.curves.items()):
            colour = f'C{place % 10}'
            style: dict[str, Any] = {'drawstyle': 'steps-post'} if panel.held else {}
            axis.plot(seconds, values, color=colour, linewidth=1, label=name if named else None, **style)
        axis.set_ylabel(panel.label, fontsize='small')
        axis.tick_params(labelsize='small')
        axis.grid(alpha=0.3)
        if named and 1 < len(panel.curves) <= LEGEND:
            axis.legend(fontsize='x-small', loc='center left', bbox_to_anchor=(1.0, 0.5))


def plot_bag(look: Look, path: Path) -> Path:
    """Draw all episodes of a bag on one time axis, with some of its images above; returns the PNG's path.

    Raises:
        InputError: the file cannot be written.
    """
    drawn = [panels(look, number) for number in range(len(look.episodes))]
    rows = max(drawn, key=len)
    strip = bool(look.spec.cameras)
    figure = new_figure(WIDTH, 60 + PANEL * len(rows) + PANEL * strip)
    figure.suptitle(look.title(), fontsize='medium')
    axes = list(figure.subplots(len(rows) + strip, 1, squeeze=False)[:, 0])
    if strip:
        _draw_strip(look, axes[0])
    curves = axes[strip:]
    for axis in curves[1:]:
        axis.sharex(curves[0])
    for number, each in enumerate(drawn):
        seconds = look.seconds(number)
        draw(curves, each, seconds, named=number == 0)
        for axis in curves if number else ():
            axis.axvline(seconds[0], color='0.6', linewidth=1)
    curves[-1].set_xlabel('time [s]', fontsize='small')
    return save_figure(figure, path)


def _draw_strip(look: Look, axis: Axes) -> None:
    """Images at equal distances over all steps."""
    steps = [(number, k) for number, episode in enumerate(look.episodes) for k in range(len(episode))]
    chosen = [steps[place] for place in np.linspace(0, len(steps) - 1, STRIP).round().astype(int)]
    images = [side_by_side(look.episodes[number].image[k]) for number, k in chosen]
    axis.imshow(np.concatenate(images, 1), interpolation='nearest')
    width = images[0].shape[1]
    axis.set_xticks(
        [(place + 0.5) * width for place in range(STRIP)], [f'{look.seconds(number)[k]:.1f} s' for number, k in chosen]
    )
    axis.set_yticks([])
    axis.tick_params(length=0, labelsize='small')


def film_bag(look: Look, path: Path) -> Path:
    """Write an mp4 of all episodes of a bag, in real time; returns its path.

    Raises:
        InputError: the robot has no camera, or the file cannot be written.
    """
    film.check_filmable(look.path, look.spec)
    period = look.spec.control_period
    every = max(1, round(1 / (FASTEST * period)))
    frames = (frame for number in range(len(look.episodes)) for frame in _frames(look, number, every))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return film.write_video(path, frames, 1 / (period * every))
    except OSError as error:
        reason = str(error).partition('\n')[0]  # the rest is ffmpeg's command line
        raise InputError(f'{path}: expected a file that can be written ({reason})') from error


def _frames(look: Look, number: int, every: int) -> Iterator[np.ndarray]:
    episode, drawn = look.episodes[number], panels(look, number)[:FILMED]
    height, width = side_by_side(episode.image[0]).shape[:2]
    scale = -(-FILM_IMAGE // height)
    figure = new_figure(max(FILM_WIDTH, width * scale), FILM_PANEL * len(drawn) + 30)
    axes = list(figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0])
    seconds = (episode.stamp - episode.stamp[0]) / 1e9
    draw(axes, drawn, seconds)
    axes[-1].set_xlabel('time [s]', fontsize='small')
    steps = range(0, len(episode), every)
    images = (side_by_side(episode.image[k]) for k in steps)
    return film.film_with_curves(images, scale, figure, axes, seconds[::every], _captions(look, number, steps))


def _captions(look: Look, number: int, steps: Sequence[int]) -> Iterator[str]:
    episode = look.episodes[number]
    returns = np.cumsum(episode.reward, dtype=np.float64)
    which = f'episode {number}  ' if len(look.episodes) > 1 else ''
    for k in steps:
        end = '' if not episode.is_last[k] else '  terminal' if episode.is_terminal[k] else '  last'
        yield (
            f'{which}step {k}  {(episode.stamp[k] - episode.stamp[0]) / 1e9:.2f} s  reward {episode.reward[k]:.3f}  '
            f'return {returns[k]:.2f}  {episode.meta.get("mode", "")}{end}'
        )
