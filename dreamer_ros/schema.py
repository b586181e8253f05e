"""Typed models of everything that comes from outside: files, topics, parameters, options.

A key is declared once, as a pydantic field with its type, bounds, default and a description with units. From that
follow the checks, the error sentences, the help texts and the reference tables.
"""

from __future__ import annotations

import functools
import json
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import yaml
from pydantic import ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from yaml.composer import Composer, ComposerError

from dreamer_ros.errors import InputError, hint
from dreamer_ros.files import read_text

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


class Record(Model):
    """What programs write for programs. Keys that a later version may add are passed over."""

    model_config = ConfigDict(extra='ignore')


class Fault(ValueError):
    """What a validator of a model raises about one of its keys, dotted; with an empty key about the whole."""

    def __init__(self, key: str, text: str):
        super().__init__(text)
        self.key = key


class Mismatch(Fault):
    """A Fault that says what was expected, and the value that came."""

    def __init__(self, key: str, expected: str, got: Any):
        super().__init__(key, f'expected {expected}, got {shown(got)}')


class Expected(NamedTuple):
    """Annotation of a type whose constraints alone would not give a good phrase for 'expected ...'."""

    text: str

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except pydantic.ValidationError:
            raise Mismatch('', self.text, value) from None


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError
    return bounds


def _whole(value: Any) -> Any:
    """NumPy's whole numbers as Python's, which they are not to pydantic."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else value


Name = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, pydantic.BeforeValidator(_whole)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Range = Annotated[tuple[float, float], pydantic.AfterValidator(_ordered), Expected('[low, high]')]


# Checking


def check(kind: Any, data: Any, where: str) -> Any:
    """An instance of a model, or of a tagged union of models, made of plain data.

    Args:
        kind: the class, or the annotation of the union.
        data: mappings, lists, texts, numbers and None, as YAML and JSON give them.
        where: the file, topic or parameter that the data came from.

    Raises:
        InputError: one sentence on one thing in the data that does not fit.
    """
    try:
        return _adapter(kind).validate_python(_convert(data, tuple))
    except pydantic.ValidationError as failure:
        errors = failure.errors(include_url=False)
    # A misspelt key is missing as well, but it is the better hint.
    errors.sort(key=lambda error: {**dict.fromkeys(_UNKNOWN, 0), 'missing': 2}.get(error['type'], 1))
    raise InputError(f'{where}: {_sentence(kind, errors[0])}')


_UNKNOWN = ('extra_forbidden', 'invalid_key')


@functools.lru_cache
def _adapter(kind: Any) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(kind)


def _convert(data: Any, sequence: type) -> Any:
    """Plain data with all its lists and tuples as one of the two."""
    if isinstance(data, (list, tuple)):
        return sequence(_convert(value, sequence) for value in data)
    if isinstance(data, dict):
        return {key: _convert(value, sequence) for key, value in data.items()}
    return data


def _sentence(kind: Any, error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says, in this project's words."""
    path, error_type, got = list(error['loc']), error['type'], error['input']
    if error_type in _UNKNOWN:
        name = path.pop()
        key, kind, _ = _declared(kind, path)
        return f'unknown key {_dotted(key, name)}; {hint(str(name), _fields(kind))}'
    if error_type == 'missing' and isinstance(path[-1], int):  # a list that is too short is wrong as a whole
        error_type = 'too_short'
        path.pop()
    wrong_key = path[-1:] == ['[key]']
    key, kind, metadata = _declared(kind, path[:-2] if wrong_key else path)
    words = expected(kind, metadata)
    if wrong_key:
        words = expected(typing.get_args(kind)[0]).replace('a text', 'a name')
        key = _dotted(key, got)
    elif error_type == 'finite_number':
        words = words.replace('a number', 'a finite number', 1)
    elif error_type.startswith('union_tag'):
        tag = error['ctx']['discriminator'].strip("'")
        key, words = _dotted(key, tag), _one_of(list(_members(kind)))
        error_type, got = ('missing', None) if tag not in got else (error_type, got[tag])
    if error_type == 'missing':
        return f'{key} ({words}) is missing'
    cause = (error.get('ctx') or {}).get('error')
    if isinstance(cause, Fault):
        key = _dotted(key, cause.key)
    text = str(cause or '') or f'expected {words}, got {shown(got)}'
    return f'{key}: {text}' if key else text


def _declared(kind: Any, path: Sequence[int | str]) -> tuple[str, Any, list[Any]]:
    """What stands at a path of pydantic's: its dotted key, its type, and what annotates that."""
    kind, metadata = _unpacked(kind)
    key = ''
    for part in path:
        arguments = typing.get_args(kind)
        if _is_union(kind):  # the part is a tag, no key
            kind = _members(kind)[part]
        elif _is_model(kind):
            key, field = _dotted(key, part), _fields(kind)[str(part)]
            kind, metadata = _unpacked(field.annotation, field.metadata)
        elif typing.get_origin(kind) is tuple:
            key += f'[{part}]'
            kind, metadata = _unpacked(arguments[0])
        else:
            key = _dotted(key, part)
            kind, metadata = _unpacked(arguments[1])
    return key, kind, metadata


def _dotted(*parts: Any) -> str:
    return '.'.join(str(part) for part in parts if part != '')


def shown(value: Any) -> str:
    """A value as errors show it: what people would write, cut where it is long."""
    text = repr(_convert(value, list))
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'


# Types in words


def expected(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value of a type must be, as the words after 'expected': 'a whole number of at least 1'."""
    kind, metadata = _unpacked(kind, metadata)
    if text := _phrase(kind, metadata):
        return text
    if _is_model(kind) or _members(kind):
        return 'a mapping of names to values'
    return f'a {_noun(kind, metadata)}'


def _phrase(kind: Any, metadata: Sequence[Any]) -> str:
    """What a type is called that has no noun."""
    if typing.get_origin(kind) is Literal:
        choices = _one_of(typing.get_args(kind))
    else:
        choices = 'true or false' if kind is bool else ''
    return next((entry.text for entry in metadata if isinstance(entry, Expected)), choices)


def _noun(kind: Any, metadata: Sequence[Any]) -> str:
    if kind in (int, float):
        noun = 'whole number' if kind is int else 'number'
        return f'{noun} {range_words(*limits(metadata))}'.strip()
    if kind is str:
        return 'name' if any(getattr(entry, 'min_length', 0) for entry in metadata) else 'text'
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        count = '' if arguments[-1] is Ellipsis else f'{len(arguments)} '
        return f'list of {count}{_plural(arguments[0])}'
    return f'mapping of names to {_plural(arguments[1])}' if typing.get_origin(kind) is dict else 'mapping'


def _plural(kind: Any) -> str:
    kind, metadata = _unpacked(kind)
    if text := _phrase(kind, metadata):
        return f'values, each {text}'
    return re.sub(r'^((?:whole )?(?:number|name|text)|list|mapping)', r'\1s', _noun(kind, metadata))


class Limits(NamedTuple):
    """Bounds of a number; None where there is none."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None


def limits(metadata: Sequence[Any]) -> Limits:
    """The bounds among a field's constraints."""
    bounds = ((name, getattr(entry, name, None)) for entry in metadata for name in Limits._fields)
    return Limits(**{name: bound for name, bound in bounds if bound is not None})


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
            below, element = f'{key}[]', typing.get_args(inner)[0]
        elif typing.get_origin(inner) is dict:
            below, element = f'{key}.NAME', typing.get_args(inner)[1]
        element, _ = _unpacked(element)
        nested = _is_model(element) or bool(_members(element))
        if not (nested and element is inner):
            bounds = limits(metadata)
            choices = typing.get_args(inner) if typing.get_origin(inner) is Literal else ()
            others = [entry for entry in metadata if limits([entry]) == Limits()]
            yield Row(
                key,
                inner,
                'text' if choices else _phrase(inner, metadata) or _noun(inner, others),
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


def line_of(text: str, key: str) -> int:
    """The line, from 1, of a dotted key such as `command.axes[1].limits` in a YAML text that was loaded before.

    Of the nearest key around it, where the text does not have it.
    """
    node = yaml.compose(text, _BASES[-1])
    line = 1
    for name, number in re.findall(r'([^.\[\]]+)|\[(\d+)\]', key):
        if name and isinstance(node, yaml.MappingNode):
            entry = next((pair for pair in node.value if pair[0].value == name), None)
        elif number and isinstance(node, yaml.SequenceNode) and int(number) < len(node.value):
            entry = (node.value[int(number)],) * 2
        else:
            entry = None
        if entry is None:
            break
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line


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
        return read_text(source)
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
