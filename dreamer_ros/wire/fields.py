"""Reads numbers from ROS messages by path: `pose.pose.position.x`, `data[3]`, `velocity[left_wheel]`, `ranges[0:90]`.

Messages may come from rclpy or from a bag.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import Nodetype

from dreamer_ros.errors import InputError
from dreamer_ros.wire.definitions import definition, typestore

# Lists that name the elements of a message's other lists, in JointState and JointTrajectory.
NAME_LISTS = ('name', 'joint_names')

_PART = re.compile(r'([A-Za-z][A-Za-z0-9_]*)(?:\[([^\[\]]+)\])?(?:\.|$)')
_NUMBERS = re.compile(r'bool|byte|u?int(8|16|32|64)|float(32|64)')


_SPAN = re.compile(r'(-?\d*):(-?\d*)')


class Span(NamedTuple):
    """Elements of a list, as in Python: from the first one to the one before the last, None for an end of the list."""

    first: int | None
    last: int | None


class Part(NamedTuple):
    """One step of a path: an attribute and, if it is a list, the number or name of an element, or several numbers."""

    attribute: str
    element: None | int | str | Span


@dataclasses.dataclass(frozen=True)
class Field:
    """The path of a number in messages of one type.

    An element in brackets is an index from 0, or the name of a joint, which is looked up in the list `name` or
    `joint_names` of the message or of a message around it. Booleans are 0 and 1. The last part may be a `Span`.
    """

    text: str
    parts: tuple[Part, ...]
    number: str = 'float64'  # type of the number in the definition of the message

    @classmethod
    def parse(cls, text: str, type_name: str) -> Field:
        """Read a path and check it against the definition of the message.

        Raises:
            InputError: not a path, no such field, not a number, or an unknown type of message.
        """
        parts, end = [], 0
        while end < len(text):
            match = _PART.match(text, end)
            if match is None:
                break
            attribute, element = match.groups()
            parts.append(Part(attribute, _element(element)))
            end = match.end()
        if not parts or end < len(text) or text.endswith('.'):
            raise InputError(
                'expected the path of a number in a message, such as pose.position.x, data[3] or '
                f'velocity[joint], got {text!r}'
            )
        return cls(text, tuple(parts), _check(parts, text, type_name))

    @property
    def span(self) -> Span | None:
        """The elements, of a path to several numbers."""
        element = self.parts[-1].element
        return element if isinstance(element, Span) else None

    def read_all(self, message: Any) -> np.ndarray:
        """The numbers f64[N] in a message, of a path that ends in a span. What the list lacks is left out.

        Raises:
            InputError: the message lacks an element before.
        """
        return np.asarray(self._value(message), np.float64)

    def read(self, message: Any) -> float:
        """The number in a message.

        Raises:
            InputError: the message lacks the element or the joint.
        """
        value = self._value(message)
        return float(value[0] if isinstance(value, bytes) else value)  # rclpy gives a `byte` as bytes

    def _value(self, message: Any) -> Any:
        value, names = message, None
        for attribute, element in self.parts:
            names = _names(value) or names
            value = getattr(value, attribute)
            if element is None:
                continue
            if isinstance(element, Span):
                return value[slice(*element)]
            if isinstance(element, int):
                number = element
            else:
                try:
                    number = list(names or ()).index(element)
                except ValueError:
                    joints = ', '.join(names or ()) or 'none'
                    raise InputError(f'{self.text}: expected {element} among the names, got {joints}') from None
            if number >= len(value):
                raise InputError(f'{self.text}: expected more than {number} elements, got {len(value)}')
            value = value[number]
        return value


def _element(text: str | None) -> None | int | str | Span:
    """What stands in brackets."""
    if text is None or text.isdecimal():
        return text and int(text)
    if match := _SPAN.fullmatch(text):
        first, last = (int(end) if end.strip('-') else None for end in match.groups())
        return Span(first, last)
    return text


def has_header(type_name: str) -> bool:
    """Whether messages of a type begin with a std_msgs/Header.

    Raises:
        InputError: an unknown type.
    """
    definition(type_name)
    fields = typestore().fielddefs[type_name][1]
    return bool(fields) and fields[0][1] == (Nodetype.NAME, 'std_msgs/msg/Header')


def names_list(message: Any) -> str | None:
    """Which attribute of a message names the elements of its other lists; None if none does."""
    return next((name for name in NAME_LISTS if isinstance(getattr(message, name, None), list)), None)


def _names(message: Any) -> list[str] | None:
    attribute = names_list(message)
    return getattr(message, attribute) if attribute else None


def _check(parts: list[Part], text: str, type_name: str) -> str:
    """The type of the number."""
    definition(type_name)
    kind, content = Nodetype.NAME, type_name
    named = False
    for part in parts:
        attribute, element = part
        if kind is not Nodetype.NAME:
            raise InputError(f'{text}: expected no field of a plain value, got {attribute!r}')
        fields = dict(typestore().fielddefs[content][1])
        if attribute not in fields:
            raise InputError(f'{text}: expected a field of {content} ({", ".join(fields)}), got {attribute!r}')
        named = named or any(name in fields for name in NAME_LISTS)
        kind, content = fields[attribute]
        is_list = kind in (Nodetype.ARRAY, Nodetype.SEQUENCE)
        if is_list != (element is not None):
            expected = 'an element of a list, such as [0]' if is_list else 'no list'
            raise InputError(f'{text}: expected {expected} at {attribute!r} of {type_name}')
        if isinstance(element, str) and not named:
            raise InputError(
                f'{text}: expected a number in brackets, because {type_name} names no joints, got {element!r}'
            )
        if isinstance(element, Span) and part is not parts[-1]:
            raise InputError(f'{text}: expected several elements at its end alone')
        if is_list:
            (kind, content), length = content
            if length and isinstance(element, int) and element >= length:
                raise InputError(f'{text}: expected an element below {length}, got {element}')
    if kind is not Nodetype.BASE or not _NUMBERS.fullmatch(content[0]):
        name = content if kind is Nodetype.NAME else content[0]
        raise InputError(f'{text}: expected a number, got {name}')
    return content[0]
