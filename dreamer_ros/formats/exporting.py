"""Episode bags to files of other tools: what `dreamer bag export` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dreamer_ros.episodes.bag_reader import bag_name, load_recording
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.formats.importing import recorded_spec
from dreamer_ros.formats.npz import ARRAYS, write_arrays


def export_arrays(bag: Path, folder: Path) -> Iterator[tuple[Path, int, list[Problem]]]:
    """Write every episode of a bag as an .npz file, see `arrays`.

    Yields:
        The file, its steps, and what of the bag could not be used.

    Raises:
        InputError: the bag holds no episode, or a file can't be written.
    """
    spec = recorded_spec(bag, load_recording(bag, []), folder)
    episodes, problems = read_episodes(bag, spec)
    if not episodes:
        raise InputError(f'{bag}: expected an episode, but {problems[-1].reason if problems else "it is empty"}')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: expected a folder that can be written ({error.strerror})') from error
    for number, episode in enumerate(episodes):
        name = bag_name(bag)
        path = folder / (f'{name}{ARRAYS}' if len(episodes) == 1 else f'{name}-{number:03d}{ARRAYS}')
        write_arrays(path, episode, spec)
        yield path, len(episode), problems
        problems = []
