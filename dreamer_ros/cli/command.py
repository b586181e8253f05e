"""A command is a function and a model of its options; its parser and its help text follow from the two."""

from __future__ import annotations

import argparse
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dreamer_ros.errors import InputError, hint
from dreamer_ros.options import Options, Word, as_text
from dreamer_ros.schema import Row, describe


class Command(NamedTuple):
    """A command.

    Attributes:
        run: takes the options and returns an exit code; None means 0. Its docstring is the description.
        options: the model.
        example: a command line.
    """

    run: Callable[[Any], int | None]
    options: type[Options]
    example: str

    @property
    def name(self) -> str:
        """The word that people type."""
        return self.run.__name__.strip('_')

    def describe(self, parser: argparse.ArgumentParser) -> None:
        """Give a parser the description and the options of this command."""
        parser.description = inspect.getdoc(self.run)
        parser.epilog = f'example: {self.example}'
        parser.set_defaults(command=self, where=parser.prog)
        for row in describe(self.options):
            _add(parser, row, _word(row, self.options))

    def check_rest(self, where: str, rest: Sequence[str]) -> None:
        """Refuse the first word of a command line that is no option of this command.

        Raises:
            InputError: there is one.
        """
        for word in rest:
            if not word.startswith('-'):
                raise InputError(f'{where}: expected no further word, got {word!r}')
            known = [flag for row in describe(self.options) for flag in _word(row, self.options).flags]
            raise InputError(f'{where}: unknown option {word}; {hint(word.partition("=")[0], known)}')

    def as_typed(self, text: str) -> str:
        """What an error says of `name:=value`, in the syntax of this command."""
        rows = {row.key: row for row in describe(self.options)}

        def typed(match: re.Match) -> str:
            word = _word(rows[match[1]], self.options) if match[1] in rows else None
            if word is None:
                return match[0]
            if word.positional and match[2].startswith(('<', '…')):
                return word.metavar
            return f'{word.metavar if word.positional else word.flags[-1]} {match[2]}'

        return re.sub(r'(\w+):=(<[^>]*>|\S*)', typed, text)


class Group(NamedTuple):
    """Commands of one noun.

    Attributes:
        alone: the command that the noun stands for by itself, if any.
    """

    commands: tuple[Command, ...]
    description: str
    example: str
    alone: Command | None = None

    def describe(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        """Give a parser the commands. `words` are those after the noun."""
        names = [command.name for command in self.commands]
        if words and not self.alone and words[0] not in names and not words[0].startswith('-'):
            raise InputError(f'{parser.prog}: unknown command {words[0]!r}; {hint(words[0], names)}')
        if self.alone and not set(names).intersection(words[:1]):
            self.alone.describe(parser)
            return
        parser.description, parser.epilog = self.description, f'example: {self.example}'
        verbs = parser.add_subparsers(metavar='COMMAND', required=True)
        for command in self.commands:
            summary, *_ = (inspect.getdoc(command.run) or '').partition('.')
            command.describe(verbs.add_parser(command.name, help=summary[0].lower() + summary[1:]))


def command(example: str) -> Callable[[Callable], Command]:
    """Decorate a function of one argument, which is annotated with the model of the options."""

    def decorate(run: Callable[[Any], int | None]) -> Command:
        return Command(run, typing.get_type_hints(run)['options'], example)

    return decorate


def _word(row: Row, options: type[Options]) -> Word:
    """How an option is written."""
    word = next((entry for entry in options.model_fields[row.key].metadata if isinstance(entry, Word)), Word())
    flags = () if word.positional else word.flags or ('--' + row.key.replace('_', '-'),)
    return word._replace(metavar=word.metavar or _metavar(row), flags=flags)


def _several(row: Row) -> bool:
    return typing.get_origin(row.kind) is tuple and typing.get_args(row.kind)[-1] is Ellipsis


def _add(parser: argparse.ArgumentParser, row: Row, word: Word) -> None:
    """Add one option. It stays text here: the model converts and checks it."""
    several = _several(row)
    default = as_text(row.default)
    shown = f' (default: {default})' if default and row.kind is not bool else ''
    settings: dict[str, Any] = {'help': f'{row.help}{shown}'.replace('%', '%%'), 'default': argparse.SUPPRESS}
    if row.kind is bool:
        settings |= {'action': 'store_const', 'const': 'true'}
    else:
        settings['metavar'] = word.metavar
    if word.positional:
        nargs = ('+' if several else None) if row.required else ('*' if several else '?')
        parser.add_argument(row.key, nargs=nargs, **settings)
        return
    if several:
        settings |= {'nargs': '+', 'action': 'extend'}
    parser.add_argument(*word.flags, dest=row.key, required=row.required, **settings)


def _metavar(row: Row) -> str:
    """Placeholder of one value of an option."""
    if row.choices:
        return '{' + ','.join(map(str, row.choices)) + '}'
    if 'number' in row.type:
        return 'N'
    return row.key.upper().removesuffix('S') if _several(row) else row.key.upper()
