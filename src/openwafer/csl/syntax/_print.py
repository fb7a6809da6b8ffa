"""A tree as text: one canonical form, which parses to an equal tree."""

from __future__ import annotations

from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax._print_expressions import ExpressionPrinter
from openwafer.csl.syntax._shape import ends_with_brace


def print_file(file: ast.File) -> str:
    """The canonical text of a file: two blanks per level, an empty line around functions; no comments.

    Parsing it again, in the dialect that the tree came from, gives an equal tree.
    """
    printer = StatementPrinter()
    parts: list[str] = []
    for before, node in zip((None, *file.declarations), file.declarations, strict=False):
        if before is not None and not (isinstance(before, ast.Variable) and isinstance(node, ast.Variable)):
            parts.append("")
        parts.append(printer.declaration(node))
    return "".join(f"{part}\n" for part in parts)


class StatementPrinter(ExpressionPrinter):
    """Statements and declarations."""

    def declaration(self, node: ast.Declaration) -> str:
        """A declaration without the line break behind it."""
        match node:
            case ast.Variable():
                return self._variable(node)
            case ast.Stage():
                return f"{node.kind} {self.block(node.body)}"
            case ast.Function():
                words = [word for word in (node.storage, node.inline, node.kind) if word]
                head = f"{' '.join(words)} {node.name}({self.parameters(node.parameters)})"
                head += self._attributes(node.attributes) + f" {self.type_(node.result)}"
                return f"{head};" if node.body is None else f"{head} {self.block(node.body)}"

    def _variable(self, node: ast.Variable) -> str:
        words = [word for word in (node.storage, "comptime" if node.comptime else "", node.kind) if word]
        text = f"{' '.join(words)} {node.name}"
        if node.type is not None:
            text += f": {self.type_(node.type)}"
        text += self._attributes(node.attributes)
        if node.value is not None:
            text += f" = {self.expression(node.value)}"
        return f"{text};"

    def _attributes(self, attributes: tuple[ast.Attribute, ...]) -> str:
        return "".join(f" {one.name}({self.expression(one.value)})" for one in attributes)

    def block(self, node: ast.Block) -> str:
        """`{ ... }` with its label; its lines are indented by what stands around it."""
        label = f"{node.label}: " if node.label is not None else ""
        if not node.statements:
            return f"{label}{{}}"
        self.level += 1
        pad = "  " * self.level
        lines = "".join(f"{pad}{self.statement(one)}\n" for one in node.statements)
        self.level -= 1
        return f"{label}{{\n{lines}{'  ' * self.level}}}"

    def statement(self, node: ast.Statement) -> str:
        """A statement with its `;`, if it has one."""
        if isinstance(node, ast.Variable):
            return self._variable(node)
        text = self.action(node)
        return text if ends_with_brace(node) and text.endswith("}") else f"{text};"

    def action(self, node: ast.Action, *, before_else: bool = False) -> str:
        """A statement without its `;`. With `before_else` no `if` at its end may take what follows."""
        match node:
            case ast.Assign():
                value = self.expression(node.value, before_else=before_else)
                return f"{self.operand(node.target)} {node.operator} {value}"
            case ast.While():
                step = f" : ({self.action(node.step)})" if node.step is not None else ""
                head = f"while ({self.expression(node.condition)}){step} "
                return self._loop(node) + head + self.action(node.body, before_else=before_else)
            case ast.For():
                names = node.element if node.index is None else f"{node.element}, {node.index}"
                head = f"for ({self.expression(node.sequence)}) |{names}| "
                return self._loop(node) + head + self.action(node.body, before_else=before_else)
            case _:
                return self.expression(node, before_else=before_else)

    def _loop(self, node: ast.While | ast.For) -> str:
        return f"{node.label}: " * (node.label is not None) + "inline " * node.inline
