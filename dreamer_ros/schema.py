"""Typed models of everything that comes from outside: files, topics, parameters, options.

A key is declared once, as a pydantic field with its type, bounds, default and a description with units. From that
follow the checks, the error sentences, the help texts and the reference tables.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import yaml
from pydantic import ConfigDict, Field
from pydantic.fields import FieldInfo
from yaml.composer import Composer, ComposerError

from dreamer_ros.errors import InputError

MAX_BYTES = 32_000_000  # of a file or a message
MAX_DEPTH = 50  # of brackets or indentation
MAX_REPEATED = 10_000  # YAML values that aliases may repeat

_SHOWN = 120  # characters of a wrong value in an error


class Model(pydantic.BaseModel):
    """A mapping of known keys to values of declared types. It cannot be changed: use `model_copy(update=...)`.

    Nothing is guessed: '5' is no number, true is no number, 2.0 is no whole number, infinity is no float unless the
    field says `allow_inf_nan`. Lists are declared as tuples.
    """

    model_config = ConfigDict(frozen=True, extra='forbid', strict=True, allow_inf_nan=False, protected_namespaces=())


class Expected(NamedTuple):
    """Annotation of a field whose constraints alone would not give a good phrase for 'expected ...'."""

    text: str


class Fault(ValueError):
    """What a validator of a model raises about one of its keys, dotted; with an empty key about the whole."""

    def __init__(self, key: str, text: str):
        super().__init__(text)
        self.key = key


class Mismatch(Fault):
    """A Fault that says what was expected, and the value that came."""

    def __init__(self, key: str, expected: str, got: Any):
        super().__init__(key, f'expected {expected}, got {shown(got)}')


Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError
    return bounds


Range = Annotated[tuple[float, float], pydantic.AfterValidator(_ordered), Expected('[low, high]')]


# Checking


def check(kind: Any, data: Any, where: str) -> Any:
    """An instance of a model, or of a tagged union of models, made of plain data.

    Args:
        kind: the class, or the annotation of the union.
        data: mappings, lists, texts, numbers and None, as YAML and JSON give them.
        where: the file, topic or parameter that the data came from.

    Raises:
        InputError: one sentence on the first thing in the data that does not fit.
    """
    try:
        return _adapter(kind).validate_python(_tuples(data))
    except pydantic.ValidationError as error:
        problems = [_problem(kind, each, data) for each in error.errors(include_url=False)]
    _, sentence = min(problems, key=lambda problem: problem[0])
    raise InputError(f'{where}: {sentence}')


@functools.lru_cache
def _adapter(kind: Any) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(kind)


def _tuples(data: Any) -> Any:
    if isinstance(data, (list, tuple)):
        return tuple(map(_tuples, data))
    if isinstance(data, dict):
        return {key: _tuples(value) for key, value in data.items()}
    return data


class _Spot:
    """A place in the data, and the type that is declared there."""

    def __init__(self, kind: Any, data: Any):
        self.kind, self.metadata = _unpacked(kind)
        self.data = data
        self.key = ''  # dotted
        self.position: list[int] = []  # of each part of the key among its neighbours

    def descend(self, part: Any) -> bool:
        """Go to a part of pydantic's path; False if the spot says as a whole what belongs here."""
        origin, arguments = typing.get_origin(self.kind), typing.get_args(self.kind)
        if _phrase(self.metadata):
            return False
        if _is_union(self.kind):  # the part is a tag, no key
            self.kind = _members(self.kind).get(part, self.kind)
            return _is_model(self.kind)
        if origin is tuple:
            if arguments[-1] is not Ellipsis:
                return False
            self.key += f'[{part}]'
            self.position.append(part)
            self.kind, self.metadata = _unpacked(arguments[0])
        else:
            self.key = _dotted(self.key, part)
            self.position.append(list(self.data).index(part) if part in self.data else len(self.data))
            if _is_model(self.kind):
                field = _fields(self.kind)[part]
                self.kind, self.metadata = _unpacked(field.annotation, field.metadata)
            else:
                self.kind, self.metadata = _unpacked(arguments[1])
        if isinstance(self.data, dict) and part not in self.data:
            self.data = None
        else:
            self.data = self.data[part]
        return True


def _problem(kind: Any, error: Mapping[str, Any], data: Any) -> tuple[list[int], str]:
    """One of pydantic's errors: where it stands in the data, for sorting, and this project's sentence about it."""
    spot = _Spot(kind, data)
    path = list(error['loc'])
    unknown = error['type'] in ('extra_forbidden', 'invalid_key')
    name = path.pop() if unknown else path.pop(-2) if path[-1:] == ['[key]'] else None  # a key that is wrong itself
    for part in path:
        if part == '[key]' or not spot.descend(part):
            break
    if unknown:
        return [*spot.position, list(spot.data).index(name)], _unknown(name, _dotted(spot.key, name), spot.kind)
    cause = (error.get('ctx') or {}).get('error')
    members = _members(spot.kind)
    key, words, got = spot.key, expected(spot.kind, spot.metadata), spot.data
    if name is not None:
        key, got = _dotted(key, name), name
        words = expected(typing.get_args(spot.kind)[0]).replace('a text', 'a name')
    elif error['type'] == 'finite_number':
        words = words.replace('a number', 'a finite number', 1)
    elif error['type'].startswith('union_tag') and isinstance(got, dict):
        tag = error['ctx']['discriminator'].strip("'")
        key, words, got = _dotted(key, tag), _one_of(list(members)), got.get(tag, _MISSING)
    elif error['type'] == 'missing' and spot.data is None:
        got = _MISSING
    elif isinstance(cause, Fault):
        key = _dotted(key, cause.key)
    if got is _MISSING:
        return spot.position, f'{key} ({words}) is missing'
    text = str(cause or '') or f'expected {words}, got {shown(got)}'
    return spot.position, f'{key}: {text}' if key else text


_MISSING = object()


def _dotted(*parts: Any) -> str:
    return '.'.join(str(part) for part in parts if part != '')


def _unknown(key: Any, place: str, kind: type[Model]) -> str:
    known = _fields(kind)
    near = difflib.get_close_matches(str(key), known, 3)
    if near:
        return f'unknown key {place}; did you mean {", ".join(near)}?'
    return f'unknown key {place}; expected one of {", ".join(known)}'


def shown(value: Any) -> str:
    """A value as errors show it: what people would write, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'


# Types in words


def expected(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value of a type must be, as the words after 'expected': 'a whole number of at least 1'."""
    kind, metadata = _unpacked(kind, metadata)
    if text := _phrase(metadata):
        return text
    if typing.get_origin(kind) is Literal:
        return _one_of(typing.get_args(kind))
    if _is_model(kind) or _members(kind):
        return 'a mapping of names to values'
    return _noun(kind, metadata) if kind is bool else f'a {_noun(kind, metadata)}'


def _noun(kind: Any, metadata: Sequence[Any]) -> str:
    if kind is bool:
        return 'true or false'
    if kind in (int, float):
        noun = 'whole number' if kind is int else 'number'
        return ' '.join(filter(None, (noun, range_words(*limits(metadata)))))
    if kind is str:
        return 'name' if any(getattr(entry, 'min_length', 0) for entry in metadata) else 'text'
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return f'list of {_plural(arguments[0])}'
        return f'list of {len(arguments)} {_plural(arguments[0])}'
    if typing.get_origin(kind) is dict:
        return f'mapping of names to {_plural(arguments[1])}'
    return 'mapping'


def _plural(kind: Any) -> str:
    kind, metadata = _unpacked(kind)
    if text := _phrase(metadata) or (typing.get_origin(kind) is Literal and _one_of(typing.get_args(kind))):
        return f'values, each {text}'
    if kind is bool:
        return 'values, each true or false'
    return re.sub(r'^((?:whole )?(?:number|name|text)|list|mapping)', r'\1s', _noun(kind, metadata))


class Limits(NamedTuple):
    """Bounds of a number; None where there is none."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None


def limits(metadata: Sequence[Any]) -> Limits:
    """The bounds among a field's constraints."""
    found = {}
    for entry in metadata:
        for name in Limits._fields:
            if getattr(entry, name, None) is not None:
                found[name] = getattr(entry, name)
    return Limits(**found)


def _without_limits(metadata: Sequence[Any]) -> list[Any]:
    return [entry for entry in metadata if limits([entry]) == Limits()]


def range_words(ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    """Bounds in words: 'from 0 to 1', 'of at least 1', 'above 0 and below 5'; empty without bounds."""
    if ge is not None and le is not None:
        return f'from {_plain(ge)} to {_plain(le)}'
    words = {'of at least': ge, 'above': gt, 'of at most': le, 'below': lt}
    return ' and '.join(f'{word} {_plain(bound)}' for word, bound in words.items() if bound is not None)


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f'{number:.10g}'


def _one_of(choices: Sequence[Any]) -> str:
    return f'one of {", ".join(map(str, choices))}' if len(choices) > 1 else str(choices[0])


def _phrase(metadata: Sequence[Any]) -> str:
    return next((entry.text for entry in metadata if isinstance(entry, Expected)), '')


def _unpacked(kind: Any, metadata: Sequence[Any] = ()) -> tuple[Any, list[Any]]:
    """The type without Annotated and without None, and what its annotations say."""
    metadata = list(metadata)
    while True:
        if typing.get_origin(kind) is Annotated:
            kind, *more = typing.get_args(kind)
            for entry in more:
                metadata += entry.metadata if isinstance(entry, FieldInfo) else [entry]
        elif _is_union(kind) and type(None) in typing.get_args(kind):
            rest = [member for member in typing.get_args(kind) if member is not type(None)]
            kind = typing.Union[tuple(rest)]  # noqa: UP007
        else:
            return kind, metadata


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _fields(kind: type[pydantic.BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by the names that files use."""
    return {field.alias or name: field for name, field in kind.model_fields.items()}


def _members(kind: Any) -> dict[Any, type[Model]]:
    """The models of a union by their tags; empty for anything else."""
    tags: dict[Any, type[Model]] = {}
    for member in typing.get_args(kind) if _is_union(kind) else ():
        model, metadata = _unpacked(member)
        if not _is_model(model):
            return {}
        own: Sequence[Any] = [entry.tag for entry in metadata if isinstance(entry, pydantic.Tag)]
        literals = (field.annotation for field in model.model_fields.values())
        own = own or next((typing.get_args(each) for each in literals if typing.get_origin(each) is Literal), ())
        tags.update(dict.fromkeys(own, model))
    return tags


# Describing


class Row(NamedTuple):
    """A key of a model, for help texts, parameter descriptors and reference tables.

    Attributes:
        key: dotted; elements of lists as `key[]`, of mappings with any names as `key.NAME`.
        kind: the declared type, without None.
        type: the same in words: 'number', 'whole number', 'true or false', 'text', 'list of numbers' and so on.
        allowed: the range or the choices in words; empty where everything of the type is allowed.
        limits, choices: the same as values.
        required, default: whether the key must be there, and what counts otherwise.
        help: what it means, with its unit.
    """

    key: str
    kind: Any
    type: str
    allowed: str
    limits: Limits
    choices: tuple[Any, ...]
    required: bool
    default: Any
    help: str


def describe(kind: Any, prefix: str = '') -> list[Row]:
    """Every key of a model or of a tagged union of models, in the order of declaration.

    Keys of nested models follow with their dotted names; keys that members of a union share come once.
    """
    rows: dict[str, Row] = {}
    for row in _rows(kind, prefix):
        rows.setdefault(row.key, row)
    return list(rows.values())


def _rows(kind: Any, prefix: str) -> Iterator[Row]:
    kind, _ = _unpacked(kind)
    if _is_union(kind):
        for model in dict.fromkeys(_members(kind).values()):
            yield from _rows(model, prefix)
        return
    for name, field in _fields(kind).items():
        inner, metadata = _unpacked(field.annotation, field.metadata)
        key = f'{prefix}{name}'
        below, element = key, inner
        if typing.get_origin(inner) is tuple:
            below, element = f'{key}[]', _unpacked(typing.get_args(inner)[0])[0]
        elif typing.get_origin(inner) is dict:
            below, element = f'{key}.NAME', _unpacked(typing.get_args(inner)[1])[0]
        nested = _is_model(element) or bool(_members(element))
        if not (nested and element is inner):
            bounds = limits(metadata)
            choices = typing.get_args(inner) if typing.get_origin(inner) is Literal else ()
            yield Row(
                key,
                inner,
                _phrase(metadata) or ('text' if choices else _noun(inner, _without_limits(metadata))),
                ', '.join(map(str, choices)) or range_words(*bounds),
                bounds,
                choices,
                field.is_required(),
                None if field.is_required() else field.get_default(call_default_factory=True),
                field.description or '',
            )
        if nested:
            yield from _rows(element, f'{below}.')


def reference(kind: Any) -> str:
    """The keys of a model as a Markdown table: key, type, range or choices, default, meaning."""
    lines = ['| key | type | allowed | default | meaning |', '|---|---|---|---|---|']
    for row in describe(kind):
        default = 'required' if row.required else _yaml_value(row.default)
        cells = (f'`{row.key}`', row.type, row.allowed, default, row.help)
        lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    return '\n'.join(lines) + '\n'


def _yaml_value(value: Any) -> str:
    if value is None or value == '':
        return ''
    if isinstance(value, (tuple, list, dict, bool)):
        return f'`{json.dumps(value)}`'
    return f'`{_plain(value) if isinstance(value, float) else value}`'


# Reading


def load_yaml(source: str | Path, where: str, exponents: bool = True) -> Any:
    """What a YAML file or text holds, as plain values.

    Args:
        source: a text, or the path of a file.
        where: what errors call it.
        exponents: read 1e-4 as a number, as people mean it and YAML 1.2 has it; false for files that programs
            wrote by YAML 1.1, where it is a text, such as a hash.

    Raises:
        InputError: no YAML, a key twice, too long, too deep, or full of aliases.
    """
    loader = None
    try:
        loader = (_Loader if exponents else _PlainLoader)(_text(source, where))
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f' in line {mark.line + 1}' if mark else ''
        problem = ', '.join(filter(None, (error.context, error.problem)))
        raise InputError(f'{where}: expected YAML, got {problem}{line}') from error
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number without end
        raise InputError(f'{where}: expected YAML, got {" ".join(str(error).split())}') from error
    finally:
        if loader is not None:
            loader.dispose()


def load_json(source: str | bytes | Path, where: str) -> Any:
    """What a JSON file, text or message holds.

    Raises:
        InputError: no JSON, a key twice, too long, or too deep.
    """
    text = _text(source, where)
    depth = 0
    for match in re.finditer(r'"(?:[^"\\]|\\.)*(?:"|$)|[\[{\]}]', text, re.DOTALL):
        depth += {'[': 1, '{': 1, ']': -1, '}': -1}.get(match[0], 0)
        if depth > MAX_DEPTH:
            raise InputError(f'{where}: expected JSON, got more than {MAX_DEPTH} brackets within each other')
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        came = f'{shown(text[:60])} ({error})' if text.strip() else 'nothing'
        raise InputError(f'{where}: expected JSON, got {came}') from error
    except ValueError as error:  # a key twice, or an integer of thousands of digits
        raise InputError(f'{where}: expected JSON, got {error}') from error


def _text(source: str | bytes | Path, where: str) -> str:
    if isinstance(source, Path):
        size = source.stat().st_size if source.exists() else 0
    else:
        size = len(source)
    if size > MAX_BYTES:
        raise InputError(f'{where}: expected at most {MAX_BYTES / 1e6:g} MB, got {size / 1e6:.0f} MB')
    if isinstance(source, Path):
        try:
            return source.read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f'{where}: expected a text file that can be read ({error})') from error
    if isinstance(source, bytes):
        try:
            return source.decode()
        except UnicodeDecodeError as error:
            raise InputError(f'{where}: expected UTF-8 text, got {shown(source[:30])}') from error
    return source


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key {next(key for key in keys if keys.count(key) > 1)!r} twice')
    return content


# libyaml splits the text. Composing stays here in Python, where depth, aliases and keys are counted as they come.
_BASES = (Composer, yaml.CSafeLoader) if yaml.__with_libyaml__ else (yaml.SafeLoader,)


class _PlainLoader(*_BASES):  # type: ignore[misc]  # which depends on the installation
    """Refuses keys that are there twice, of which YAML takes the last, and what grows without bound."""

    def __init__(self, text: str):
        _BASES[-1].__init__(self, text)
        self.anchors: dict[str, Any] = {}
        self._depth = 0
        self._nodes = 0
        self._repeated = 0
        self._sizes: dict[str, int] = {}  # nodes below each anchor

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(event.anchor or '', 0)
            self._nodes += size
            self._repeated += size
            if self._repeated > MAX_REPEATED:
                self._refuse(f'aliases that repeat more than {MAX_REPEATED} values', event)
            if event.anchor in self.anchors and not size:
                self._refuse(f'the alias {event.anchor!r} within itself', event)
            return super().compose_node(parent, index)
        before = self._nodes
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f'more than {MAX_DEPTH} levels within each other', event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - before
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    self._refuse(f'the key {key.value!r} twice', key)
                names.add(key.value)
        return node

    def _refuse(self, what: str, place):
        raise ComposerError(None, None, what, place.start_mark)


class _Loader(_PlainLoader):
    """Reads 2e4 and 1e-4 as numbers."""


def _exponent(loader, node):
    number = float(node.value)
    return int(number) if number.is_integer() else number


_Loader.add_implicit_resolver('!exponent', re.compile(r'[-+]?[0-9]+[eE][-+]?[0-9]+$'), list('-+0123456789'))
_Loader.add_constructor('!exponent', _exponent)
