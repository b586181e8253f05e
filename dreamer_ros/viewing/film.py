"""A bag as a film: what the cameras saw, and below it rewards and actions with a cursor at the moment shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.errors import InputError
from dreamer_ros.frames import side_by_side
from dreamer_ros.viewing.curves import draw, panels
from dreamer_ros.viewing.figures import WithCursor, new_figure
from dreamer_ros.viewing.look import Look
from dreamer_ros.viewing.video import write_video

IMAGE = 384  # pixels of height at least; smaller images are enlarged by a whole factor
WIDTH = 720  # pixels at least
PANEL = 120  # pixels of height per panel
BAR = 20  # pixels of the line of text
FASTEST = 60.0  # frames per second; faster robots are shown with fewer frames than steps
SHOWN = 3  # panels: reward, return, action


def film_bag(look: Look, path: Path) -> Path:
    """Write an mp4 of all episodes of a bag, in real time; returns its path.

    Raises:
        InputError: the robot has no camera, or the file cannot be written.
    """
    if not look.spec.cameras:
        raise InputError(f'bag {look.path}: expected images to film, but {look.spec.name} has no camera')
    period = look.spec.control_period
    every = max(1, round(1 / (FASTEST * period)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_video(path, _frames(look, every), 1 / (period * every))
    except OSError as error:
        reason = str(error).partition('\n')[0]  # the rest is ffmpeg's command line
        raise InputError(f'{path}: expected a file that can be written ({reason})') from error


def _frames(look: Look, every: int) -> Iterator[np.ndarray]:
    height, width = side_by_side(look.episodes[0].image[0]).shape[:2]
    scale = -(-IMAGE // height)
    columns = max(WIDTH, width * scale) // 2 * 2
    for number, episode in enumerate(look.episodes):
        drawn = panels(look, number)[:SHOWN]
        figure = new_figure(columns, (PANEL * len(drawn) + 30) // 2 * 2)
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        seconds = (episode.stamp - episode.stamp[0]) / 1e9
        draw(axes, drawn, seconds)
        axes[-1].set_xlabel('time [s]', fontsize='small')
        curves = WithCursor(figure, axes)
        returns = np.cumsum(episode.reward, dtype=np.float64)
        for k in range(0, len(episode), every):
            image = side_by_side(episode.image[k]).repeat(scale, 0).repeat(scale, 1)
            below = curves.at(seconds[k])
            rows = BAR + image.shape[0] + image.shape[0] % 2
            frame = np.zeros((rows + below.shape[0], columns, 3), np.uint8)
            left = (columns - image.shape[1]) // 2
            frame[BAR : BAR + image.shape[0], left : left + image.shape[1]] = image
            frame[rows:, : below.shape[1]] = below[:, :columns]
            frame[:BAR] = _line(_words(look, number, k, returns[k]), columns)
            yield frame


def _words(look: Look, number: int, k: int, total: float) -> str:
    episode: Episode = look.episodes[number]
    which = f'episode {number}  ' if len(look.episodes) > 1 else ''
    actor = episode.meta.get('mode', '')
    end = '' if not episode.is_last[k] else '  terminal' if episode.is_terminal[k] else '  last'
    return (
        f'{which}step {k}  {(episode.stamp[k] - episode.stamp[0]) / 1e9:.2f} s  reward {episode.reward[k]:.3f}  '
        f'return {total:.2f}  {actor}{end}'
    )


def _line(text: str, width: int) -> np.ndarray:
    """White on black, uint8 [BAR, width, 3]."""
    line = Image.new('RGB', (width, BAR))
    ImageDraw.Draw(line).text((6, 4), text, fill=(255, 255, 255))
    return np.asarray(line)
