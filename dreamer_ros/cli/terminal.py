"""Single keys and pictures in a terminal, also over SSH."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

import numpy as np

from dreamer_ros.errors import InputError

ARROWS = {b'\x1b[A': 'up', b'\x1b[B': 'down', b'\x1b[C': 'right', b'\x1b[D': 'left'}


def keys() -> Iterator[str]:
    """Every key that is pressed, by its character or `up`, `down`, `left`, `right`; ends at the end of the input.

    Raises:
        InputError: standard input is no terminal.
    """
    file = sys.stdin.fileno()
    if not os.isatty(file):
        raise InputError('keys: expected a terminal as standard input')
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        while data := os.read(file, 3):
            yield from [ARROWS[data]] if data in ARROWS else data.decode(errors='ignore')
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(file, termios.TCSADRAIN, before)


def picture(image: np.ndarray, columns: int) -> str:
    """An image uint8 [H, W, 3] as coloured half blocks, two pixels in each character, at most so wide."""
    every = -(-image.shape[1] // columns)
    image = image[::every, ::every]
    rows = []
    for upper, lower in zip(image[::2].tolist(), image[1::2].tolist()):
        cells = (f'\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m▀' for (a, b, c), (d, e, f) in zip(upper, lower))
        rows.append(''.join(cells) + '\x1b[0m')
    return '\n'.join(rows)
