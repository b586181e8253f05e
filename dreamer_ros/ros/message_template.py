"""Reads and writes the bytes of messages of which only the stamp and a few arrays change.

rclpy converts every field of a message between Python and C, in a lock-step loop with cold caches: 40 µs for an
action, 70 µs for a step with its image. A robot's messages have the same layout step after step, so the layout is
computed once. Messages with another layout are converted by rclpy.
"""

from __future__ import annotations

import array
import copy
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message

_STAMP = struct.Struct('=iI')
_STAMP_AT = 4  # after the encapsulation header
_STAMP_END = _STAMP_AT + _STAMP.size


class MessageTemplate:
    """Bytes of a message that begins with a stamp, with holes for the stamp and for arrays of numbers.

    Args:
        message: gives all other fields and the lengths of the arrays.
        fields: names of the arrays, in the message's order.
        tail: number of bytes after the last array (or after the stamp, without arrays), all of them zero. Empty
            arrays are four bytes each.
    """

    def __init__(self, message: Any, fields: Sequence[str], tail: int = 0):
        marked = copy.deepcopy(message)
        markers = []
        self._dtypes = []
        for number, field in enumerate(fields):
            values = getattr(message, field)
            dtype = np.dtype(values.typecode if isinstance(values, array.array) else values.dtype)
            # Bytes that occur nowhere else in the message.
            numbers = np.arange(1, 1 + len(values) * dtype.itemsize, dtype=np.uint8) * 37 ^ (0xA5 + number)
            marker = numbers.tobytes()
            markers.append(marker)
            # Arrays of fixed length are numpy arrays.
            is_array = isinstance(values, array.array)
            setattr(marked, field, array.array(dtype.char, marker) if is_array else np.frombuffer(marker, dtype))
            self._dtypes.append(dtype)
        cdr = serialize_message(marked)
        self._head = cdr[:_STAMP_AT]
        self._holes = []
        for field, marker in zip(fields, markers):
            if not marker or cdr.count(marker) != 1:
                raise ValueError(f'{type(message).__name__}.{field}: no place to find for {len(marker)} bytes')
            begin = cdr.index(marker)
            self._holes.append((begin, begin + len(marker)))
        end = self._holes[-1][1] if fields else _STAMP_END
        self._size = end + tail
        self._learn(cdr)
        # serialize_message returns as many bytes as it estimated. Those after the message are garbage.
        if fields and self._gaps[-1] != bytes(tail):
            raise ValueError(f'{type(message).__name__}.{fields[-1]}: something follows that is not zero')

    def _learn(self, cdr: bytes) -> None:
        begins = [begin for begin, _ in self._holes] + [self._size]
        ends = [_STAMP_END] + [end for _, end in self._holes]
        self._gaps = [cdr[end:begin] for end, begin in zip(ends, begins)]
        self._bounds = list(zip(ends, begins, self._gaps))

    @classmethod
    def of(cls, cdr: bytes, message: Any, fields: Sequence[str], tail: int = 0) -> MessageTemplate:
        """The layout of a received message, to read the next ones of its publisher.

        Padding between fields is garbage that differs between publishers, so it is taken from the message.
        """
        template = cls(message, fields, tail)
        template._learn(cdr)
        return template

    def write(self, stamp: int, *arrays: np.ndarray) -> bytes:
        """The serialised message for a stamp in nanoseconds and the arrays' values."""
        parts = [self._head, _STAMP.pack(*divmod(stamp, 1_000_000_000)), self._gaps[0]]
        for values, dtype, gap in zip(arrays, self._dtypes, self._gaps[1:]):
            parts += np.ascontiguousarray(values, dtype).data.cast('B'), gap
        return b''.join(parts)

    def read(self, cdr: bytes) -> list[np.ndarray] | None:
        """The arrays' values, read-only views of the message; None if the message has another layout."""
        # The gaps include the arrays' lengths. Bytes after the message are padding.
        if len(cdr) < self._size or not cdr.startswith(self._head):
            return None
        for begin, end, gap in self._bounds:
            if cdr[begin:end] != gap:
                return None
        return [
            np.frombuffer(cdr, dtype, (end - begin) // dtype.itemsize, begin)
            for (begin, end), dtype in zip(self._holes, self._dtypes)
        ]
