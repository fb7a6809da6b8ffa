"""Questions about trees and values that need no engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from openwafer.csl._source import Span
from openwafer.csl.sema._values import Reference, Value
from openwafer.csl.syntax import ast


def nodes(root: ast.Node) -> Iterator[ast.Node]:
    """A node and all nodes in it."""
    pending: list[Any] = [root]
    while pending:
        one = pending.pop()
        if isinstance(one, tuple) and not isinstance(one, Span):
            pending.extend(one)
        elif isinstance(one, ast.Node):
            yield one
            pending.extend(getattr(one, name) for name in one.__dataclass_fields__ if name != "span")


def taken(body: ast.Block) -> frozenset[str]:
    """The names of which a body takes the address, also that of a part."""
    names = set()
    for node in nodes(body):
        if isinstance(node, ast.Unary) and node.operator == "&":
            inner: ast.Node = node.operand
            while isinstance(inner, ast.Member | ast.Index):
                inner = inner.base
            if isinstance(inner, ast.Name):
                names.add(inner.text)
    return frozenset(names)


def key_of(value: Value) -> object:
    """Something that two known values share exactly if they are the same."""
    data = value.data
    if isinstance(data, np.ndarray):
        return value.type, data.tobytes()
    if isinstance(data, tuple):
        return value.type, tuple(key_of(one) if isinstance(one, Value) else one for one in data)
    if isinstance(data, Reference):
        return value.type, id(data.place)
    if isinstance(data, float):
        return value.type, data.hex()
    return value.type, data


def is_generic(declaration: ast.Function) -> bool:
    return any(one.comptime or one.type is None for one in declaration.parameters) or depends(declaration)


def depends(declaration: ast.Function) -> bool:
    """Whether the types of parameters or the result name parameters."""
    names = {one.name for one in declaration.parameters if one.name}
    if not names:
        return False
    types = [*(one.type for one in declaration.parameters if one.type is not None), declaration.result]
    return any(isinstance(node, ast.Name) and node.text in names for one in types for node in nodes(one))
