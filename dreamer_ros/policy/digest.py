"""A policy file's digest of its own content, which shows damage without a manifest.

The digest is the last entry of the ONNX metadata. Protobuf reads two serialised messages, one after the other, as one,
so these last bytes can be added and checked without the onnx package:

    … | 72 52 | 0a 0e content_sha256 | 12 40 | 64 hexadecimal digits

The digits are the SHA-256 of all bytes before them.
"""

from __future__ import annotations

import hashlib
import operator

from dreamer_ros.errors import InputError

KEY = 'content_sha256'
DIGITS = 64
BLOCK = 1 << 18  # bytes searched at a time
# ModelProto.metadata_props (field 14) with StringStringEntryProto.key (1) and .value (2), each of a length.
_ENTRY = b'\x0a' + bytes([len(KEY)]) + KEY.encode() + b'\x12' + bytes([DIGITS])
_HEAD = b'\x72' + bytes([len(_ENTRY) + DIGITS]) + _ENTRY


def with_digest(data: bytes | bytearray) -> bytes:
    """An ONNX file's bytes with their digest appended, unless they have one already."""
    if has_digest(data):
        return bytes(data)
    digest = hashlib.sha256(data)
    digest.update(_HEAD)
    return b''.join((data, _HEAD, digest.hexdigest().encode()))


def has_digest(data: bytes | bytearray) -> bool:
    """Whether a file has a digest, even if the entry's own name is damaged."""
    return _entries(data) > 0


def check_digest(data: bytes, name: str) -> None:
    """Check a file against its digest. A file that never had one passes: it is older, or made by others.

    Raises:
        InputError: the content has changed since the digest was made.
    """
    entries = _entries(data)
    if not entries:
        return
    said = data[-DIGITS:]
    found = hashlib.sha256(memoryview(data)[:-DIGITS]).hexdigest()
    if said != found.encode() or not data.endswith(_HEAD + said) or entries != 1:
        raise InputError(
            f'policy {name}: expected the content that its own {KEY} was made of, but it was damaged or '
            f'changed since (sha256 {found} up to there)'
        )


def _entries(data: bytes | bytearray) -> int:
    """The number of entries, at least 1 if the last bytes look like a damaged one."""
    # In blocks: a search holds the interpreter lock, and a robot's control loop needs it in the meantime.
    found = sum(data.count(_HEAD, start, start + BLOCK + len(_HEAD) - 1) for start in range(0, len(data), BLOCK))
    place = data[-DIGITS - len(_HEAD) : -DIGITS]
    return found or int(sum(map(operator.eq, place, _HEAD)) > len(_HEAD) // 2)
