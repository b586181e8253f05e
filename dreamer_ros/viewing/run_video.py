"""Videos of episodes and dreams."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamer_ros.episodes.episode_reader import read_longest
from dreamer_ros.errors import InputError
from dreamer_ros.frames import side_by_side
from dreamer_ros.spec import RobotSpec
from dreamer_ros.viewing.video import write_video

DREAM_ROWS = 3


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
