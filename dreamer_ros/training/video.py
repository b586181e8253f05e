"""Videos of episodes and dreams."""
from __future__ import annotations

import math
import os
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.frames import side_by_side
from dreamer_ros.replay.reading import read_longest
from dreamer_ros.spec import RobotSpec

HEIGHT = 256  # pixels; smaller frames are enlarged by a whole factor
DREAM_ROWS = 3


def write_video(path: Path, frames: np.ndarray, fps: float) -> Path:
    """Write uint8 [T, H, W, 3] as an H.264 mp4, enlarged to about HEIGHT without smoothing the pixels.

    Raises:
        InputError: no frames, or of another shape or type.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise InputError(f'video {path}: expected frames uint8[T, H, W, 3], got '
                         f'{frames.dtype}{list(frames.shape)}')
    height, width = frames.shape[1:3]
    scale = max(1, math.ceil(HEIGHT / height))
    scale += (scale * height % 2 or scale * width % 2)  # yuv420 wants even sizes
    partial = path.with_name(f'.{path.stem}.partial{path.suffix}')
    writer = imageio_ffmpeg.write_frames(
        str(partial), (width * scale, height * scale), fps=fps, codec='libx264', quality=7,
        macro_block_size=1, ffmpeg_log_level='error', output_params=['-movflags', '+faststart'])
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1)))
    finally:
        writer.close()
    os.replace(partial, path)
    return path


def episode_video(bag: Path, spec: RobotSpec, path: Path) -> Path:
    """Film of an episode's bag in real time.

    Raises:
        InputError: the bag holds no episode of this robot, or the robot has no camera.
    """
    if not spec.cameras:
        raise InputError(f'bag {bag}: expected images to film, but {spec.name} has no camera')
    film = side_by_side(read_longest(bag, spec).image)
    return write_video(path, film, 1.0 / spec.control_period)


def dream_video(dream: np.ndarray, spec: RobotSpec, path: Path) -> Path:
    """Film of uint8 [B, T, H, 3 W, 3]: truth, reconstruction and prediction side by side, for some rows."""
    rows = dream[:DREAM_ROWS]
    return write_video(path, np.concatenate(list(rows), axis=1), 1.0 / spec.control_period)
