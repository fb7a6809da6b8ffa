"""Random trees: every construct of the language, in every place where it may stand."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from hypothesis import strategies as st

from openwafer.csl import Source, Span
from openwafer.csl.syntax import ast

AT = Span(Source("made", ""), 0, 0)
names = st.sampled_from(["a", "b", "foo", "x1", "packed", "volatile", "i16", "_"])
labels = st.none() | st.sampled_from(["blk", "outer"])


def node(kind: type, *parts: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, st.just(AT), *parts)


def tuples(of: st.SearchStrategy[Any], low: int = 0, high: int = 2) -> st.SearchStrategy[Any]:
    return st.lists(of, min_size=low, max_size=high).map(tuple)


literals = st.sampled_from(
    [
        ast.Integer(AT, "0", 0),
        ast.Integer(AT, "0x1F", 31),
        ast.Float(AT, "1.5e-3", 1.5e-3),
        ast.String(AT, r'"a\n{"', b"a\n{"),
        ast.Character(AT, "'}'", 125),
        ast.Bool(AT, True),
    ]
)


@lru_cache
def expressions(depth: int) -> st.SearchStrategy[Any]:
    simple = node(ast.Name, names) | literals
    if depth == 0:
        return simple
    inner = st.deferred(lambda: expressions(depth - 1))
    kinds = types(depth - 1)
    fields = node(ast.FieldValue, names, inner)
    parameters = tuples(node(ast.Parameter, st.none() | names, st.none() | kinds))
    return st.one_of(
        simple,
        node(ast.Unary, st.sampled_from("-~!&"), inner),
        node(
            ast.Binary, st.sampled_from(["or", "and", "==", "<", "&", "|", "<<", "+", "-", "*"]), inner, inner
        ),
        node(ast.Member, inner, names),
        node(ast.Dereference, inner),
        node(ast.Index, inner, tuples(inner, 1)),
        node(ast.Call, inner, tuples(inner)),
        node(ast.Builtin, names, tuples(inner)),
        node(ast.Comptime, inner),
        node(ast.Aggregate, st.none() | literal_types(depth - 1), tuples(inner) | tuples(fields, 1)),
        tuples(names, 1).flatmap(
            lambda found: node(ast.Lambda, st.just(found), tuples(inner, len(found), len(found)), inner)
        ),
        node(ast.FunctionType, st.sampled_from(["fn", "task"]), parameters, kinds),
        types(depth),
        node(ast.Block, labels, tuples(statements(depth - 1), 0, 3)),
        node(ast.If, tuples(node(ast.Arm, inner, actions(depth - 1)), 1), st.none() | actions(depth - 1)),
        node(
            ast.Switch,
            inner,
            tuples(node(ast.Prong, tuples(inner | node(ast.Range, inner, inner)), actions(depth - 1))),
        ),
        node(ast.Return, st.none() | inner),
        node(ast.Break, labels, st.none() | inner),
        node(ast.Continue, labels),
        node(
            ast.Assembly,
            st.booleans(),
            inner,
            *[tuples(operands(depth))] * 2,
            tuples(literals.filter(is_string)),
        ),
    )


def is_string(one: object) -> bool:
    return isinstance(one, ast.String)


@lru_cache
def operands(depth: int) -> st.SearchStrategy[Any]:
    return node(ast.Operand, names, literals.filter(is_string), expressions(depth - 1))


@lru_cache
def types(depth: int) -> st.SearchStrategy[Any]:
    name = node(ast.Name, names)
    if depth <= 0:
        return name
    inner = st.deferred(lambda: types(depth - 1))
    return st.one_of(
        name,
        node(ast.PointerType, st.booleans(), st.booleans(), inner),
        node(ast.ArrayType, tuples(expressions(depth - 1), 1), inner),
        node(ast.EnumType, st.none() | inner, tuples(node(ast.Element, names, st.none() | name))),
        node(
            ast.StructType,
            st.sampled_from(["struct", "union"]),
            st.sampled_from(["", "packed", "extern"]),
            tuples(node(ast.FieldType, names, inner)),
        ),
        expressions(depth - 1),
    )


@lru_cache
def literal_types(depth: int) -> st.SearchStrategy[Any]:
    """What `{ ... }` may follow: the parser takes it as entries only behind these."""
    of = (ast.Name, ast.Member, ast.Call, ast.Builtin, ast.PointerType, ast.ArrayType, ast.StructType)
    return types(depth).filter(lambda one: isinstance(one, of))


@lru_cache
def actions(depth: int) -> st.SearchStrategy[Any]:
    inner = expressions(max(depth, 0))
    assign = node(ast.Assign, st.sampled_from(["=", "+=", ">>="]), inner, inner)
    if depth <= 0:
        return inner | assign
    body = st.deferred(lambda: actions(depth - 1))
    return st.one_of(
        inner,
        assign,
        node(ast.While, labels, st.booleans(), inner, st.none() | inner | assign, body),
        node(ast.For, labels, st.booleans(), inner, names, st.none() | names, body),
    )


def variables(depth: int, *, kinds: list[str], comptime: Any, storage: Any) -> st.SearchStrategy[Any]:
    attributes = tuples(node(ast.Attribute, st.sampled_from(["align", "linkname"]), expressions(depth)))
    return node(
        ast.Variable, st.sampled_from(kinds), storage, comptime, names, st.none() | types(depth), attributes,
        expressions(depth),
    )  # fmt: skip


@lru_cache
def statements(depth: int) -> st.SearchStrategy[Any]:
    local = variables(max(depth, 0), kinds=["const", "var"], comptime=st.booleans(), storage=st.just(""))
    return actions(depth) | local


def files() -> st.SearchStrategy[Any]:
    block = node(ast.Block, st.none(), tuples(statements(2), 0, 3))
    parameter = node(ast.Parameter, names, st.none() | types(2), st.booleans())
    return node(
        ast.File,
        tuples(
            st.one_of(
                variables(
                    3,
                    kinds=["const", "var"],
                    comptime=st.just(False),
                    storage=st.sampled_from(["", "export"]),
                ),
                node(ast.Stage, st.sampled_from(["comptime", "layout"]), block),
                node(
                    ast.Function,
                    st.sampled_from(["fn", "task"]),
                    st.sampled_from(["", "export"]),
                    st.sampled_from(["", "inline", "noinline"]),
                    names,
                    tuples(parameter),
                    types(2),
                    st.just(()),
                    block,
                ),
            ),
            1,
            3,
        ),
    )
