"""Stops a recording while there is still room on the disk."""
from __future__ import annotations

import shutil
import time
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.nodes.runtime import Parameters

CHECK_PERIOD = 1.0  # seconds
MEGABYTE = 10**6


class DiskGuard:
    """Looks once a second how much is free.

    Args:
        folder: of the bags.
        reserve: MB that must stay free.
    """

    def __init__(self, folder: Path, reserve: int):
        self._folder, self._reserve = folder, reserve
        self._next_check = 0.0

    @classmethod
    def declared(cls, parameters: Parameters, folder: Path) -> DiskGuard:
        """By the parameter `disk_reserve`."""
        reserve = parameters.integer(
            'disk_reserve', 1000, 'MB that must stay free on the disk: with less, the open bag is finished and the '
            'recorder ends', 0, 10**9)
        return cls(folder, reserve)

    def check(self, at_once: bool = False) -> None:
        """Raises InputError when too little is free."""
        now = time.monotonic()
        if now < self._next_check and not at_once:
            return
        self._next_check = now + CHECK_PERIOD
        folder = self._folder
        while not folder.exists():  # made with the first bag
            folder = folder.parent
        free = shutil.disk_usage(folder).free // MEGABYTE
        if free < self._reserve:
            raise InputError(f'{self._folder}: {free} MB are free, less than the disk_reserve of {self._reserve} MB; '
                             'nothing more is recorded, all bags are whole')
