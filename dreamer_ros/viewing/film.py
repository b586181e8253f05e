"""Films as mp4 files: episodes, dreams, and images over curves with a cursor."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from dreamer_ros.episodes.episode_reader import read_longest
from dreamer_ros.errors import InputError
from dreamer_ros.files import replacing
from dreamer_ros.frames import side_by_side
from dreamer_ros.spec import RobotSpec

HEIGHT = 256  # pixels; smaller frames are enlarged by a whole factor
DREAM_ROWS = 3
BAR = 20  # pixels of height of a caption
CURSOR = np.array([214, 39, 40], np.uint8)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an H.264 mp4, enlarged to about HEIGHT without smoothing the pixels.

    Args:
        frames: uint8 [H, W, 3] each; taken one at a time, so that a long film needs no memory.

    Raises:
        InputError: there are no frames, or the first one has another shape or type.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None or first.ndim != 3 or first.shape[-1] != 3 or first.dtype != np.uint8:
        got = 'none' if first is None else f'{first.dtype}{list(first.shape)}'
        raise InputError(f'video {path}: expected frames uint8[H, W, 3], got {got}')
    height, width = first.shape[:2]
    scale = max(1, math.ceil(HEIGHT / height))
    scale += scale * height % 2 or scale * width % 2  # yuv420 wants even sizes
    with replacing(path, durable=False) as partial:
        writer = imageio_ffmpeg.write_frames(
            str(partial),
            (width * scale, height * scale),
            fps=fps,
            codec='libx264',
            quality=7,
            macro_block_size=1,
            ffmpeg_log_level='error',
            output_params=['-movflags', '+faststart', '-f', 'mp4'],
        )
        writer.send(None)
        with contextlib.closing(writer):
            for frame in itertools.chain([first], frames):
                writer.send(np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1)))
    return path


def episode_video(bag: Path, spec: RobotSpec, path: Path) -> Path:
    """Film of the longest episode of a bag in real time.

    Raises:
        InputError: the bag holds no episode of this robot, or the robot has no camera.
    """
    check_filmable(bag, spec)
    film = side_by_side(read_longest(bag, spec).image)
    return write_video(path, film, 1.0 / spec.control_period)


def check_filmable(bag: Path, spec: RobotSpec) -> None:
    """Refuse a robot without a camera."""
    if not spec.cameras:
        raise InputError(f'bag {bag}: expected images to film, but {spec.name} has no camera')


def dream_video(dream: np.ndarray, spec: RobotSpec, path: Path) -> Path:
    """Film of uint8 [B, T, H, 3 W, 3]: truth, reconstruction and prediction side by side, for some rows."""
    rows = dream[:DREAM_ROWS]
    return write_video(path, np.concatenate(list(rows), axis=1), 1.0 / spec.control_period)


def film_with_curves(
    images: Iterable[np.ndarray],
    scale: int,
    figure: Figure,
    axes: Sequence[Axes],
    positions: Iterable[float],
    captions: Iterable[str] = (),
) -> Iterator[np.ndarray]:
    """Each image above a figure of curves, with a line at its position on the x axis.

    Args:
        images: uint8 [h, w, 3] each, enlarged by `scale`; the figure is at least as wide.
        axes: of the figure, one below the other, with a common x axis.
        positions: of the line, by image.
        captions: a line of text above each image, or none.

    Returns:
        Frames uint8 [H, W, 3] with even sides.
    """
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]  # of Agg, see new_figure
    top, bottom = len(drawn) - round(axes[0].bbox.y1), len(drawn) - round(axes[-1].bbox.y0)
    for image, position, caption in itertools.zip_longest(images, positions, captions):
        large = image.repeat(scale, 0).repeat(scale, 1)
        height, width = large.shape[:2]
        bar = 0 if caption is None else BAR
        frame = np.zeros((bar + height + len(drawn), drawn.shape[1], 3), np.uint8)
        if caption is not None:
            frame[:bar] = _line(caption, drawn.shape[1])
        left = (drawn.shape[1] - width) // 2
        frame[bar : bar + height, left : left + width] = large
        below = frame[bar + height :]
        below[:] = drawn
        column = int(np.rint(axes[0].transData.transform((position, 0.0))[0]))
        below[top:bottom, column : column + 2] = CURSOR
        yield frame[: len(frame) // 2 * 2, : drawn.shape[1] // 2 * 2]


def _line(text: str, width: int) -> np.ndarray:
    """White on black, uint8 [BAR, width, 3]."""
    line = Image.new('RGB', (width, BAR))
    ImageDraw.Draw(line).text((6, 4), text, fill=(255, 255, 255))
    return np.asarray(line)
