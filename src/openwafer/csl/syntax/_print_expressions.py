"""Expressions as text, with the parentheses that they need and no others."""

from __future__ import annotations

from abc import ABC, abstractmethod

from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax._tokens import PRECEDENCE

_WIDTH = 100
_UNARY = 8
_ATOM = 9

_BASES = (ast.Name, ast.Builtin, ast.Member, ast.Index, ast.Call, ast.Dereference)
"""What calls, members and indices follow without parentheses, also where a type is expected."""


class ExpressionPrinter(ABC):
    """Expressions and types; blocks and statements are for the class below this one."""

    def __init__(self) -> None:
        self.level = 0  # of indentation

    @abstractmethod
    def block(self, node: ast.Block) -> str:
        """`{ ... }`."""

    @abstractmethod
    def action(self, node: ast.Action, *, before_else: bool = False) -> str:
        """A statement without its `;`."""

    def expression(self, node: ast.Expression, *, before_else: bool = False) -> str:
        """An expression where any may stand. With `before_else` no `if` at its end may take what follows."""
        match node:
            case ast.If():
                text = self._if(node, before_else)
                return f"({text})" if before_else and node.otherwise is None else text
            case ast.Comptime():
                if isinstance(node.operand, ast.Block) and node.operand.label is None:
                    return f"comptime {self.block(node.operand)}"
                return f"comptime {self.expression(node.operand, before_else=before_else)}"
            case ast.Return():
                if node.value is None:
                    return "return"
                return f"return {self.expression(node.value, before_else=before_else)}"
            case ast.Break():
                label = f" :{node.label}" if node.label is not None else ""
                if node.value is None:
                    return f"break{label}"
                return f"break{label} {self.expression(node.value, before_else=before_else)}"
            case ast.Continue():
                return "continue" + (f" :{node.label}" if node.label is not None else "")
            case ast.Lambda():
                extents = ", ".join(map(self.expression, node.extents))
                body = self.expression(node.body, before_else=before_else)
                return f"|{', '.join(node.names)}|{{{extents}}} -> {body}"
            case ast.Switch():
                return self._switch(node)
            case ast.Block():
                return self.block(node)
            case _:
                return self.operand(node)

    def operand(self, node: ast.Expression, minimum: int = 1) -> str:
        """An operand of operators that bind less tightly than `minimum`, in parentheses where it must be.

        A long chain of operators is no recursion: it is walked from its end to its beginning.
        """
        front, tail = "", [""]
        while True:
            match node:
                case ast.Binary():
                    precedence = PRECEDENCE[node.operator]
                    if precedence < minimum:
                        front, minimum = f"{front}(", 1
                        tail.append(")")
                    tail.append(f" {node.operator} {self.operand(node.right, precedence + 1)}")
                    # Comparisons do not chain, so that the left one needs parentheses too.
                    minimum = precedence + 1 if precedence == PRECEDENCE["=="] else precedence
                    node = node.left
                    continue
                case ast.Member():
                    tail.append(f".{node.name}")
                case ast.Dereference():
                    tail.append(".*")
                case ast.Index():
                    tail.append(f"[{', '.join(map(self.expression, node.indices))}]")
                case ast.Call():
                    tail.append(self._list("(", [self.expression(one) for one in node.arguments], ")"))
                case _:
                    break
            node = node.base if not isinstance(node, ast.Call) else node.function
            if not isinstance(node, _BASES):
                front, minimum = f"{front}(", 1
                tail.append(")")
                tail.append(self.expression(node))
                return front + "".join(reversed(tail))
            minimum = _ATOM
        if not isinstance(node, ast.Unary):
            return front + self._atom(node) + "".join(reversed(tail))
        inner = self.operand(node.operand, _UNARY)
        space = " " if node.operator == "&" and inner.startswith("&") else ""
        return f"{front}{node.operator}{space}{inner}" + "".join(reversed(tail))

    def _atom(self, node: ast.Expression) -> str:
        match node:
            case ast.Name() | ast.Integer() | ast.Float() | ast.String() | ast.Character():
                return node.text
            case ast.Bool():
                return "true" if node.value else "false"
            case ast.Builtin():
                return f"@{node.name}" + self._list(
                    "(", [self.expression(one) for one in node.arguments], ")"
                )
            case ast.Aggregate():
                return self._aggregate(node)
            case ast.PointerType() | ast.ArrayType() | ast.FunctionType():
                return self.type_(node)
            case ast.EnumType():
                type_ = f"({self.type_(node.type)})" if node.type is not None else ""
                return f"enum{type_} " + self._list("{", [self._element(one) for one in node.elements], "}")
            case ast.StructType():
                fields = [f"{one.name}: {self.type_(one.type)}" for one in node.fields]
                return f"{node.layout} {node.kind} ".lstrip() + self._list("{", fields, "}")
            case ast.Assembly():
                return self._assembly(node)
            case _:
                return f"({self.expression(node)})"

    # --- types --------------------------------------------------------------------------------------------

    def type_(self, node: ast.Expression) -> str:
        """A type where one is expected; other expressions stand in parentheses there."""
        match node:
            case ast.PointerType():
                const = "const " if node.const else ""
                return f"{'[*]' if node.many else '*'}{const}{self.type_(node.target)}"
            case ast.ArrayType():
                extents = ", ".join(map(self.expression, node.extents))
                return f"[{extents}]{self.type_(node.element)}"
            case ast.FunctionType():
                return f"{node.kind}({self.parameters(node.parameters)}) {self.type_(node.result)}"
            case ast.EnumType() | ast.StructType():
                return self._atom(node)
            case _ if isinstance(node, _BASES):
                return self.operand(node)
            case _:
                return f"({self.expression(node)})"

    def parameters(self, parameters: tuple[ast.Parameter, ...]) -> str:
        """The parameters of a function, without the parentheses."""
        texts = []
        for one in parameters:
            type_ = "anytype" if one.type is None else self.type_(one.type)
            name = "" if one.name is None else f"{'comptime ' * one.comptime}{one.name}: "
            texts.append(f"{name}{type_}")
        return ", ".join(texts)

    # --- larger parts -------------------------------------------------------------------------------------

    def _list(self, before: str, texts: list[str], after: str) -> str:
        """Between brackets: on one line if that fits, else a line for each."""
        blank = " " if before == "{" and texts else ""
        line = f"{before}{blank}{', '.join(texts)}{blank}{after}"
        if before == "(" or ("\n" not in line and len(line) + 2 * self.level < _WIDTH):
            return line
        pad = "  " * (self.level + 1)
        body = "".join(f"{pad}{text.replace(chr(10), chr(10) + '  ')},\n" for text in texts)
        return f"{before}\n{body}{'  ' * self.level}{after}"

    def _aggregate(self, node: ast.Aggregate) -> str:
        entries = [
            f".{one.name} = {self.expression(one.value)}"
            if isinstance(one, ast.FieldValue)
            else self.expression(one)
            for one in node.entries
        ]
        if node.type is None:
            return "." + self._list("{", entries, "}")
        return f"{self.type_(node.type)} {self._list('{', entries, '}')}"

    def _element(self, node: ast.Element) -> str:
        return node.name if node.value is None else f"{node.name} = {self.expression(node.value)}"

    def _if(self, node: ast.If, before_else: bool) -> str:
        parts = []
        for number, arm in enumerate(node.arms):
            last = number == len(node.arms) - 1 and node.otherwise is None
            body = self.action(arm.body, before_else=not last)
            parts.append(f"if ({self.expression(arm.condition)}) {body}")
        if node.otherwise is not None:
            body = self.action(node.otherwise, before_else=before_else)
            # An `if` right behind `else` would read as one more arm.
            parts.append(f"({body})" if body.startswith("if ") else body)
        return " else ".join(parts)

    def _switch(self, node: ast.Switch) -> str:
        head = f"switch ({self.expression(node.subject)}) "
        self.level += 1
        pad, lines = "  " * self.level, []
        for prong in node.prongs:
            cases = ", ".join(map(self._case, prong.cases)) or "else"
            lines.append(f"{pad}{cases} => {self.action(prong.body)},\n")
        self.level -= 1
        return f"{head}{{\n{''.join(lines)}{'  ' * self.level}}}"

    def _case(self, node: ast.Expression | ast.Range) -> str:
        if isinstance(node, ast.Range):
            return f"{self.expression(node.first)}...{self.expression(node.last)}"
        return self.expression(node)

    def _assembly(self, node: ast.Assembly) -> str:
        parts = [self.expression(node.text)]
        for operands in (node.outputs, node.inputs):
            texts = [
                f"[{one.name}] {self.expression(one.constraint)} ({self.expression(one.value)})"
                for one in operands
            ]
            parts.append(", ".join(texts))
        parts.append(", ".join(map(self.expression, node.clobbers)))
        while parts[-1] == "":
            parts.pop()
        return f"asm {'volatile ' * node.volatile}({' : '.join(parts)})"
