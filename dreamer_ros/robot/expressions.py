"""Formulas over named numbers, for the rewards of robot contracts: `0.5 * speed - abs(turn) ** 2`."""

from __future__ import annotations

import ast
import math
import operator
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dreamer_ros.errors import InputError

_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable] = {
    'abs': abs,
    'min': min,
    'max': max,
    'sqrt': math.sqrt,
    'exp': math.exp,
    'log': math.log,
    'sin': math.sin,
    'cos': math.cos,
    'tan': math.tan,
    'atan2': math.atan2,
    'hypot': math.hypot,
    'tanh': math.tanh,
}
_ARGUMENTS = {'min': (2, 99), 'max': (2, 99), 'atan2': (2, 2), 'hypot': (2, 99)}  # the others take 1
_LONGEST, _DEEPEST = 1000, 40  # characters, and parts within parts


class Expression:
    """A formula of numbers, names, + - * / **, comparisons, and/or/not, `a if b else c` and a few functions.

    Comparisons count as 1 and 0. No other Python is understood, so a contract cannot run code.

    Args:
        text: the formula.
        names: that may appear in it.

    Raises:
        InputError: the text is not such a formula.
    """

    def __init__(self, text: str, names: Collection[str]):
        self.text = text
        if len(text) > _LONGEST:
            raise InputError(f'expected a formula of at most {_LONGEST} characters, got {len(text)}')
        try:
            tree = ast.parse(text.strip(), mode='eval').body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f'expected a formula, got {text!r} ({error})') from error
        self._evaluate = self._compile(tree, names, _DEEPEST)

    def __call__(self, values: Mapping[str, float]) -> float:
        """The formula's value.

        Raises:
            InputError: it has no finite value (a division by zero, the logarithm of a negative number).
        """
        try:
            result = float(self._evaluate(values))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise InputError(f'{self.text}: has no value for {_listed(values)} ({error})') from error
        if not math.isfinite(result):
            raise InputError(f'{self.text}: expected a finite value, got {result} for {_listed(values)}')
        return result

    def _compile(self, node: ast.AST, names: Collection[str], levels: int) -> Callable[[Mapping[str, float]], Any]:
        """Compile a part of the formula, which may be nested `levels` deep, to a function of the values."""
        if not levels:
            raise InputError(f'expected a formula of at most {_DEEPEST} parts within parts, got {self.text!r}')

        def compiled(part: ast.AST) -> Callable:
            return self._compile(part, names, levels - 1)

        kind = type(getattr(node, 'op', None))
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            if not abs(node.value) <= sys.float_info.max:
                raise InputError(f'{self.text}: expected numbers of at most {sys.float_info.max:.0e}, got {node.value}')
            constant = float(node.value)
            return lambda values: constant
        if isinstance(node, ast.Name):
            name = node.id
            if name in names:
                return lambda values: values[name]
            if name == 'pi':
                return lambda values: math.pi
            raise InputError(f'{self.text}: expected one of the names {", ".join([*names, "pi"])}, got {name!r}')
        if isinstance(node, ast.BinOp) and kind in _OPERATORS:
            left, right, apply = compiled(node.left), compiled(node.right), _OPERATORS[kind]
            return lambda values: apply(left(values), right(values))
        if isinstance(node, ast.UnaryOp) and kind in _OPERATORS:
            operand, apply_one = compiled(node.operand), _OPERATORS[kind]
            return lambda values: apply_one(operand(values))
        if isinstance(node, ast.BoolOp):
            parts, joined = [compiled(part) for part in node.values], all if kind is ast.And else any
            return lambda values: joined(part(values) for part in parts)
        if isinstance(node, ast.IfExp):
            test, then, other = compiled(node.test), compiled(node.body), compiled(node.orelse)
            return lambda values: then(values) if test(values) else other(values)
        if isinstance(node, ast.Compare) and all(type(op) in _OPERATORS for op in node.ops):
            terms = [compiled(part) for part in (node.left, *node.comparators)]
            tests = [_OPERATORS[type(op)] for op in node.ops]

            def compare(values):
                numbers = [term(values) for term in terms]
                return all(test(a, b) for test, a, b in zip(tests, numbers, numbers[1:]))

            return compare
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            function = _FUNCTIONS[node.func.id]
            least, most = _ARGUMENTS.get(node.func.id, (1, 1))
            if node.keywords or not least <= len(node.args) <= most:
                raise InputError(f'{self.text}: {node.func.id} takes {least}{" or more" * (most > least)} numbers')
            arguments = [compiled(part) for part in node.args]
            return lambda values: function(*(argument(values) for argument in arguments))
        raise InputError(
            f'{self.text}: expected numbers, names, + - * / **, comparisons, and, or, not, if-else and '
            f'{", ".join(_FUNCTIONS)}, got {ast.unparse(node)!r}'
        )


def _listed(values: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value:g}' for name, value in values.items()) or 'no names'
