"""Marks on bags that stay in replay: an empty file `keep` in the bag directory, `NAME.keep` beside a file."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.episodes.bag_reader import SUFFIXES
from dreamer_ros.errors import InputError
from dreamer_ros.formats.npz import ARRAYS

NAME = 'keep'


def is_kept(bag: Path) -> bool:
    """Whether a bag is marked."""
    return _mark(bag).exists()


def keep(bag: Path, kept: bool = True) -> None:
    """Mark a bag, or take its mark away.

    Raises:
        InputError: it is no bag, or its folder can't be written.
    """
    bag = Path(bag)
    if not (bag.is_file() and bag.name.endswith((*SUFFIXES, ARRAYS)) or (bag / 'metadata.yaml').exists()):
        raise InputError(f'{bag}: expected a bag: a directory with metadata.yaml, or a file of one')
    try:
        if kept:
            _mark(bag).touch()
        else:
            _mark(bag).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f'{bag}: expected a bag that can be marked ({error.strerror})') from error


def _mark(bag: Path) -> Path:
    return bag.with_name(f'{bag.name}.{NAME}') if bag.is_file() else bag / NAME
