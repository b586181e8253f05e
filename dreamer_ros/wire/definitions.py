"""Definitions and type hashes of ROS messages by name, and serialisation without rclpy.

Knows the public ROS interfaces, and the packages of a sourced workspace.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text


class Definition(NamedTuple):
    """What an MCAP file stores about a type.

    Attributes:
        text: the .msg text, followed by those of its dependencies after lines of 80 `=` (encoding `ros2msg`).
        hash: REP-2011 type hash, `RIHS01_…`.
    """

    text: str
    hash: str


_GOAL = '_Goal'
_SEPARATOR = re.compile('^---', re.MULTILINE)  # of goal, result and feedback in an .action file
# Bytes that may follow a message.
SLACK = 16


@functools.cache
def typestore() -> Any:
    """The types of the sourced ROS distribution, or of the newest supported one."""
    name = f'ROS2_{os.environ.get("ROS_DISTRO", "kilted").upper()}'
    return get_typestore(getattr(Stores, name, Stores.ROS2_KILTED))


def goal_type(action: str) -> str:
    """The type of an action's goals: `control_msgs/action/GripperCommand` → `control_msgs/action/GripperCommand_Goal`.

    Raises:
        InputError: not the type of an action.
    """
    if not re.fullmatch(r'\w+/action/\w+', action):
        raise InputError(f'expected the type of an action, such as control_msgs/action/GripperCommand, got {action!r}')
    return f'{action}{_GOAL}'


def _register(type_name: str) -> None:
    """Register a type of an installed package, and the types that it contains.

    Raises:
        InputError: its .msg or .action file is missing or damaged.
    """
    package, kind, name = (*type_name.split('/'), '', '')[:3]
    stem = name.removesuffix(_GOAL) if kind == 'action' else name
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    files = [Path(prefix, 'share', package, kind, f'{stem}.{kind}') for prefix in prefixes if prefix]
    known = kind in ('msg', 'action') and stem.isalnum()
    file = next((file for file in files if known and file.is_file()), None)
    if file is None:
        raise InputError(
            f'message type {type_name}: expected a type of the common ROS 2 interfaces, or of a package '
            'in a sourced workspace'
        )
    try:
        text = read_text(file)
        if kind == 'action':
            text = _SEPARATOR.split(text)[0]
        # The types inside are messages of the same package.
        [content] = get_types_from_msg(text, f'{package}/msg/{name}').values()
        types = {type_name: content}
        _, fields = content
        field: Any
        for _, field in fields:
            kind, content = field
            if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                (kind, content), _ = content
            if kind is Nodetype.NAME:
                definition(content)
        typestore().register(types)
    except (TypesysError, ValueError) as error:
        raise InputError(f'message type {type_name}: {file} does not define it ({error})') from error


@functools.cache
def definition(type_name: str) -> Definition:
    """Look up a type such as `sensor_msgs/msg/Image`.

    Raises:
        InputError: the type is unknown.
    """
    store = typestore()
    if type_name not in store.fielddefs:
        _register(type_name)
    text, _ = store.generate_msgdef(type_name, ros_version=2)
    return Definition(text, store.hash_rihs01(type_name))


def decode(cdr: bytes | memoryview, type_name: str) -> Any:
    """Deserialise a message without rclpy.

    Up to `SLACK` bytes after the message are ignored: `serialize_message` of rclpy often returns too many.

    Raises:
        InputError: the bytes are not such a message.
    """
    if len(cdr) < 4 or cdr[0] != 0 or cdr[1] > 1:
        raise InputError(f'{type_name}: expected CDR bytes, got {bytes(cdr[:4]).hex() or "nothing"}')
    store = typestore()
    msgdef = store.get_msgdef(type_name)
    read = msgdef.deserialize_cdr_le if cdr[1] else msgdef.deserialize_cdr_be
    try:
        message, end = read(cdr[4:], 0, msgdef.cls, store)
    except (struct.error, ValueError, SerdeError, AssertionError, IndexError, MemoryError) as error:
        raise InputError(f'{type_name}: {len(cdr)} bytes do not hold a whole message ({error})') from error
    if len(cdr) - 4 - end > SLACK:
        raise InputError(f'{type_name}: expected {end} bytes, as such a message takes, got {len(cdr) - 4}')
    return message


def encode(message: Any, type_name: str) -> bytes:
    """Serialise a message of `blank_message` or `decode` to CDR, without rclpy."""
    return bytes(typestore().serialize_cdr(message, type_name))


def blank_message(type_name: str) -> Any:
    """A message of zeros and empty lists, for `encode`.

    Raises:
        InputError: the type is unknown.
    """
    definition(type_name)
    store = typestore()
    return store.types[type_name](**{name: _blank(*kind) for name, kind in store.fielddefs[type_name][1]})


def _blank(kind: Nodetype, content: Any) -> Any:
    """Default value of a field; `rosbags.interfaces.FieldDesc` explains the arguments."""
    if kind is Nodetype.NAME:
        return blank_message(content)
    if kind is Nodetype.BASE:
        return {'string': '', 'bool': False}.get(content[0], np.zeros((), _dtype(content[0])).item())
    element, length = content
    length = length if kind is Nodetype.ARRAY else 0
    if element[0] is Nodetype.BASE and element[1][0] != 'string':
        return np.zeros(length, _dtype(element[1][0]))
    return [_blank(*element) for _ in range(length)]


def _dtype(name: str) -> np.dtype:
    return np.dtype({'byte': 'uint8', 'char': 'uint8', 'octet': 'uint8', 'string': 'uint8'}.get(name, name))
