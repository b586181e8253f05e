"""Stops a recording while there is still room on the disk."""

from __future__ import annotations

import time
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.files import free_megabytes

CHECK_PERIOD = 1.0  # seconds


class DiskGuard:
    """Checks the free space once a second.

    Args:
        folder: of the bags; the first bag makes it.
        reserve: MB that must stay free.
    """

    def __init__(self, folder: Path, reserve: int):
        self._folder, self._reserve = folder, reserve
        self._next_check = 0.0

    def check(self, at_once: bool = False) -> None:
        """Raises InputError if too little is free."""
        now = time.monotonic()
        if now < self._next_check and not at_once:
            return
        self._next_check = now + CHECK_PERIOD
        free = free_megabytes(self._folder)
        if free < self._reserve:
            raise InputError(
                f'{self._folder}: {free} MB are free, less than the disk_reserve of {self._reserve} MB; '
                'nothing more is recorded, all bags are whole'
            )
