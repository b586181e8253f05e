"""Reading the YAML files that people write: every error names the file and the key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from dreamer_ros.errors import InputError
from dreamer_ros.schema import load_yaml

Range = tuple[float, float]


def parse_yaml(text: str, source: str) -> Section:
    """The top level of a file; `source` names the file in every error.

    Raises:
        InputError: it is not YAML, has a key twice, or is no mapping.
    """
    return Section(source, '', load_yaml(text, source))


class Section:
    """A mapping of the file; values are taken out by key, and what is left over at the end is unknown.

    Every method takes one value. Those with `default` return it where the key is missing; without it a missing
    key is refused.

    Raises:
        InputError: naming file, key, what was expected and what came.
    """

    def __init__(self, source: str, where: str, content: Any):
        self._source = source
        self._where = where
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            self.fail('', 'a mapping of names to values', content)
        self._left = dict(content)
        self._known = []

    def fail(self, key: str, expected: str, got: Any) -> NoReturn:
        """Refuse the value of a key, or with an empty key the whole section."""
        raise InputError(f'{self._source}: {self._place(key)}: expected {expected}, got {got!r}')

    def refuse(self, key: str, error: InputError) -> NoReturn:
        """Refuse the value of a key with what an error says of it."""
        raise InputError(f'{self._source}: {self._place(key)}: {error}') from error

    def keys(self) -> tuple[str, ...]:
        """What was not taken yet."""
        return tuple(self._left)

    def text(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a name', lambda value: isinstance(value, str) and value, default)

    def texts(self, key: str) -> tuple[str, ...]:
        """A name or a list of different ones; empty by default."""
        value = self._take(key, 'a name or a list of different names', _is_names, {'default': []})
        return (value,) if isinstance(value, str) else tuple(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        value = self._take(
            key, 'a list of numbers', lambda value: isinstance(value, list) and all(map(_is_number, value)), {}
        )
        return tuple(float(number) for number in value)

    def number(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a number', _is_number, default)

    def positive(self, key: str, **default: Any) -> Any:
        return self._take(key, 'a number above 0', lambda value: _is_number(value) and value > 0, default)

    def flag(self, key: str, **default: Any) -> bool:
        return self._take(key, 'true or false', lambda value: isinstance(value, bool), default)

    def count(self, key: str, least: int = 1, **default: Any) -> Any:
        return self._take(
            key,
            f'a whole number of at least {least}',
            lambda value: isinstance(value, int) and _is_number(value) and value >= least,
            default,
        )

    def range(self, key: str, **default: Any) -> Range | None:
        value = self._take(key, '[low, high]', _is_range, default)
        return value and (float(value[0]), float(value[1]))

    def choice(self, key: str, options: tuple[str, ...], **default: Any) -> str:
        return self._take(
            key, f'one of {", ".join(options)}', lambda value: isinstance(value, str) and value in options, default
        )

    def section(self, key: str) -> Section:
        """A mapping; an empty one where the key is missing."""
        self._known.append(key)
        return Section(self._source, self._place(key), self._left.pop(key, {}))

    def items(self, key: str) -> tuple[Section, ...]:
        """A list of mappings; empty where the key is missing."""
        content = self._take(key, 'a list', lambda value: isinstance(value, list), {'default': []})
        return tuple(
            Section(self._source, f'{self._place(key)}[{number}]', item) for number, item in enumerate(content)
        )

    def sections(self, key: str) -> dict[str, Section]:
        """A mapping of names to mappings; empty where the key is missing."""
        outer = self.section(key)
        return {name: outer.section(name) for name in outer.keys()}

    def has(self, key: str) -> bool:
        """Whether the key is there and was not taken yet."""
        self._known.append(key)
        return key in self._left

    def is_text(self, key: str) -> bool:
        """Whether the key is missing or holds a text, rather than a mapping or a list."""
        return not isinstance(self._left.get(key), (dict, list))

    def finish(self) -> None:
        """Refuse keys that nobody took."""
        if self._left:
            self.fail('', f'the keys {", ".join(dict.fromkeys(self._known))}', next(iter(self._left)))

    def _take(self, key: str, expected: str, valid: Callable[[Any], Any], default: dict[str, Any]) -> Any:
        self._known.append(key)
        if key not in self._left:
            if default:
                return default['default']
            raise InputError(f'{self._source}: {self._place(key)} ({expected}) is missing')
        value = self._left.pop(key)
        if not valid(value):
            self.fail(key, expected, value)
        return value

    def _place(self, key: str) -> str:
        return '.'.join(part for part in (self._where, key) if part) or 'the whole file'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_names(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return (
        isinstance(names, list)
        and all(isinstance(name, str) and name for name in names)
        and len(set(names)) == len(names) > 0
    )


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_number(bound) for bound in value)
        and value[0] <= value[1]
    )
