"""What the tests of CSL share: the wrong programs with their messages, and short forms of trees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from openwafer.csl import DiagnosticError, Source
from openwafer.csl.syntax import Dialect, ast, parse

WRONG = Path(__file__).with_name("wrong_programs.txt")


def wrong_programs() -> list[tuple[str, str, str]]:
    """Name, program and message of each: `=== name`, the program, `---`, the message."""
    found = []
    for part in WRONG.read_text("utf-8").split("=== ")[1:]:
        name, _, rest = part.partition("\n")
        program, _, message = rest.partition("\n---\n")
        found.append((name, program + "\n", message.rstrip("\n")))
    return found


def tree(text: str, dialect: Dialect = "1.4") -> ast.File:
    return parse(Source("t.csl", text), dialect=dialect)


def message(text: str, dialect: Dialect = "1.4") -> str:
    """The errors of a program as a user reads them; empty if there are none."""
    try:
        tree(text, dialect)
    except DiagnosticError as error:
        return str(error)
    return ""


def short(node: object) -> str:
    """A tree as an s-expression: the class and its parts; what is absent or false is left out."""
    match node:
        case ast.Name() | ast.Integer() | ast.Float() | ast.Character() | ast.String():
            return node.text
        case ast.Bool():
            return str(node.value).lower()
        case ast.Binary() | ast.Assign():
            left, right = (
                (node.left, node.right) if isinstance(node, ast.Binary) else (node.target, node.value)
            )
            return f"({node.operator} {short(left)} {short(right)})"
        case ast.Unary():
            return f"({node.operator} {short(node.operand)})"
        case ast.Node():
            parts = [getattr(node, field.name) for field in dataclasses.fields(node) if field.name != "span"]
            words = [short(part) for part in parts if part not in (None, "", False)]
            return f"({' '.join([type(node).__name__.lower(), *words])})"
        case tuple():
            return f"[{' '.join(map(short, node))}]"
        case True:
            return "yes"
        case _:
            return str(node)
