"""Random layouts: loops in loops, variables that they carry, branches, functions, and now and then a mistake."""

from __future__ import annotations

import random

HEAD = """\
const table = [8]i32 {{ 3, 1, 4, 1, 5, 9, 2, 6 }};
const kinds = enum(u16) {{ plain, edge, corner }};
fn turn(n: i32) direction {{ if (n % 2 == 0) {{ return EAST; }} return WEST; }}
fn first_above(limit: i32) i32 {{
  var at: i32 = 0;
  while (at < 8) : (at += 1) {{ if (table[at] > limit) {{ return at; }} }}
  return -1;
}}
fn spread(a: anytype, b: anytype) comptime_struct {{ return .{{ .sum = a + b, .same = a == b }}; }}
fn route(x: i32, y: i32, c: u16, to: direction, enough: bool) void {{
  if (enough) {{ @set_color_config(x, y, @get_color(c), .{{ .routes = .{{ .rx = .{{ RAMP }}, .tx = .{{ to }} }} }}); }}
}}
layout {{
  @set_rectangle({width}, {height});
"""


class RandomLayout:
    """The text of one layout, by its seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names = 0
        self._color = 0
        self._lines: list[str] = []
        self._width, self._height = self._random.randint(1, 12), self._random.randint(1, 12)

    def text(self) -> str:
        """The program."""
        chance = self._random
        variables: list[str] = []
        for _ in range(chance.randint(0, 2)):
            variables.append(self._new())
            self._say(1, f"var {variables[-1]}: i32 = {chance.randint(-2, 3)};")
        for _ in range(chance.randint(0, 1)):
            self._statement(1, list(variables), variables, 0, None)
        outer, sizes = chance.choice([("x", (self._width, self._height)), ("y", (self._height, self._width))])
        inner = "y" if outer == "x" else "x"
        self._loop(1, outer, sizes[0], list(variables), variables, (inner, sizes[1]))
        for _ in range(chance.randint(0, 2)):
            self._statement(1, list(variables), variables, 1, None)
        head = HEAD.format(width=self._width, height=self._height)
        return head + "\n".join(self._lines) + "\n}\n"

    # --- parts ---

    def _say(self, depth: int, line: str) -> None:
        self._lines.append("  " * depth + line)

    def _new(self) -> str:
        self._names += 1
        return f"n{self._names}"

    def _loop(
        self, depth: int, name: str, size: int, known: list[str], mutable: list[str], inside: tuple[str, int]
    ) -> None:
        """The loops over all tiles."""
        chance = self._random
        known, mutable = list(known), list(mutable)
        kind = chance.choice(["for", "for", "typed", "while", "carried"])
        if kind in ("while", "carried"):
            written = ": i32" if kind == "while" else ""
            self._say(depth, f"var {name}{written} = 0;")
            self._say(depth, f"while ({name} < {size}) : ({name} += 1) {{")
        else:
            type = "i32" if kind == "for" else chance.choice(["u16", "i16", "u32"])
            index = f", {self._new()}" if chance.random() < 0.2 else ""
            self._say(depth, f"for (@range({type}, {size})) |{name}{index}| {{")
        known.append(f"@as(i32, {name})")
        for _ in range(chance.randint(0, 2)):
            self._statement(depth + 1, known, mutable, 1, None)
        if inside[1]:
            self._loop(depth + 1, inside[0], inside[1], known, mutable, ("", 0))
        else:
            self._tile(depth + 1, known, mutable)
            for _ in range(chance.randint(0, 3)):
                self._statement(depth + 1, known, mutable, 2, None)
        for _ in range(chance.randint(0, 1)):
            self._statement(depth + 1, known, mutable, 1, None)
        self._say(depth, "}")

    def _tile(self, depth: int, known: list[str], mutable: list[str]) -> None:
        chance = self._random
        wrong = chance.random() < 0.03
        place = "y, x" if wrong else "x, y"
        fields = [f".p{at} = {self._value(known)}" for at in range(chance.randint(0, 4))]
        params = f".{{ {', '.join(fields)} }}" if fields else ".{}"
        line = f'@set_tile_code({place}, "pe{chance.randint(0, 1)}.csl", {params});'
        if chance.random() < 0.1:
            line = f"if ({self._condition(known)}) {{ {line} }}"
        self._say(depth, line)

    def _value(self, known: list[str]) -> str:
        number, truth = self._number(known), self._condition(known)
        return self._random.choice(
            [
                number,
                truth,
                f".{{ .deep = {number}, .flag = {truth} }}",
                f"[2]i32 {{ {number}, {self._number(known)} }}",
                f"turn({number})",
                f"if ({truth}) kinds.plain else kinds.edge",
                f"@as(f32, {number})",
                f"@get_color(@as(u16, ({number}) & 7))",
                f"spread({number}, {self._number(known)})",
            ]
        )

    def _number(self, known: list[str], depth: int = 0) -> str:
        chance = self._random
        if depth > 2 or chance.random() < 0.3:
            return chance.choice(known) if known and chance.random() < 0.8 else str(chance.randint(0, 9))
        a, b = self._number(known, depth + 1), self._number(known, depth + 1)
        small, label = chance.randint(1, 5), self._new()
        name = chance.choice("xy") if all(f"@as(i32, {one})" in known for one in "xy") else "2"
        least = (
            small if chance.random() < 0.9 else small - 1
        )  # a mistake where the type has no negative numbers
        return chance.choice(
            [
                f"(if ({name} >= {least}) @as(i32, {name} - {small}) else 0)",
                f"({a} + {b})",
                f"({a} - {b})",
                f"({a} * {small})",
                f"({a} % {small})",
                f"({a} / {small})",
                f"(({a}) & {small})",
                f"(({a}) << {small})",
                f"(({a}) >> {small})",
                f"(({a}) | {small})",
                f"(-{a})",
                f"(if ({self._condition(known, depth + 1)}) {a} else {b})",
                f"@as(i32, @as(i16, {a}))",
                f"table[@as(u16, ({a}) & 7)]",
                f"first_above({a})",
                f"({label}: {{ if ({self._condition(known, depth + 1)}) {{ break :{label} {a}; }} break :{label} {b}; }})",
            ]
        )

    def _condition(self, known: list[str], depth: int = 0) -> str:
        chance = self._random
        if depth < 2 and chance.random() < 0.3:
            a, b = self._condition(known, depth + 1), self._condition(known, depth + 1)
            return chance.choice([f"({a} and {b})", f"({a} or {b})", f"!({a})", f"(({a}) == ({b}))"])
        a = self._number(known, depth + 1)
        right = self._number(known, depth + 1) if chance.random() < 0.3 else str(chance.randint(-1, 8))
        return f"({a} {chance.choice(['==', '!=', '<', '<=', '>', '>='])} {right})"

    # --- statements ---

    def _statement(
        self, depth: int, known: list[str], mutable: list[str], nesting: int, loop: str | None
    ) -> None:
        """One or a few; new names go to `known` and `mutable`."""
        chance = self._random
        readable = [*known, *mutable]
        kinds = [
            "const",
            "var",
            "assign",
            "assign",
            "if",
            "route",
            "route",
            "structure",
            "array",
            "pointer",
            "switch",
        ]
        kinds += ["loop", "loop"] if nesting else []
        kinds += ["leave"] if loop else []
        kinds += ["print", "assert"] if chance.random() < 0.1 else []
        kind = chance.choice(kinds)
        number, truth = self._number(readable), self._condition(readable)
        if kind == "assign" and mutable:
            operator = chance.choice(["=", "+=", "-="])
            self._say(depth, f"{chance.choice(mutable)} {operator} ({number}) & 0xff;")
        elif kind == "var":
            name = self._new()
            self._say(depth, f"var {name}: i32 = {number};")
            mutable.append(name)
        elif kind == "if":
            self._say(depth, f"if ({truth}) {{")
            self._statement(depth + 1, list(known), list(mutable), nesting, loop)
            self._say(depth, "} else {")
            self._statement(depth + 1, list(known), list(mutable), 0, loop)
            self._say(depth, "}")
        elif kind == "switch":
            self._say(depth, f"switch (@as(u16, ({number}) & 3)) {{")
            for case in ("0", "1, 2", "else"):
                self._say(depth, f"{case} => {{")
                self._statement(depth + 1, list(known), list(mutable), 0, loop)
                self._say(depth, "}" + "," * (case != "else"))
            self._say(depth, "}")
        elif kind == "route" and all(f"@as(i32, {name})" in known for name in "xy"):
            self._color += 1
            self._say(depth, f"route(x, y, {self._color % 24}, turn({number}), {truth});")
        elif kind == "structure":
            name = self._new()
            self._say(depth, f"var {name}: comptime_struct = .{{ .a = {number}, .b = {truth} }};")
            if chance.random() < 0.5:
                self._say(depth, f"{name} = .{{ .a = {number}, .b = false }};")
            known.append(f"(if ({name}.b) {name}.a else 1)")
        elif kind == "array":
            name = self._new()
            self._say(depth, f"var {name} = [3]i32 {{ 1, {number}, 2 }};")
            self._say(depth, f"{name}[@as(u16, ({number}) & 1)] = {chance.randint(0, 9)};")
            known.append(f"{name}[1]")
        elif kind == "pointer" and mutable:
            name = self._new()
            self._say(depth, f"const {name} = &{chance.choice(mutable)};")
            if chance.random() < 0.5:
                self._say(depth, f"{name}.* = {chance.randint(0, 9)};")
            known.append(f"{name}.*")
        elif kind == "loop":
            self._small_loop(depth, known, mutable, nesting)
        elif kind == "leave":
            self._say(depth, f"if ({truth}) {{ {chance.choice(['break', 'continue'])}; }}")
        elif kind == "print":
            self._say(depth, f"if ({truth}) {{ @comptime_print({number}); }}")
        elif kind == "assert":
            self._say(depth, f"@comptime_assert({truth} or {truth.replace('==', '!=')} or true);")
        else:
            name = self._new()
            self._say(depth, f"const {name} = {number};")
            known.append(name)

    def _small_loop(self, depth: int, known: list[str], mutable: list[str], nesting: int) -> None:
        chance = self._random
        name, count = self._new(), chance.randint(0, 4)
        inner, changed = list(known), list(mutable)
        if chance.random() < 0.5:
            self._say(depth, f"for (@range(i32, {count})) |{name}| {{")
            inner.append(name)
        else:
            self._say(depth, f"var {name}: i32 = 0;")
            self._say(depth, f"while ({name} < {count}) : ({name} += 1) {{")
            inner.append(name)
        for _ in range(chance.randint(1, 2)):
            self._statement(depth + 1, inner, changed, nesting - 1, name)
        self._say(depth, "}")
