"""Frames to mp4 files."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.files import replacing

HEIGHT = 256  # pixels; smaller frames are enlarged by a whole factor


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write an H.264 mp4, enlarged to about HEIGHT without smoothing the pixels.

    Args:
        frames: uint8 [H, W, 3] each; taken one at a time, so that a long film needs no memory.

    Raises:
        InputError: no frames, or of another shape or type.
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
