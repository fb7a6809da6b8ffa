"""Read CIRH, which is MLIR text: one flat function of `cirh` operations, in the custom or the generic form.

    module {
      func @graph(%arg0: tensor<8x4xf32> {tf.resource_name = "state.w"}, ...) -> (tensor<f32> {cs.output_name = "loss"}) {
        %0 = cirh.Mul %arg0, %arg0 : tensor<8x4xf32> loc(#loc1)
        %1 = "cirh.Cast"(%0) {Truncate = false} : (tensor<8x4xf32>) -> tensor<8x4xf16>
        return %1 : tensor<8x4xf16>
      }
    }
    #loc1 = loc("fc1.fwd/aten::mul"("model.py":12:0))

Both `func` and `func.func` are taken. Every use is checked against its definition; every error has line and column.
"""

from __future__ import annotations

import re
from functools import lru_cache

from openwafer.base import CirhError
from openwafer.compat.cirh._function import (
    ELEMENT_BYTES,
    Argument,
    Attribute,
    Dense,
    Function,
    Op,
    Result,
    Type,
)
from openwafer.compat.cirh._scanner import Scanner

DIALECT = "cirh."
_ALIAS = re.compile(r"^(#\w+) = (loc\(.*\))$", re.MULTILINE)
_MAX_RANK = 16
_MAX_ELEMENTS = 1 << 40
_MAX_RESULTS = 1 << 12


def parse(text: str, name: str = "program") -> Function:
    """The one function of a program.

    name: what messages call the text. Raises CirhError, with line, column and what was expected, for text that is no
    CIRH: syntax, values that are not defined or defined twice, types that do not match their definition, more than
    one function.
    """
    try:
        return _Parser(text, name).program()
    except RecursionError:
        raise CirhError(
            f"{name}: attributes are nested deeper than any program of the client has them"
        ) from None


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.locations = dict(_ALIAS.findall(text))
        self.scan = Scanner(text, name)
        self.known: dict[str, int] = {}
        self.function: Function | None = None
        self._line, self._line_at = 1, 0

    # --- program and function -------------------------------------------------------------------------

    def program(self) -> Function:
        scan = self.scan
        in_module = False
        while scan.kind != "end":
            if scan.kind == "alias":
                self._alias()
            elif scan.text in ("module", "builtin.module") and not in_module:
                in_module = True
                self._module_head()
            elif scan.text in ("func", "func.func", "builtin.func"):
                self._function()
            elif scan.text == "}" and in_module:
                scan.advance()
                self._place()
            else:
                scan.fail(f"expected a module or a function, found {scan.shown}")
        if self.function is None:
            scan.fail("the text has no function; a program has exactly one (`func @graph(...) {...}`)")
        return self.function

    def _module_head(self) -> None:
        scan = self.scan
        scan.advance()
        if scan.kind == "symbol":
            scan.advance()
        if scan.accept("attributes"):
            self._attributes()
        scan.expect("{", "after `module`")

    def _alias(self) -> None:
        scan = self.scan
        alias = scan.advance()
        scan.expect("=", f"after {alias}")
        if scan.kind == "place":
            scan.advance()
        elif scan.text == "loc":
            scan.advance()
            scan.skip_parentheses()
        else:
            scan.fail(f"expected `loc(...)` (other aliases are not used by CIRH), found {scan.shown}")

    def _function(self) -> None:
        scan = self.scan
        if self.function is not None:
            scan.fail("a second function: a program is one flat function")
        scan.advance()
        if scan.text in ("private", "public"):
            scan.advance()
        symbol = scan.take("symbol", "the function's name (@name)")
        self.function = made = Function(scan.name, symbol[1:].strip('"'), {}, locations=self.locations)
        scan.expect("(")
        while not scan.accept(")"):
            if made.arguments:
                scan.expect(",", "or `)` between arguments")
            at = scan.start
            spelt = scan.take("value", "an argument (%name)")
            scan.expect(":", f"after {spelt}")
            value = self._define(spelt, self._type(), at)
            made.arguments.append(Argument(value, self._attributes(), self._place()))
        promised = self._result_types() if scan.accept("->") else []
        if scan.accept("attributes"):
            made.attributes = self._attributes()
        scan.expect("{", "to begin the function's body")
        self._body(promised)
        scan.expect("}", "after `return`")
        self._place()

    def _result_types(self) -> list[tuple[Type, dict[str, Attribute]]]:
        scan = self.scan
        if not scan.accept("("):
            return [(self._type(), {})]
        found: list[tuple[Type, dict[str, Attribute]]] = []
        while not scan.accept(")"):
            if found:
                scan.expect(",", "or `)` between result types")
            found.append((self._type(), self._attributes()))
        return found

    def _body(self, promised: list[tuple[Type, dict[str, Attribute]]]) -> None:
        scan = self.scan
        function = self.function
        assert function is not None
        while True:
            at = scan.start
            if scan.text in ("return", "std.return", "func.return", '"std.return"', '"func.return"'):
                scan.advance()
                break
            results = self._defined_names()
            function.ops.append(self._op(results, at))
        generic = scan.accept("(")
        returned = [self._use()] if scan.kind == "value" else []
        while scan.accept(","):
            returned.append(self._use())
        if generic:
            scan.expect(")")
        if scan.accept(":"):
            wrapped = scan.accept("(")
            types = [self._type()] if scan.kind in ("tensor", "word") else []
            while scan.accept(","):
                types.append(self._type())
            if wrapped:
                scan.expect(")")
            if wrapped and scan.accept("->"):
                scan.expect("(")
                scan.expect(")")
            if types != [function.values[value] for value in returned]:
                scan.fail("the types after `return` are not those of the values returned", at)
        self._place()
        if [kind for kind, _ in promised] != [function.values[value] for value in returned]:
            scan.fail(
                f"the function promises {len(promised)} results and returns {len(returned)}, or their types differ",
                at,
            )
        function.results = [
            Result(value, attributes) for value, (_, attributes) in zip(returned, promised, strict=True)
        ]

    # --- operations -----------------------------------------------------------------------------------

    def _defined_names(self) -> list[tuple[str, int]]:
        """The names before `=`, `%a:3` as three of them, each with its place."""
        scan = self.scan
        names: list[tuple[str, int]] = []
        if scan.kind != "value":
            return names
        while True:
            at = scan.start
            spelt = scan.take("value")
            base, _, count = spelt.partition(":")
            if count and not 0 < int(count[:9]) <= _MAX_RESULTS:
                scan.fail(f"{spelt} asks for more results than an operation has", at)
            names.extend([(f"{base}#{i}", at) for i in range(int(count))] if count else [(base, at)])
            if not scan.accept(","):
                break
        scan.expect("=", "after the names of results")
        return names

    def _op(self, results: list[tuple[str, int]], at: int) -> Op:
        scan = self.scan
        line = self._line_of(at)
        name_at = scan.start
        generic = scan.kind == "string"
        if not generic and scan.kind != "word":
            scan.fail(f"expected an operation, found {scan.shown}")
        name = scan.advance().strip('"')
        if not name.startswith(DIALECT):
            scan.fail(f"{name} is no operation of CIRH (cirh.Name)", name_at)
        attributes: dict[str, Attribute] = {}
        operands: list[int] = []
        if generic:
            scan.expect("(", "to begin the operands")
            while not scan.accept(")"):
                if operands:
                    scan.expect(",", "or `)` between operands")
                operands.append(self._use())
            attributes = self._attributes()
            scan.expect(":", "before the types")
            types = self._op_types(operands, at)
        else:
            attributes = self._attributes()
            if scan.kind == "value":
                operands.append(self._use())
                while scan.accept(","):
                    operands.append(self._use())
            if scan.kind == "dense":  # cirh.Const
                value = self._attribute()
                assert isinstance(value, Dense)
                attributes["value"] = value
                types = [value.type]
                attributes.update(self._attributes())
            else:
                attributes.update(self._attributes())
                scan.expect(":", "before the types")
                types = self._op_types(operands, at)
        if not results:
            scan.fail(f"{name} has no name for its result (%name = ...)", at)
        if len(types) != len(results):
            scan.fail(f"{name} has {len(types)} results, and {len(results)} names stand before it", at)
        defined = tuple(
            self._define(spelt, kind, where) for (spelt, where), kind in zip(results, types, strict=True)
        )
        return Op(name[len(DIALECT) :], tuple(operands), defined, attributes, line, self._place())

    def _op_types(self, operands: list[int], at: int) -> list[Type]:
        """The types of an operation's results: `T`, `T -> U` or `(T, T) -> (U, U)`."""
        scan = self.scan
        assert self.function is not None
        if scan.accept("("):
            given: list[Type] = []
            while not scan.accept(")"):
                if given:
                    scan.expect(",", "or `)` between types")
                given.append(self._type())
            scan.expect("->", "after the types of the operands")
        else:
            given = [self._type()]
            if not scan.accept("->"):
                return given
            given = given * len(operands)  # `T -> U`: all operands alike
        for position, (operand, kind) in enumerate(zip(operands, given, strict=False)):
            if self.function.values[operand] != kind:
                scan.fail(f"operand {position} is {self.function.values[operand]}, not {kind}", at)
        if len(given) != len(operands):
            scan.fail(f"{len(operands)} operands and {len(given)} types for them", at)
        if not scan.accept("("):
            return [self._type()]
        types: list[Type] = []
        while not scan.accept(")"):
            if types:
                scan.expect(",", "or `)` between types")
            types.append(self._type())
        return types

    def _define(self, spelt: str, kind: Type, at: int) -> int:
        assert self.function is not None
        if spelt in self.known:
            self.scan.fail(f"{spelt} is defined twice", at)
        self.known[spelt] = len(self.function.values)
        self.function.values.append(kind)
        return self.known[spelt]

    def _use(self) -> int:
        at = self.scan.start
        spelt = self.scan.take("value")
        if spelt not in self.known:
            self.scan.fail(f"{spelt} is used before it is defined", at)
        return self.known[spelt]

    # --- types, attributes, locations -----------------------------------------------------------------

    def _type(self) -> Type:
        scan = self.scan
        if scan.kind != "tensor":
            scan.fail(f"expected a tensor type (tensor<4x8xf32>), found {scan.shown}")
        kind = _tensor_type(scan.text)
        if isinstance(kind, str):
            scan.fail(kind)
        scan.advance()
        return kind

    def _attributes(self) -> dict[str, Attribute]:
        """`{name = value, flag}`, or nothing."""
        scan = self.scan
        found: dict[str, Attribute] = {}
        if not scan.accept("{"):
            return found
        while not scan.accept("}"):
            if found:
                scan.expect(",", "or `}` between attributes")
            at = scan.start
            if scan.kind not in ("word", "string"):
                scan.fail(f"expected the name of an attribute, found {scan.shown}")
            key = scan.advance().strip('"')
            if key in found:
                scan.fail(f"the attribute {key} is given twice", at)
            found[key] = self._attribute() if scan.accept("=") else True
        return found

    def _attribute(self) -> Attribute:
        scan = self.scan
        if scan.kind == "string":
            return _unquoted(scan.advance())
        if scan.kind == "number":
            at = scan.start
            return self._typed(scan.advance(), at)
        if scan.kind == "dense":
            body = scan.advance()[len("dense<") : -1]
            scan.expect(":", "before the type of a constant")
            return Dense(body, self._type())
        if scan.kind == "tensor":
            return self._type()
        if scan.accept("true"):
            return True
        if scan.accept("false"):
            return False
        if scan.accept("unit"):
            return True
        if scan.text == "{":
            return self._attributes()
        if scan.accept("["):
            items: list[Attribute] = []
            while not scan.accept("]"):
                if items:
                    scan.expect(",", "or `]` between elements")
                items.append(self._attribute())
            return items
        if scan.kind in ("alias", "symbol", "bang"):
            return scan.advance() + (self._angled() if scan.text == "<" else "")
        if scan.text in ELEMENT_BYTES:
            return scan.advance()
        scan.fail(f"expected the value of an attribute, found {scan.shown}")

    def _angled(self) -> str:
        """The text of a dialect attribute's parameters; nobody here reads it."""
        scan = self.scan
        first, depth = scan.start, 0
        while True:
            depth += (scan.text == "<") - (scan.text == ">")
            if scan.kind == "end":
                scan.fail("this `<` is never closed", first)
            scan.advance()
            if depth == 0:
                return scan.source[first : scan.start].strip()

    def _typed(self, text: str, at: int) -> int | float:
        """A number and its type: an integer type makes an int, a float type a float."""
        scan = self.scan
        kind = ""
        if scan.accept(":"):
            if scan.kind not in ("word", "bang"):
                scan.fail(f"expected the type of a number, found {scan.shown}")
            kind = scan.advance()
        if kind.startswith(("f", "bf")) or (not kind and not text.lstrip("-").isdigit()):
            if "0x" in text:
                scan.fail("a float attribute in hexadecimal form is not read here", at)
            return float(text)
        try:
            return int(text, 0)
        except ValueError:
            scan.fail(f"{text} is no integer, but its type is {kind}", at)

    def _place(self) -> str:
        """The text of a location, if one follows: an alias, or all of it."""
        scan = self.scan
        if scan.kind == "place":
            return scan.advance()[4:-1]
        if scan.kind == "word" and scan.text == "loc":
            scan.advance()
            return scan.skip_parentheses()
        return ""

    def _line_of(self, at: int) -> int:
        """The line of a place after the one asked for before."""
        self._line += self.scan.source.count("\n", self._line_at, at)
        self._line_at = at
        return self._line


@lru_cache(maxsize=4096)
def _tensor_type(text: str) -> Type | str:
    """The type, or what is wrong with it."""
    inner = text[len("tensor<") : -1].partition(",")[0].strip()
    *dims, element = inner.split("x")
    if element not in ELEMENT_BYTES:
        return f"{element!r} is no element type that tensors have here ({', '.join(ELEMENT_BYTES)})"
    if "?" in dims or "*" in dims:
        return "a shape that is not static: every dim must be a number"
    if not all(size.isdigit() for size in dims) or len(dims) > _MAX_RANK:
        return f"{text} is no tensor type (tensor<4x8xf32>)"
    kind = Type(element, tuple(int(size[:16]) for size in dims))
    if kind.count > _MAX_ELEMENTS:
        return f"{text} has more elements than any memory"
    return kind


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if "\\" in text else text[1:-1]
