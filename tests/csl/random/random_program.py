"""Random well-typed CSL programs, each with its meaning: whatever is written as text is a Python function as well.

A program has a flat name space (no name is used twice), so what it computes with is one dict. Scalars are Python ints and
NumPy floats, arrays are lists, structs are dicts. Expressions have no effects, so their order does not matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from random_values import FLOATS, INTEGERS, TYPES, arithmetic, bits, compared, converted, limits, negated

Memory = dict[str, Any]
LENGTH = 4  # of every array, so that `& 3` makes an index
FIELDS = {"a": "i16", "b": "f32", "c": "u32"}
INDICES = ("i16", "u16", "i32", "u32")


@dataclass(frozen=True)
class Expression:
    """What stands in the program, and what it is. `known`: the compiler computes it, and then refuses to overflow."""

    text: str
    type: str
    value: Callable[[Memory], Any]
    known: bool = False


@dataclass(frozen=True)
class Place(Expression):
    """What can also be assigned to. `root`: the variable that it is part of."""

    store: Callable[[Memory, Any], None] = lambda memory, value: None
    root: str = ""


class Left(Exception):  # noqa: N818 - it is no error
    """A `break`, `continue` or `return` on its way, with the value that it takes along."""

    def __init__(self, how: str, value: Any = None) -> None:
        self.how, self.value = how, value


@dataclass(frozen=True)
class Statement:
    lines: list[str]
    run: Callable[[Memory], None]


@dataclass
class Scope:
    """What can be named at a point of the program."""

    places: list[Place]
    loops: int = 0
    frozen: frozenset[str] = frozenset()
    readable: list[Expression] = field(default_factory=list)
    result: str | None = None

    def inner(
        self, *, loop: bool = False, frozen: str = "", readable: list[Expression] | None = None
    ) -> Scope:
        more = frozenset({frozen}) if frozen else frozenset()
        return Scope(
            list(self.places),
            self.loops + loop,
            self.frozen | more,
            [*self.readable, *(readable or [])],
            self.result,
        )


def variable(name: str, type: str) -> Place:
    def store(memory: Memory, value: Any) -> None:
        memory[name] = value

    return Place(name, type, lambda memory: memory[name], store=store, root=name)


def element(text: str, root: str, index: Expression, type: str) -> Place:
    def store(memory: Memory, value: Any) -> None:
        memory[root][index.value(memory)] = value

    value = lambda memory: memory[root][index.value(memory)]  # noqa: E731
    return Place(f"{text}[{index.text}]", type, value, store=store, root=root)


def member(root: str, name: str, text: str = "") -> Place:
    def store(memory: Memory, value: Any) -> None:
        memory[root][name] = value

    value = lambda memory: memory[root][name]  # noqa: E731
    return Place(f"{text or root}.{name}", FIELDS[name], value, store=store, root=root)


def sequence(statements: list[Statement]) -> Statement:
    def run(memory: Memory) -> None:
        for one in statements:
            one.run(memory)

    return Statement([line for one in statements for line in one.lines], run)


def block(head: str, body: Statement, tail: str = "}") -> list[str]:
    return [head, *["  " + line for line in body.lines], tail]


class Program:
    """One random program: `text`, and `run` that gives what its variables hold in the end."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self._names = 0
        self.globals: dict[str, str] = {}
        self.initial: Memory = {}
        self.arrays: dict[str, str] = {}
        self.structs = ["s0", "s1"]
        self._declare()
        self._functions: list[tuple[str, list[str], str, Callable[..., Any]]] = []
        functions = [self._function() for _ in range(random.randrange(3))]
        main = self.statements(self._top(), 3, random.randrange(3, 9))
        self._run = main.run
        copies = [f"out_{struct}_{name} = {struct}.{name};" for struct in self.structs for name in FIELDS]
        self.text = "\n".join(
            [
                "const triple = struct { a: i16, b: f32, c: u32 };",
                *[f"var {name}: triple = triple {{ .a = 1, .b = 2.5, .c = 3 }};" for name in self.structs],
                *[
                    f"var out_{struct}_{name}: {type};"
                    for struct in self.structs
                    for name, type in FIELDS.items()
                ],
                *self._declarations(),
                *[line for lines in functions for line in lines],
                *block("task main() void {", main, ""),
                *["  " + line for line in copies],
                "}",
                "comptime {",
                "  @bind_local_task(main, @get_local_task_id(10));",
                "  @activate(@get_local_task_id(10));",
                "}\n",
            ]
        )

    def run(self) -> Memory:
        """What every scalar and array holds in the end, by its name."""
        memory = copy.deepcopy(self.initial)
        self._run(memory)
        for struct in self.structs:
            memory |= {f"out_{struct}_{name}": value for name, value in memory.pop(struct).items()}
        names = [*self.globals, *self.arrays, *(name for name in memory if name.startswith("out_"))]
        return {name: memory[name] for name in names}

    # --- declarations ---

    def _name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"

    def _declare(self) -> None:
        for type in TYPES:
            name = f"g_{type}"
            self.globals[name] = type
            self.initial[name] = self._number(type)
            self.arrays[f"a_{type}"] = type
            self.initial[f"a_{type}"] = [self._number(type) for _ in range(LENGTH)]
        for struct in self.structs:
            self.initial[struct] = {"a": 1, "b": FLOATS["f32"](2.5), "c": 3}

    def _declarations(self) -> Iterator[str]:
        for name, type in self.globals.items():
            yield f"var {name}: {type} = {self._literal(type, self.initial[name])};"
        for name, type in self.arrays.items():
            values = ", ".join(self._literal(type, value) for value in self.initial[name])
            yield f"var {name} = [{LENGTH}]{type} {{ {values} }};"

    def _number(self, type: str) -> Any:
        random = self.random
        if type in FLOATS:
            return FLOATS[type](random.randrange(-64, 65) / 4)
        low, high = limits(type)
        if random.randrange(3) == 0:
            return random.choice([low, high, low + 1, high - 1])
        return random.randrange(max(low, -20), min(high, 20) + 1)

    def _literal(self, type: str, value: Any) -> str:
        return f"@as({type}, {float(value)!r})" if type in FLOATS else f"@as({type}, {value})"

    def _top(self) -> Scope:
        places = [variable(name, type) for name, type in self.globals.items()]
        places += [member(struct, name) for struct in self.structs for name in FIELDS]
        return Scope(places)

    def _function(self) -> list[str]:
        """A function of two scalars and a pointer to an array, which gives a scalar."""
        random = self.random
        name, result = self._name("f"), random.choice(TYPES)
        kinds = [random.choice(TYPES) for _ in range(2)]
        parameters = [self._name("p") for _ in kinds]
        pointer, pointed = self._name("q"), random.choice(TYPES)
        scope = self._top()
        scope.result = result
        scope.readable += [
            Expression(parameter, kind, lambda memory, parameter=parameter: memory[parameter])
            for parameter, kind in zip(parameters, kinds, strict=True)
        ]
        for _ in range(2):
            scope.places.append(element(f"{pointer}.*", pointer, self._index(scope), pointed))
        body = self.statements(scope, 2, random.randrange(1, 4))
        value = self.expression(scope, result, 2)

        def call(memory: Memory, first: Any, second: Any, array: list[Any]) -> Any:
            memory |= {parameters[0]: first, parameters[1]: second, pointer: array}
            try:
                body.run(memory)
            except Left as left:  # only a `return` gets here
                return left.value
            return value.value(memory)

        taken = [f"{parameter}: {kind}" for parameter, kind in zip(parameters, kinds, strict=True)]
        taken.append(f"{pointer}: *[{LENGTH}]{pointed}")
        self._functions.append((name, [*kinds, pointed], result, call))
        whole = Statement([*body.lines, f"return {value.text};"], body.run)
        return block(f"fn {name}({', '.join(taken)}) {result} {{", whole)

    # --- expressions ---

    def _index(self, scope: Scope) -> Expression:
        type = self.random.choice(INDICES)
        inner = self._read(scope, type)
        return Expression(f"({inner.text} & 3)", type, lambda memory: inner.value(memory) & 3)

    def _read(self, scope: Scope, type: str) -> Expression:
        """A variable of the type: never known to the compiler."""
        fit: list[Expression] = [one for one in (*scope.places, *scope.readable) if one.type == type]
        return self.random.choice(fit)

    def expression(self, scope: Scope, type: str, depth: int) -> Expression:
        """Any expression of the type."""
        random = self.random
        if depth == 0 or random.randrange(4) == 0:
            return self._simple(scope, type)
        choice = random.randrange(6)
        if choice == 0:
            source = random.choice(TYPES)
            inner = self._unknown(scope, source, depth - 1)
            return Expression(
                f"@as({type}, {inner.text})",
                type,
                lambda memory: converted(source, type, inner.value(memory)),
            )
        if choice == 1:
            condition = self.condition(scope, depth - 1)
            first, second = (self._unknown(scope, type, depth - 1) for _ in range(2))
            return Expression(
                f"(if ({condition.text}) {first.text} else {second.text})",
                type,
                lambda memory: (first if condition.value(memory) else second).value(memory),
            )
        if choice == 2:
            inner = self._unknown(scope, type, depth - 1)
            if type in INTEGERS and random.randrange(2):
                return Expression(
                    f"(~{inner.text})", type, lambda memory: _flipped(type, inner.value(memory))
                )
            return Expression(f"(-{inner.text})", type, lambda memory: negated(type, inner.value(memory)))
        return self._binary(scope, type, depth)

    def _simple(self, scope: Scope, type: str) -> Expression:
        random = self.random
        match random.randrange(4):
            case 0:
                value = self._number(type)
                return Expression(self._literal(type, value), type, lambda memory: value, known=True)
            case 1:
                index = self._index(scope)
                array = f"a_{type}"
                return element(array, array, index, type)
        return self._read(scope, type)

    def _unknown(self, scope: Scope, type: str, depth: int) -> Expression:
        made = self.expression(scope, type, depth)
        return self._read(scope, type) if made.known else made

    def _binary(self, scope: Scope, type: str, depth: int) -> Expression:
        random = self.random
        left = self._unknown(scope, type, depth - 1)
        right = self.expression(scope, type, depth - 1)
        if type in FLOATS:
            operator = random.choice("+-*/")
        else:
            operator = random.choice(["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"])
        if operator in "/%" and type in INTEGERS:
            inner = self._unknown(scope, type, depth - 1)  # an odd divisor is not 0
            right = Expression(f"({inner.text} | 1)", type, lambda memory: inner.value(memory) | 1)
        if operator in ("<<", ">>"):
            by = random.choice(["u8", "u16", "u32"])
            amount, most = self._read(scope, by), 2 * bits(type) - 1 if bits(type) < 64 else 63
            right = Expression(f"({amount.text} & {most})", by, lambda memory: amount.value(memory) & most)
        return Expression(
            f"({left.text} {operator} {right.text})",
            type,
            lambda memory: arithmetic(operator, type, left.value(memory), right.value(memory)),
        )

    def condition(self, scope: Scope, depth: int) -> Expression:
        """Any expression of type bool."""
        random = self.random
        if depth > 0 and random.randrange(3) == 0:
            first, second = self.condition(scope, depth - 1), self.condition(scope, depth - 1)
            if random.randrange(3) == 0:
                return Expression(f"(!{first.text})", "bool", lambda memory: not first.value(memory))
            both = random.randrange(2) == 0
            return Expression(
                f"({first.text} {'and' if both else 'or'} {second.text})",
                "bool",
                lambda memory: (
                    first.value(memory) and second.value(memory)
                    if both
                    else first.value(memory) or second.value(memory)
                ),
            )
        type = random.choice(TYPES)
        operator = random.choice(["==", "!=", "<", "<=", ">", ">="])
        left, right = self._unknown(scope, type, depth), self.expression(scope, type, depth)
        return Expression(
            f"({left.text} {operator} {right.text})",
            "bool",
            lambda memory: compared(operator, left.value(memory), right.value(memory)),
        )

    # --- statements ---

    def statements(self, scope: Scope, depth: int, count: int) -> Statement:
        """Some statements, one after the other; each sees the variables of those before it."""
        return sequence([self._statement(scope, depth) for _ in range(count)])

    def _statement(self, scope: Scope, depth: int) -> Statement:
        simple = [
            self._assign,
            self._assign,
            self._update,
            self._local,
            self._struct,
            self._call,
            self._leave,
        ]
        nested = [self._if, self._while, self._range, self._each, self._switch, self._block]
        makers = simple + (nested if depth > 0 else [])
        return self.random.choice(makers)(scope, depth)

    def _target(self, scope: Scope) -> Place:
        random = self.random
        if random.randrange(3) == 0:
            type = random.choice([one for one in TYPES if f"a_{one}" not in scope.frozen])
            return element(f"a_{type}", f"a_{type}", self._index(scope), type)
        return random.choice([one for one in scope.places if one.root not in scope.frozen])

    def _assign(self, scope: Scope, depth: int) -> Statement:
        target = self._target(scope)
        value = self.expression(scope, target.type, 3)
        return Statement(
            [f"{target.text} = {value.text};"], lambda memory: target.store(memory, value.value(memory))
        )

    def _update(self, scope: Scope, depth: int) -> Statement:
        target = self._target(scope)
        type = target.type
        operator = self.random.choice("+-*" if type in FLOATS else "+-*&|^")
        value = self.expression(scope, type, 2)
        return Statement(
            [f"{target.text} {operator}= {value.text};"],
            lambda memory: target.store(
                memory, arithmetic(operator, type, target.value(memory), value.value(memory))
            ),
        )

    def _local(self, scope: Scope, depth: int) -> Statement:
        name, type = self._name("v"), self.random.choice(TYPES)
        value = self.expression(scope, type, 3)
        place = variable(name, type)
        scope.places.append(place)
        return Statement(
            [f"var {name}: {type} = {value.text};"], lambda memory: place.store(memory, value.value(memory))
        )

    def _struct(self, scope: Scope, depth: int) -> Statement:
        first, second = self.random.sample(self.structs, 2)
        if self.random.randrange(2):

            def assign(memory: Memory) -> None:
                memory[first] = dict(memory[second])

            return Statement([f"{first} = {second};"], assign)
        values = {name: self.expression(scope, type, 2) for name, type in FIELDS.items()}

        def build(memory: Memory) -> None:
            memory[first] = {name: value.value(memory) for name, value in values.items()}

        text = ", ".join(f".{name} = {value.text}" for name, value in values.items())
        return Statement([f"{first} = triple {{ {text} }};"], build)

    def _call(self, scope: Scope, depth: int) -> Statement:
        fit = [one for one in self._functions if not any(name in scope.frozen for name in self.arrays)]
        if not fit or scope.result is not None:
            return self._assign(scope, depth)
        name, kinds, result, call = self.random.choice(fit)
        values = [self.expression(scope, kind, 2) for kind in kinds[:2]]
        array, kept = f"a_{kinds[2]}", self._name("v")
        place = variable(kept, result)
        scope.places.append(place)

        def run(memory: Memory) -> None:
            place.store(memory, call(memory, *[one.value(memory) for one in values], memory[array]))

        arguments = ", ".join([*(one.text for one in values), f"&{array}"])
        return Statement([f"var {kept}: {result} = {name}({arguments});"], run)

    def _leave(self, scope: Scope, depth: int) -> Statement:
        ways = (["break", "continue"] if scope.loops else []) + (["return"] if scope.result else [])
        if not ways:
            return self._assign(scope, depth)
        how, condition = self.random.choice(ways), self.condition(scope, 1)
        value = self.expression(scope, scope.result, 1) if how == "return" and scope.result else None

        def run(memory: Memory) -> None:
            if condition.value(memory):
                raise Left(how, None if value is None else value.value(memory))

        leaving = how if value is None else f"{how} {value.text}"
        return Statement([f"if ({condition.text}) {{ {leaving}; }}"], run)

    def _if(self, scope: Scope, depth: int) -> Statement:
        condition = self.condition(scope, 2)
        first = self.statements(scope.inner(), depth - 1, self.random.randrange(1, 3))
        second = self.statements(scope.inner(), depth - 1, self.random.randrange(3))

        def run(memory: Memory) -> None:
            (first if condition.value(memory) else second).run(memory)

        lines = block(f"if ({condition.text}) {{", first, "} else {" if second.lines else "}")
        return Statement(lines + (block("", second)[1:] if second.lines else []), run)

    def _loop(self, memory: Memory, body: Statement) -> bool:
        """One turn; whether the loop goes on."""
        try:
            body.run(memory)
        except Left as left:
            if left.how == "return":
                raise
            return left.how == "continue"
        return True

    def _while(self, scope: Scope, depth: int) -> Statement:
        counter, turns = self._name("n"), self.random.randrange(4)
        seen = Expression(counter, "u16", lambda memory: memory[counter])
        body = self.statements(
            scope.inner(loop=True, readable=[seen]), depth - 1, self.random.randrange(1, 3)
        )

        def run(memory: Memory) -> None:
            for turn in range(turns):
                memory[counter] = turn
                if not self._loop(memory, body):
                    break

        head = f"while ({counter} < {turns}) : ({counter} += 1) {{"
        return Statement([f"var {counter}: u16 = 0;", *block(head, body)], run)

    def _range(self, scope: Scope, depth: int) -> Statement:
        random = self.random
        name, type = self._name("i"), random.choice(["i16", "i32", "i8"])
        start, step = random.randrange(-5, 6), random.choice([-3, -2, -1, 1, 2, 3])
        stop = start + step * random.randrange(4) + random.choice([0, 1 if step > 0 else -1])
        seen = Expression(name, type, lambda memory: memory[name])
        body = self.statements(scope.inner(loop=True, readable=[seen]), depth - 1, random.randrange(1, 3))

        def run(memory: Memory) -> None:
            for value in range(start, stop, step):
                memory[name] = value
                if not self._loop(memory, body):
                    break

        return Statement(block(f"for (@range({type}, {start}, {stop}, {step})) |{name}| {{", body), run)

    def _each(self, scope: Scope, depth: int) -> Statement:
        name, index, type = self._name("e"), self._name("i"), self.random.choice(TYPES)
        seen = [
            Expression(name, type, lambda memory: memory[name]),
            Expression(index, "u16", lambda memory: memory[index]),
        ]
        inner = scope.inner(loop=True, frozen=f"a_{type}", readable=seen)
        # A pointer of this function may point to the array.
        inner.places = [one for one in inner.places if not one.root.startswith("q_")]
        body = self.statements(inner, depth - 1, self.random.randrange(1, 3))

        def run(memory: Memory) -> None:
            for place, value in enumerate(list(memory[f"a_{type}"])):
                memory |= {name: value, index: place}
                if not self._loop(memory, body):
                    break

        return Statement(block(f"for (a_{type}) |{name}, {index}| {{", body), run)

    def _switch(self, scope: Scope, depth: int) -> Statement:
        type = self.random.choice(INDICES)
        subject = self._unknown(scope, type, 2)
        bodies = [self.statements(scope.inner(), depth - 1, self.random.randrange(1, 3)) for _ in range(3)]

        def run(memory: Memory) -> None:
            value = subject.value(memory) & 7
            bodies[0 if value == 0 else 1 if value in (1, 3, 4, 5) else 2].run(memory)

        lines = [f"switch ({subject.text} & 7) {{"]
        for label, body in zip(("0", "1, 3...5", "else"), bodies, strict=True):
            lines += ["  " + line for line in block(f"{label} => {{", body, "},")]
        return Statement([*lines, "}"], run)

    def _block(self, scope: Scope, depth: int) -> Statement:
        """A block whose value leaves it at one of two places."""
        name, label, type = self._name("v"), self._name("blk"), self.random.choice(TYPES)
        inner = scope.inner()
        inner.loops, inner.result = 0, None
        before = self.statements(inner, depth - 1, self.random.randrange(1, 3))
        condition = self.condition(inner, 1)
        first, second = (self._unknown(inner, type, 1) for _ in range(2))
        place = variable(name, type)

        def run(memory: Memory) -> None:
            before.run(memory)
            place.store(memory, (first if condition.value(memory) else second).value(memory))

        scope.places.append(place)
        end = [
            f"if ({condition.text}) {{ break :{label} {first.text}; }}",
            f"break :{label} {second.text};",
        ]
        body = Statement([*before.lines, *end], before.run)
        return Statement(block(f"var {name}: {type} = {label}: {{", body, "};"), run)


def _flipped(type: str, value: int) -> int:
    return arithmetic("^", type, value, -1 if type[0] == "i" else limits(type)[1])
