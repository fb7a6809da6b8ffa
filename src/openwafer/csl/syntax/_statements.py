"""Blocks, branches, loops and what stands in them."""

from __future__ import annotations

from typing import Final, Literal, NoReturn, cast

from openwafer.csl._source import Span
from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax._cursor import Panic
from openwafer.csl.syntax._expressions import ExpressionParser
from openwafer.csl.syntax._shape import ends_with_brace
from openwafer.csl.syntax._tokens import ASSIGNMENTS, Token

_ATTRIBUTES: Final = frozenset(("align", "linkname", "linksection"))
_ELSE_IFS: Final = frozenset(("elif", "elseif", "elsif"))
_TYPES_OF_C: Final = {
    "int": "i32",
    "unsigned": "u32",
    "short": "i16",
    "long": "i64",
    "char": "u8",
    "float": "f32",
    "auto": "i16",
    "let": "i16",
}
_FOR: Final = "`for (@range(i16, n)) |i| { ... }`; with a condition: `while (i < n) : (i += 1) { ... }`"


class StatementParser(ExpressionParser):
    """Parses statements; declarations are for the class below this one."""

    def block(self, label: str | None = None) -> ast.Block:
        """`{ ... }`; errors inside stay inside."""
        start = self.tokens[self.index - 2].start if label is not None else self.token.start
        opened = self.expect("{")
        self.enter()
        statements: list[ast.Statement] = []
        while self.kind != "}":
            if self.kind == "end" or self.begins_declaration():
                self.unclosed(opened)
            first, nesting = self.index, self.nesting
            try:
                statements.append(self.statement())
            except Panic:
                self.nesting = nesting
                self.skip_statement(first)
        self.advance()
        self.nesting -= 1
        return ast.Block(self.span(start), label, tuple(statements))

    def statement(self) -> ast.Statement:
        """A declaration or an action, with the `;` behind it."""
        match self.kind:
            case "const" | "var":
                return self.variable(self.token.start, "", False)
            case "comptime" if self.ahead().kind in ("const", "var"):
                start = self.advance().start
                return self.variable(start, "", True)
            case "param" | "layout" | "export":
                self._misplaced()
            case "fn" | "task" if self.ahead().kind != "(":
                self._misplaced()
            case "extern" if self.ahead().kind not in ("struct", "union"):
                self._misplaced()
            case ";":
                self.fail("a statement", "remove this `;`")
            case "else":
                self.fail("a statement", "this `else` belongs to no `if`; is a `}` too many before it?")
            case "bad":
                raise Panic
        node = self.action()
        if not ends_with_brace(node):
            self._end(node)
        else:
            self.accept(";")
        return node

    def _misplaced(self) -> NoReturn:
        self.fail(
            "a statement", f"`{self.kind}` stands between the declarations of a file, not inside others"
        )

    def action(self) -> ast.Action:
        """What a branch, a loop or a prong does: a block, or one statement without its `;`."""
        self.enter()
        node = self._action()
        self.nesting -= 1
        return node

    def _action(self) -> ast.Action:
        match self.kind:
            case "{":
                return self.block()
            case "if":
                return self.if_()
            case "switch":
                return self.switch()
            case "while" | "for" | "inline":
                return self._loop(None)
            case "name" if self.ahead().kind == ":":
                if self.ahead(2).kind == "{":
                    return self.labelled_block()
                if self.ahead(2).kind in ("while", "for", "inline"):
                    label = self.advance().text
                    self.advance()
                    return self._loop(label)
            case "comptime" if self.ahead().kind == "{":
                start = self.advance().start
                block = self.block()
                return ast.Comptime(self.span(start), block)
            case "const" | "var":
                self.fail("a statement", "a declaration needs a block of its own: `{ ... }`")
            case ";":
                self.fail("a statement or a block", "write `{}` where nothing is to be done")
        return self._assignment()

    def _assignment(self) -> ast.Action:
        start = self.token.start
        target = self.expression()
        if self.kind not in ASSIGNMENTS:
            return target
        operator = self.advance().kind
        value = self.expression()
        if self.kind in ASSIGNMENTS:
            self.fail("the end of the assignment", "assignments do not chain; write two statements")
        return ast.Assign(self.span(start), operator, target, value)

    def _end(self, node: ast.Action) -> None:
        if isinstance(node, ast.Name) and not self.first_on_line():
            if self.kind == "name":
                name, type_ = self.token.text, _TYPES_OF_C.get(node.text, node.text)
                span = Span(self.source, node.span.start, self.token.end)
                hint = f"variables are declared `var {name}: {type_} = ...;` or `const {name} = ...;`"
                self.error(span, f"`{node.text} {name}` declares nothing", hint=hint)
                raise Panic
            if self.kind == ":" and self.ahead().kind == "=":
                self.fail("`;` or `=`", f"new variables are declared `var {node.text} = ...;`")
        self.semicolon("this statement")

    # --- variables, also between the declarations of a file -----------------------------------------------

    def variable(self, start: int, storage: Literal["", "export", "extern"], comptime: bool) -> ast.Variable:
        """`param`, `const` or `var`, from that word to the `;`."""
        kind = cast(Literal["param", "const", "var"], self.advance().kind)
        of = {"param": "a parameter", "const": "a constant", "var": "a variable"}[kind]
        name = self.name(of)
        type_ = self._variable_type(name, kind)
        attributes = self.attributes()
        value = self.expression() if self.accept("=") else None
        node = ast.Variable(self.span(start), kind, storage, comptime, name, type_, attributes, value)
        if self.kind == "==":
            self.fail("`=`", "`==` compares; the value follows a single `=`")
        self.semicolon(f"the declaration of `{name}`")
        if value is None and not storage and (kind == "const" or (kind == "var" and type_ is None)):
            wanted = "a value" if kind == "const" else "a type or a value"
            hint = f"write `{kind} {name} = ...;`" + (f" or `var {name}: i16;`" if kind == "var" else "")
            self.error(node.span, f"`{kind} {name}` needs {wanted}", hint=hint)
        elif value is not None and storage == "extern":
            self.error(value.span, f"`extern {kind} {name}` is defined elsewhere", hint="remove the value")
        return node

    def _variable_type(self, name: str, kind: str) -> ast.Expression | None:
        if self.accept(":"):
            if self.kind == "=":
                self.fail("a type", f"without a type there is no colon: `{kind} {name} = ...;`")
            return self.type_at("a type")
        if self.kind in ("name", "builtin", "[", "*"):
            start = self.token
            self.error(
                self.here, expected="`:` before the type", hint=f"write `{kind} {name}: {start.text}...`"
            )
            return self.type_()
        return None

    def attributes(self) -> tuple[ast.Attribute, ...]:
        """`align(...)`, `linkname(...)`, `linksection(...)`, in any order."""
        found = []
        while self.kind in _ATTRIBUTES:
            token = self.advance()
            name = cast(Literal["align", "linkname", "linksection"], token.kind)
            if self.kind != "(":
                self.fail(f"`(` after `{name}`")
            value = self.grouped()
            found.append(ast.Attribute(self.span(token.start), name, value))
        return tuple(found)

    # --- branches -----------------------------------------------------------------------------------------

    def if_(self) -> ast.If:
        """`if (a) x else if (b) y else z`."""
        start = self.token.start
        arms: list[ast.Arm] = []
        otherwise = None
        while True:
            arm = self.advance().start
            condition = self._condition("if")
            body = self.action()
            arms.append(ast.Arm(self.span(arm), condition, body))
            if self.kind == ";" and self.ahead().kind == "else":
                self.error(self.here, "this `;` ends the `if` before its `else`", hint="remove the `;`")
                self.advance()
            if self.token.text in _ELSE_IFS and ends_with_brace(body):
                self.error(self.here, f"CSL has no `{self.token.text}`", hint="write `else if`")
                continue
            if not self.accept("else"):
                break
            if self.kind != "if":
                otherwise = self.action()
                break
        return ast.If(self.span(start), tuple(arms), otherwise)

    def _condition(self, word: str) -> ast.Expression:
        if self.kind != "(":
            self.fail("`(`", f"the condition stands in parentheses: `{word} (a < b)`")
        opened = self.advance()
        condition = self.expression()
        if self.kind == "=":
            self.error(self.here, "`=` assigns and has no value", hint="compare with `==`")
            self.advance()
            right = self.expression()
            condition = ast.Binary(self.span(condition.span.start), "==", condition, right)
        self.expect(")", opened=opened)
        return condition

    def switch(self) -> ast.Switch:
        """`switch (a) { 1, 2 => x, 3...5 => { ... }, else => y }`."""
        start = self.advance().start
        if self.kind != "(":
            self.fail("`(`", "what is switched over stands in parentheses: `switch (a) { ... }`")
        subject = self.grouped()
        opened = self.expect("{")
        prongs: list[ast.Prong] = []
        while self.kind != "}":
            prongs.append(self._prong(opened))
            if self.accept(",") or self.kind == "}":
                continue
            if self.kind == ";" or (self.first_on_line() and ends_with_brace(prongs[-1].body)):
                self.error(self.here, expected="`,` or `}`", hint="a comma separates the prongs of a switch")
                self.accept(";")
            else:
                self.fail("`,` or `}`", "a comma separates the prongs of a switch", opened)
        self.advance()
        return ast.Switch(self.span(start), subject, tuple(prongs))

    def _prong(self, opened: Token) -> ast.Prong:
        start = self.token.start
        cases: list[ast.Expression | ast.Range] = []
        if not self.accept("else"):
            if self.token.text in ("case", "default") and self.ahead().kind not in ("=>", ",", "."):
                hint = "a prong is written `1, 2 => ...,`, the last one `else => ...`"
                self.fail("a value", hint, opened)
            while self.kind != "=>":
                cases.append(self._case())
                if not self.accept(","):
                    break
        self.expect("=>", "a prong is written `1, 2 => ...,`", opened)
        body = self.action()
        return ast.Prong(self.span(start), tuple(cases), body)

    def _case(self) -> ast.Expression | ast.Range:
        first = self.expression()
        if not self.accept("..."):
            return first
        last = self.expression()
        return ast.Range(self.span(first.span.start), first, last)

    # --- loops --------------------------------------------------------------------------------------------

    def _loop(self, label: str | None) -> ast.While | ast.For:
        start = self.tokens[self.index - 2].start if label is not None else self.token.start
        inline = self.accept("inline")
        if self.kind == "while":
            return self._while(start, label, inline)
        if self.kind == "for":
            return self._for(start, label, inline)
        self.fail("`for` or `while`", "inside functions only loops are `inline`")

    def _while(self, start: int, label: str | None, inline: bool) -> ast.While:
        self.advance()
        condition = self._condition("while")
        step = None
        if self.accept(":"):
            hint = "what is done after each round stands in parentheses: `while (i < n) : (i += 1)`"
            opened = self.expect("(", hint)
            step = self._assignment()
            self.expect(")", opened=opened)
        body = self.action()
        return ast.While(self.span(start), label, inline, condition, step, body)

    def _for(self, start: int, label: str | None, inline: bool) -> ast.For:
        self.advance()
        opened = self.expect("(", "`for (sequence) |element| { ... }`")
        if self.kind in ("const", "var"):
            self._for_of_c()
        sequence = self.expression()
        if self.kind in ("=", ";", "name", "..."):
            self._for_of_c()
        self.expect(")", opened=opened)
        if self.kind != "|":
            self.fail("`|` and a name for the element", "`for (sequence) |element| { ... }`")
        bar = self.advance()
        names = self.items("|", bar, lambda: self.name("the element"))
        if not 1 <= len(names) <= 2:
            self.error(
                self.span(bar.start),
                f"a loop names 1 or 2 things, not {len(names)}",
                hint="`|element|` or `|element, index|`",
            )
            names = (*names, "_")[:2]
        body = self.action()
        index = names[1] if len(names) == 2 else None
        return ast.For(self.span(start), label, inline, sequence, names[0], index, body)

    def _for_of_c(self) -> NoReturn:
        self.error(self.here, expected="a range or an array in parentheses", hint=_FOR)
        while self.kind not in ("{", "}", "end"):  # its `;` end no statement
            self.advance()
        raise Panic
