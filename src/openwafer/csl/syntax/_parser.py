"""A file: declarations, and the way in."""

from __future__ import annotations

from typing import Final, Literal, NoReturn

from openwafer.csl._diagnostics import DiagnosticError
from openwafer.csl._source import Source
from openwafer.csl.syntax import _ast as ast
from openwafer.csl.syntax._cursor import Panic, Unclosed
from openwafer.csl.syntax._statements import StatementParser

_NO_DECLARATION: Final = {
    "pub": "CSL has no `pub`: every name of a module can be reached from outside",
    "import": 'modules are imported with `const m = @import_module("file.csl");`',
    "struct": "a type gets its name from a constant: `const name = struct { ... };`",
    "union": "a type gets its name from a constant: `const name = union { ... };`",
    "enum": "a type gets its name from a constant: `const name = enum(u16) { ... };`",
    "let": "write `const name = ...;` or `var name = ...;`",
    "static": "CSL has no `static`: write `var name: i16;` outside of functions",
    "function": "functions are declared with `fn`",
    "func": "functions are declared with `fn`",
    "def": "functions are declared with `fn`",
    "void": "functions are declared `fn name() void { ... }`",
}


def parse(source: Source, *, dialect: ast.Dialect = "1.4") -> ast.File:
    """The tree of a file.

    Raises DiagnosticError with everything that is wrong with its syntax, in the order of the text.
    """
    parser = Parser(source, dialect)
    file = parser.file()
    if parser.errors:
        raise DiagnosticError(parser.errors)
    return file


class Parser(StatementParser):
    """Parses one file, once."""

    def file(self) -> ast.File:
        """All declarations that could be read; `errors` holds what was wrong with the others."""
        declarations: list[ast.Declaration] = []
        while self.kind != "end":
            first = self.index
            self.nesting = 0
            try:
                declarations.append(self._declaration())
            except Panic:
                self.skip_declaration(first)
            except Unclosed:
                continue  # the next declaration, or the end, is where the cursor stands
        return ast.File(self.span(0), tuple(declarations))

    def _declaration(self) -> ast.Declaration:
        start, kind = self.token.start, self.kind
        match kind:
            case "param":
                return self.variable(start, "", False)
            case "const" | "var":
                return self.variable(start, "", False)
            case "comptime" if self.ahead().kind in ("const", "var"):
                hint = f"write `{self.ahead().kind}`: what stands outside of functions is comptime anyway"
                self.fail("a declaration", hint)
            case "comptime" | "layout":
                self.advance()
                stage: Literal["comptime", "layout"] = "comptime" if kind == "comptime" else "layout"
                if self.kind != "{":
                    self.fail("`{`", f"`{kind} {{ ... }}` holds statements")
                body = self.block()
                node = ast.Stage(self.span(start), stage, body)
                self.accept(";")
                return node
            case "export" | "extern":
                storage: Literal["export", "extern"] = "export" if kind == "export" else "extern"
                self.advance()
                if self.kind in ("const", "var"):
                    return self.variable(start, storage, False)
                return self._function(start, storage)
            case "fn" | "task" | "inline":
                return self._function(start, "")
        if kind == "name" and self.token.text == "noinline":
            return self._function(start, "")
        self._none()

    def _none(self) -> NoReturn:
        hint = _NO_DECLARATION.get(self.token.text, "")
        if self.kind == "}":
            hint = "this `}` closes nothing"
        elif self.kind == ";":
            hint = "remove this `;`"
        elif self.kind == "builtin" or (self.kind == "name" and self.ahead().kind in ("=", "(", "+=", ".")):
            hint = "statements stand in a function, a task, or a block `comptime { ... }` or `layout { ... }`"
        elif not hint and self.kind == "name" and self.ahead().kind == "name":
            name = self.ahead().text
            hint = f"variables are declared `var {name}: i16 = ...;`, functions `fn {name}() void {{ ... }}`"
        elif self.kind in ("if", "for", "while", "switch", "return"):
            hint = "statements stand in a function, a task, or a block `comptime { ... }` or `layout { ... }`"
        self.fail("a declaration", hint)

    def _function(self, start: int, storage: Literal["", "export", "extern"]) -> ast.Function:
        inline: Literal["", "inline", "noinline"] = ""
        if self.kind == "inline" or self.token.text == "noinline":
            inline = "inline" if self.kind == "inline" else "noinline"
            self.advance()
        kind: Literal["fn", "task"] = "task" if self.kind == "task" else "fn"
        if not self.accept(kind):
            self.fail("`fn`" if inline else "`fn`, `task`, `const` or `var`")
        name = self.name("a function" if kind == "fn" else "a task")
        opened = self.expect("(", f"parameters stand in parentheses: `{kind} {name}() void`")
        parameter = self.parameter_of_type if storage == "extern" else self.parameter
        parameters = self.items(")", opened, parameter)
        attributes = self.attributes()
        result = self._result(name, kind)
        attributes += self.attributes()
        body = None
        if self.kind == "{":
            brace = self.here
            body = self.block()
            if storage == "extern":
                self.error(
                    brace, f"`extern {kind} {name}` is defined elsewhere", hint="write `;`, or `export`"
                )
        elif self.kind == ";" and storage != "extern":
            self.fail("`{`", f"only an `extern` {kind} has no body", opened=None)
        elif storage != "extern":
            self.fail("`{`")
        node = ast.Function(
            self.span(start), kind, storage, inline, name, parameters, result, attributes, body
        )
        if body is None:
            self.semicolon(f"the declaration of `{name}`")
        else:
            self.accept(";")
        return node

    def _result(self, name: str, kind: str) -> ast.Expression:
        """The type behind the parameters; where it is missing the function still has a body to check."""
        if self.kind in ("->", ":"):
            self.error(
                self.here,
                expected="the type of the result",
                hint=f"it follows at once: `{kind} {name}() i16`",
            )
            self.advance()
        if self.kind in ("{", ";"):
            self.error(
                self.here, expected="the type of the result", hint=f"`void` if `{name}` returns nothing"
            )
            return ast.Name(self.here, "void")
        return self.type_at("the type of the result")
