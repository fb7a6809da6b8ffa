"""Which statements end with their own brace, so that no `;` follows."""

from __future__ import annotations

from openwafer.csl.syntax import _ast as ast


def ends_with_brace(node: ast.Statement) -> bool:
    """Whether the text of a statement ends with the `}` of a block or a switch that it is or ends with."""
    while True:
        match node:
            case ast.Block() | ast.Switch():
                return True
            case ast.Comptime():
                return isinstance(node.operand, ast.Block) and node.operand.label is None
            case ast.While() | ast.For():
                node = node.body
            case ast.If():
                node = node.arms[-1].body if node.otherwise is None else node.otherwise
            case _:
                return False
