"""Classes of ROS messages, services and actions by name, and messages from plain data."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Mapping
from typing import Any

from dreamer_ros.errors import InputError
from dreamer_ros.schema import shown

_NESTED = re.compile(r'(?:sequence<)?(\w+/\w+)(?:, \d+>|>|\[\d+\])?')


def interface(name: str, where: str) -> Any:
    """The class of a type: `std_srvs/srv/Trigger` → std_srvs.srv.Trigger. `where` begins the error.

    Raises:
        InputError: its package is not installed.
    """
    package, kind, leaf = name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.{kind}'), leaf)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f'{where}: expected the ROS package of {name} to be installed, or in a sourced workspace ({error})'
        ) from error


def fill(message: Any, values: Any, where: str) -> None:
    """Set fields of a message from plain data, as YAML gives it; `where` begins the error.

    Raises:
        InputError: a field is unknown, or its value does not fit.
    """
    kinds = message.get_fields_and_field_types()
    if not isinstance(values, Mapping):
        raise InputError(f'{where}: expected fields ({", ".join(kinds)}), got {shown(values)}')
    with contextlib.suppress(AttributeError):  # older versions check always
        message._check_fields = True
    for name, value in values.items():
        if name not in kinds:
            raise InputError(f'{where}: expected one of the fields {", ".join(kinds)}, got {name!r}')
        try:
            setattr(message, name, _value(kinds[name], value, f'{where}.{name}'))
        except InputError:
            raise
        except (AssertionError, TypeError, ValueError, OverflowError):
            raise InputError(f'{where}.{name}: expected {kinds[name]}, got {shown(value)}') from None


def _value(kind: str, value: Any, where: str) -> Any:
    several = isinstance(value, (list, tuple))
    if nested := _NESTED.fullmatch(kind):
        made = []
        for entry in value if several else [value]:
            made.append(interface(nested[1].replace('/', '/msg/'), where)())
            fill(made[-1], entry, where)
        return made if several else made[0]
    if 'float' in kind or 'double' in kind:
        return [float(entry) for entry in value] if several else float(value)
    return list(value) if several else value
