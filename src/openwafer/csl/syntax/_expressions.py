"""Expressions: precedence climbing over operands."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from openwafer.csl._source import Span
from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax import _literals as literals
from openwafer.csl.syntax._tokens import COMPARISON, KEYWORDS, PRECEDENCE, PREFIXES, words
from openwafer.csl.syntax._types import TypeParser

_STARTS: Final = frozenset(
    words(
        "name builtin integer float string character true false ( . { [ * & - ~ ! | fn task if switch "
        "comptime struct enum union return break continue asm"
    )
)
_WORDS_OF_C: Final = {"&&": "and", "||": "or"}
_TYPE_LIKE: Final = (
    ast.Name, ast.Member, ast.Call, ast.Builtin, ast.PointerType, ast.ArrayType, ast.StructType,
)  # fmt: skip


class ExpressionParser(TypeParser):
    """Parses expressions; blocks and branches are for a class below this one."""

    @abstractmethod
    def block(self, label: str | None = None) -> ast.Block:
        """`{ ... }`."""

    @abstractmethod
    def if_(self) -> ast.If:
        """`if ...`."""

    @abstractmethod
    def switch(self) -> ast.Switch:
        """`switch ...`."""

    def expression(self, minimum: int = 1) -> ast.Expression:
        """An expression of operators that bind at least as tightly as `minimum`."""
        self.enter()
        start = self.token.start
        left = self._prefix()
        while True:
            operator = self.kind
            precedence = PRECEDENCE.get(operator)
            if precedence is None:
                if operator not in _WORDS_OF_C:
                    break
                word = _WORDS_OF_C[operator]
                self.error(
                    self.here,
                    f"CSL has no `{operator}`",
                    hint=f"write `a {word} b`",
                )
                operator, precedence = word, PRECEDENCE[word]
            if precedence < minimum:
                break
            if operator == "-" and self._decrement():
                continue
            self.advance()
            right = self.expression(precedence + 1)
            left = ast.Binary(self.span(start), operator, left, right)
            if precedence == COMPARISON and PRECEDENCE.get(self.kind) == COMPARISON:
                self.error(self.here, "comparisons do not chain", hint="write `a < b and b < c`")
        self.nesting -= 1
        return left

    def _prefix(self) -> ast.Expression:
        if self.kind in PREFIXES:
            self.enter()
            token = self.advance()
            operand = self._prefix()
            self.nesting -= 1
            return ast.Unary(self.span(token.start), token.kind, operand)
        start = self.token.start
        if self.kind in ("name", "builtin", "("):  # nearly every operand
            if self.kind == "name" and self.ahead().kind == ":" and self.ahead(2).kind == "{":
                return self.labelled_block()
            if self.kind != "(" and not self.at_structure():
                return self.postfix(self._word(), start, literals=True)
        if self.kind in ("*", "[", "fn", "task"):
            base = self.type_()
            if self.kind == "{" and isinstance(base, ast.FunctionType):
                self.fail(
                    "no body", "functions have names: declare `fn name(...) T { ... }` and write `name`"
                )
            return self.postfix(base, start, literals=True)
        return self.postfix(self._atom(), start, literals=True)

    def _word(self) -> ast.Expression:
        if self.kind == "builtin":
            return self.builtin()
        token = self.advance()
        return ast.Name(self.span(token.start), token.text)

    def _atom(self) -> ast.Expression:
        start, text = self.token.start, self.token.text
        match self.kind:
            case "integer":
                self.advance()
                return ast.Integer(self.span(start), text, literals.integer_value(text))
            case "float":
                self.advance()
                return ast.Float(self.span(start), text, literals.float_value(text))
            case "string":
                self.advance()
                return ast.String(self.span(start), text, literals.string_value(text))
            case "character":
                self.advance()
                return ast.Character(self.span(start), text, literals.character_value(text))
            case "true" | "false":
                self.advance()
                return ast.Bool(self.span(start), text == "true")
            case ".":
                return self._anonymous(start)
            case "(":
                return self.grouped()
            case "{":
                return self.block()
            case "if":
                return self.if_()
            case "switch":
                return self.switch()
            case "comptime":
                self.advance()
                operand = self.expression()
                return ast.Comptime(self.span(start), operand)
            case "|":
                return self._lambda(start)
            case "name" | "struct" | "union" | "extern":
                return self.structure()
            case "enum":
                return self.enumeration()
            case "return":
                self.advance()
                value = self.expression() if self.kind in _STARTS else None
                return ast.Return(self.span(start), value)
            case "break":
                self.advance()
                label = self.label()
                value = self.expression() if self.kind in _STARTS else None
                return ast.Break(self.span(start), label, value)
            case "continue":
                self.advance()
                label = self.label()
                return ast.Continue(self.span(start), label)
            case "asm":
                return self._assembly(start)
            case "++":
                self._increment()
                self.advance()
                return self._prefix()
        self.fail("an expression", self._why_none())

    def _why_none(self) -> str:
        if self.kind in ("while", "for"):
            return "loops are statements and have no value; use a labelled block and `break :label value`"
        if self.kind == "=":
            return "compare with `==`"
        return ""

    # --- behind an operand --------------------------------------------------------------------------------

    def postfix(self, base: ast.Expression, start: int, *, literals: bool) -> ast.Expression:
        """`base` with the calls, indices and members behind it, and with `literals` also `{ ... }`."""
        while True:
            match self.kind:
                case "(":
                    arguments = self.items(")", self.advance(), self.expression)
                    base = ast.Call(self.span(start), base, arguments)
                case ".":
                    self.advance()
                    name = self._member()
                    base = ast.Member(self.span(start), base, name)
                case "[":
                    opened = self.advance()
                    if self.token.kind == "]":
                        self.fail("an index", "`a[i]`, or `a[i, j]` for two dimensions", opened)
                    indices = self.items("]", opened, self.expression)
                    base = ast.Index(self.span(start), base, indices)
                case ".*":
                    self.advance()
                    base = ast.Dereference(self.span(start), base)
                case "{" if literals and isinstance(base, _TYPE_LIKE):
                    base = self._entries(base, start)
                case "++":
                    self._increment()
                    self.advance()
                case "->":
                    self.fail("`.`", "a member behind a pointer is written `p.*.member`")
                case _:
                    return base

    def _member(self) -> str:
        """A word of CSL may be a member's name: nothing else can follow the `.` on its line."""
        if self.kind == "name" or (self.kind in KEYWORDS and not self.first_on_line()):
            return self.advance().text
        hint = ""
        if self.ahead(-2).kind == "integer":
            hint = f"a float has digits behind its point: `{self.ahead(-2).text}.0`"
        if self.kind == "integer":
            hint = "the elements of a tuple are `t[0]`, `t[1]`; a float is written `0.5`"
        self.fail("the name of a member", hint)

    def _increment(self) -> None:
        self.error(self.here, "CSL has no `++`", hint="write `i += 1`")

    def _decrement(self) -> bool:
        """Report and pass `i--;`, which would else read as the start of `i - (-...)`."""
        second, behind = self.ahead(), self.ahead(2)
        if second.kind != "-" or second.start != self.token.end or behind.kind not in (";", ")"):
            return False
        self.error(Span(self.source, self.token.start, second.end), "CSL has no `--`", hint="write `i -= 1`")
        self.advance()
        self.advance()
        return True

    # --- larger operands ----------------------------------------------------------------------------------

    def labelled_block(self) -> ast.Block:
        """`label: { ... }`."""
        label = self.advance().text
        self.advance()
        return self.block(label)

    def label(self) -> str | None:
        """`:label` behind `break` and `continue`, if there is one."""
        return self.name("a label") if self.accept(":") else None

    def _anonymous(self, start: int) -> ast.Expression:
        self.advance()
        if self.kind == "name":
            name = self.token.text
            self.fail("`{`", f"an element of an enumeration is written with its type: `mode.{name}`")
        if self.kind == "integer":
            self.fail("`{`", f"a float begins with a digit: `0.{self.token.text}`")
        if self.kind != "{":
            self.fail("`{`", "a struct is written `.{ .x = 1, .y = 2 }` or `.{ 1, 2 }`")
        return self._entries(None, start)

    def _entries(self, type_: ast.Expression | None, start: int) -> ast.Aggregate:
        """`{ .x = 1, .y = 2 }` or `{ 1, 2 }`; the first entry decides which."""
        opened = self.advance()
        if self.kind == "." and self.ahead().kind != "{":
            named = self.items("}", opened, self._field_value)
            return ast.Aggregate(self.span(start), type_, named)
        plain = self.items("}", opened, self._plain_value)
        return ast.Aggregate(self.span(start), type_, plain)

    def _field_value(self) -> ast.FieldValue:
        start = self.token.start
        if self.kind != ".":
            hint = "every entry has a name if the first one has: `.x = 1`"
            if self.kind == "name" and self.ahead().kind in ("=", ":"):
                hint = f"a field is written with a dot: `.{self.token.text} = ...`"
            self.fail("`.` and the name of a field", hint)
        self.advance()
        name = self._member()
        self.expect("=", f"a field is written `.{name} = value`")
        value = self.expression()
        return ast.FieldValue(self.span(start), name, value)

    def _plain_value(self) -> ast.Expression:
        if self.kind == "." and self.ahead().kind == "name":
            self.fail("a value", "no entry has a name if the first one has none")
        if self.kind == "name" and self.ahead().kind in ("=", ":") and self.ahead(2).kind != "{":
            name = self.token.text
            self.advance()
            self.fail("`,` or `}`", f"a field is written with a dot: `.{name} = ...`")
        return self.expression()

    def _lambda(self, start: int) -> ast.Expression:
        opened = self.advance()
        names = self.items("|", opened, lambda: self.name("an index"))
        brace = self.expect("{", "the extents follow the indices: `|i|{N} -> a[i]`")
        extents = self.items("}", brace, self.expression)
        if len(extents) != len(names):
            self.error(
                Span(self.source, brace.start, self.tokens[self.index - 1].end),
                f"{len(names)} indices with {len(extents)} extents",
                hint="every index has one extent: `|i, j|{N, M} -> a[i, j]`",
            )
        self.expect("->", "the access follows the extents: `|i|{N} -> a[i]`")
        body = self.expression()
        return ast.Lambda(self.span(start), names, extents, body)

    def _assembly(self, start: int) -> ast.Expression:
        self.advance()
        volatile = self.token.text == "volatile"
        if volatile:
            self.advance()
        opened = self.expect("(", "`asm volatile (text : outputs : inputs : clobbers)`")
        text = self.expression()
        self.accept(",")
        lists: list[tuple[ast.Operand, ...]] = [(), ()]
        clobbers: list[ast.Expression] = []
        for part in range(3):
            if not self.accept(":"):
                break
            if part < 2:
                lists[part] = self._operands()
            else:
                while self.kind == "string":
                    clobbers.append(self._atom())
                    if not self.accept(","):
                        break
        self.expect(")", opened=opened)
        return ast.Assembly(self.span(start), volatile, text, lists[0], lists[1], tuple(clobbers))

    def _operands(self) -> tuple[ast.Operand, ...]:
        found = []
        while self.kind == "[":
            opened = self.advance()
            name = self.name("an operand")
            self.expect("]", opened=opened)
            if self.kind != "string":
                self.fail("a constraint", '`[name] "=r" (variable)`')
            constraint = self._atom()
            if self.kind != "(":
                self.fail("`(`", '`[name] "=r" (variable)`')
            value = self.grouped()
            found.append(ast.Operand(self.span(opened.start), name, constraint, value))
            if not self.accept(","):
                break
        return tuple(found)
