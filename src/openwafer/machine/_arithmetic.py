"""Evaluate the formulas of derived numbers: names, literals, `+ - * /` and parentheses, nothing else."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from openwafer.base import InputError

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """The value of `formula` with its names taken from `values`.

    Integers stay exact: an int comes back wherever the result is whole.

    Raises InputError if the text is not such a formula, names a part that is not given, leaves a
    given part unused, or divides by zero.
    """
    try:
        tree = ast.parse(formula, mode="eval").body
    except SyntaxError as error:
        raise InputError(
            f"formula {formula!r} cannot be read ({error.msg}); write sums and products of part names"
        ) from error
    unused = set(values) - {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if unused:
        raise InputError(f"formula {formula!r} does not use {', '.join(sorted(unused))}; drop the part")
    try:
        value = _evaluate(tree, formula, values)
    except ZeroDivisionError as error:
        raise InputError(f"formula {formula!r} divides by zero; check its parts") from error
    return int(value) if float(value).is_integer() else value


def _evaluate(node: ast.expr, formula: str, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left = _evaluate(node.left, formula, values)
        return _OPERATORS[type(node.op)](left, _evaluate(node.right, formula, values))
    if isinstance(node, ast.Name):
        if node.id not in values:
            raise InputError(f"formula {formula!r} names {node.id!r}, which is not among its parts; give it")
        return values[node.id]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value) if isinstance(node.value, float) else int(str(node.value))
    raise InputError(
        f"formula {formula!r} holds {ast.unparse(node)!r}; only names, numbers and + - * / are read"
    )
