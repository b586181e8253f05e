"""Writes episode bags as files of other tools: `dreamer bag export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dreamer_ros.episodes.bag_reader import Bag, bag_name
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.formats.importing import recorded_spec
from dreamer_ros.formats.npz import ARRAYS, write_arrays
from dreamer_ros.spec import RobotSpec


def read_bag(bag: Path, folder: Path) -> tuple[RobotSpec, list[Episode], list[Problem]]:
    """The robot of a bag, its episodes, and what could not be used.

    Args:
        folder: its bags name the robot if this one does not.

    Raises:
        InputError: no bag names the robot, or nothing in the bag can be read.
    """
    try:
        opened = Bag(bag)
        spec = recorded_spec(opened, folder)
    except InputError as error:
        raise InputError(f'{bag}: {error}') from error
    except OSError as error:
        raise InputError(f'{bag}: it can not be read ({error.strerror or error})') from error
    return spec, *read_episodes(opened, spec)


def export_arrays(bag: Path, folder: Path) -> Iterator[tuple[Path, int, list[Problem]]]:
    """Write every episode of a bag as an .npz file, see `npz`.

    Yields:
        The file, its steps, and the parts of the bag that could not be used.

    Raises:
        InputError: the bag holds no episode, or a file can't be written.
    """
    spec, episodes, problems = read_bag(bag, folder)
    if not episodes:
        raise InputError(f'{bag}: expected an episode, but {problems[-1].reason if problems else "it is empty"}')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: expected a folder that can be written ({error.strerror})') from error
    for number, episode in enumerate(episodes):
        name = bag_name(bag) if len(episodes) == 1 else f'{bag_name(bag)}-{number:03d}'
        path = folder / f'{name}{ARRAYS}'
        write_arrays(path, episode, spec)
        yield path, len(episode), problems
        problems = []
