"""Messages of which only the stamp and one array change, moved as bytes.

rclpy converts every field of a message between Python and C, each time, and in a lock-step loop each time with
cold caches: 40 µs for an action, 70 µs for a step with its image. The messages of a robot look the same step after
step, so their bytes are laid out once; what differs from the layout takes the ordinary way.
"""
from __future__ import annotations

import array
import copy
import struct
from typing import Any, Optional

import numpy as np
from rclpy.serialization import serialize_message

_STAMP = struct.Struct('=iI')
_STAMP_AT = 4  # after the encapsulation header


class MessageTemplate:
    """Bytes of a message with a std_msgs/Header, with holes for the stamp and one array of numbers.

    Args:
        message: all other fields as they will stay.
        field: name of the array; its length stays too.
        following: how many fields come after it, all of them empty arrays.
    """

    def __init__(self, message: Any, field: str, following: int):
        marked = copy.deepcopy(message)
        values = getattr(message, field)
        self._dtype = np.dtype(values.typecode if isinstance(values, array.array) else values.dtype)
        # Bytes that occur nowhere else in a message.
        marker = np.arange(1, 1 + len(values) * self._dtype.itemsize, dtype=np.uint8)
        marker = ((marker * 37) ^ 0xA5).tobytes()
        setattr(marked, field, array.array(self._dtype.char, marker))
        cdr = serialize_message(marked)
        if not marker or cdr.count(marker) != 1:
            raise ValueError(f'{type(message).__name__}.{field}: no place to find for {len(values)} values')
        begin = cdr.index(marker)
        self._head = cdr[:_STAMP_AT]
        self._middle = cdr[_STAMP_AT + _STAMP.size:begin]
        self._tail = bytes(4 * following)
        # serialize_message returns as many bytes as it estimated; those after the message are garbage.
        if cdr[begin + len(marker):][:len(self._tail)] != self._tail:
            raise ValueError(f'{type(message).__name__}.{field}: something follows that is not empty')
        self._begin, self._end = begin, begin + len(marker)
        self._size = self._end + len(self._tail)

    @classmethod
    def of(cls, cdr: bytes, message: Any, field: str, following: int) -> MessageTemplate:
        """The layout of a received message, to read the next ones of its publisher with.

        Padding between fields is garbage that differs from publisher to publisher, so it has to be learnt.
        """
        template = cls(message, field, following)
        template._middle = cdr[_STAMP_AT + _STAMP.size:template._begin]
        return template

    def write(self, stamp: int, values: np.ndarray) -> bytes:
        """The serialised message for a stamp in nanoseconds and the array's values, for `Publisher.publish`."""
        return b''.join((self._head, _STAMP.pack(*divmod(stamp, 1_000_000_000)), self._middle,
                         np.ascontiguousarray(values, self._dtype).data.cast('B'), self._tail))

    def read(self, cdr: bytes) -> Optional[np.ndarray]:
        """The array's values, a read-only view of the message; None if anything but them and the stamp differs."""
        # The middle ends with the array's length, so nothing is left open; bytes after the message are padding.
        if (not cdr.startswith(self._head) or cdr[_STAMP_AT + _STAMP.size:self._begin] != self._middle
                or len(cdr) < self._size or cdr[self._end:self._size] != self._tail):
            return None
        return np.frombuffer(cdr, self._dtype, (self._end - self._begin) // self._dtype.itemsize, self._begin)
