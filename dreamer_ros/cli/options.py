"""What the groups of commands share: adding one, and the types of their options."""

from __future__ import annotations

import argparse


def command(into, name: str, run, help: str, example: str) -> argparse.ArgumentParser:
    """Add a command to subparsers; `run` gets its parsed arguments and returns an exit code or None."""
    sub = into.add_parser(name, help=help, description=help[0].upper() + help[1:] + '.', epilog=f'example: {example}')
    sub.set_defaults(run=run)
    return sub


def whole_number(text: str) -> int:
    """From 0."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


whole_number.__name__ = 'whole number'  # argparse names the type in its error


def count(text: str) -> int:
    """From 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def positive_number(text: str) -> float:
    """Finite and above 0."""
    value = float(text)
    if not 0.0 < value < float('inf'):
        raise ValueError(text)
    return value


def image_size(text: str) -> tuple[int, int]:
    """(height, width), written as 64x64."""
    height, width = map(count, text.split('x'))
    return height, width


image_size.__name__ = 'HEIGHTxWIDTH in pixels'
count.__name__, positive_number.__name__ = 'positive whole number', 'positive number'


def prepare_torch() -> None:
    """Tune this process and import torch, on all cores; call before anything that imports it."""
    from dreamer_ros.training import process

    process.prepare()
    process.configure_torch(process.pick_threads(robots=0))
