"""Read-only memory maps of files, as many as there are episodes."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class FileMap:
    """The bytes of a file, mapped for as long as this object lives.

    It keeps no descriptor: Python's own `mmap` does, before 3.13, and many shells allow 1024 of them.

    Args:
        file: descriptor of a file that is not empty.

    Attributes:
        data: uint8 [size]; copy from it, and keep no view of it.

    Raises:
        OSError: the kernel refuses: 65,530 maps are usual.
    """

    _address: int | None = None

    def __init__(self, file: int):
        self._size = os.fstat(file).st_size
        address = _libc.mmap(None, self._size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address = address
        self.data = np.frombuffer((ctypes.c_uint8 * self._size).from_address(address), np.uint8)

    def __del__(self):
        if self._address is not None:
            _libc.munmap(self._address, self._size)
