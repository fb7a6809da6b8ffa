"""The text of PE-IR, read back: units, functions, and what is bound."""

from __future__ import annotations

from typing import Any, get_args

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._parse_code import CodeParser


def parse_unit(text: str) -> ir.Unit:
    """The unit that `print_unit` printed; names in it are not checked, `verify` does that.

    Raises CslError that names line and column of the text.
    """
    return _UnitParser(text).unit()


class _UnitParser(CodeParser):
    def unit(self) -> ir.Unit:
        self.expect("unit")
        name = self.string()
        architecture: Any = self.one_of("an architecture", ("wse2", "wse3"))
        half: Any = self.one_of("a 16-bit float", ("f16", "bf16", "cb16"))
        unit = ir.Unit(name, architecture, half, locations=[])
        while self.word.kind != "end":
            word = self.word
            read = getattr(self, f"_read_{word.text}", None) if word.kind == "name" else None
            if read is None:
                self.fail(f"expected a declaration such as symbol, fn, task or export, found {word.text!r}")
            self.take()
            read(unit)
        return unit

    def _read_string(self, unit: ir.Unit) -> None:
        unit.strings.append(self.string())

    def _read_location(self, unit: ir.Unit) -> None:
        unit.locations.append((self.string(), self.whole(), self.whole()))

    def _read_symbol(self, unit: ir.Unit) -> None:
        word = self.word
        name = self.symbol()
        self.expect(":")
        size = self.whole()
        self.expect("align")
        align, kind = self.whole(), self.string()
        value, relocations = b"", []
        if self.accept("="):
            self.expect("hex")
            at = self.word
            try:
                value = bytes.fromhex(self.string())
            except ValueError:
                self.fail(f"these are no bytes in hexadecimal: {at.text}", at)
        while self.accept("at"):
            at_byte, symbol = self.whole(), self.symbol()
            relocations.append(ir.Relocation(at_byte, symbol, self.offset()))
        exported = self.string() if self.accept("exported") else ""
        if name in unit.symbols:
            self.fail(f"symbol @{name} is declared twice", word)
        unit.symbols[name] = ir.Variable(name, size, align, kind, value, tuple(relocations), exported)

    def _read_fn(self, unit: ir.Unit) -> None:
        word = self.word
        function = self.function()
        if function.name in unit.functions:
            self.fail(f"function {function.name} is defined twice", word)
        unit.functions[function.name] = function

    def _read_task(self, unit: ir.Unit) -> None:
        kind: Any = self.one_of("a kind of task", ("data", "local", "control", "teardown", "empty_queue"))
        number = self.whole()
        function: str | None = None
        parameters: tuple[ir.Type, ...] = ()
        if self.accept("="):
            function = self.name()
            self.expect("(")
            parameters = self.types(")")
            self.expect(")")
        active, blocked = self.accept("active"), self.accept("blocked")
        priority: Any = self.one_of("low or high", ("low", "high")) if self.accept("priority") else "low"
        rotation = (self.whole(), self.whole(), self.whole()) if self.accept("rotation") else None
        unit.tasks.append(
            ir.BoundTask(kind, number, function, parameters, active, blocked, priority, rotation)
        )

    def _read_queue(self, unit: ir.Unit) -> None:
        direction: Any = self.one_of("input or output", ("input", "output"))
        number = self.whole()
        self.expect("color")
        color = self.whole()
        priority = self.whole() if self.accept("priority") else 0
        offset = self.whole() if self.accept("control_offset") else 0
        unit.queues.append(ir.BoundQueue(direction, number, color, priority, self.place(), offset))

    def _read_fifo(self, unit: ir.Unit) -> None:
        number, symbol = self.whole(), self.symbol()
        push = self.whole() if self.accept("activate_push") else None
        pop = self.whole() if self.accept("activate_pop") else None
        actions: list[Any] = []
        for when in ("empty", "full"):
            known = self.accept(when)
            actions.append(self.one_of("an action", get_args(ir.FifoAction)) if known else "test_or_suspend")
        unit.fifos.append(ir.BoundFifo(number, symbol, push, pop, *actions))

    def _read_preload(self, unit: ir.Unit) -> None:
        word = self.word
        one = self.instruction()
        if not isinstance(one, ir.LoadDsr):
            self.fail("only a DSR can be loaded before the program starts", word)
        unit.preloads.append(one)

    def _read_blocked(self, unit: ir.Unit) -> None:
        unit.blocked.append((self.name(), self.whole()))

    def _read_opened(self, unit: ir.Unit) -> None:
        unit.opened.append((self.name(), self.whole()))

    def _read_config(self, unit: ir.Unit) -> None:
        address = self.whole()
        self.expect("=")
        unit.config.append((address, self.whole()))

    def _read_export(self, unit: ir.Unit) -> None:
        kind: Any = self.one_of("variable or function", ("variable", "function"))
        name, shown = self.string(), self.string()
        address = self.address() if self.accept("=") else None
        pointer = self.symbol() if self.accept("pointer") else None
        function = self.name() if self.accept("function") else None
        parameters = self.types("") if self.accept("takes") else ()
        unit.exports.append(ir.Exported(name, kind, address, pointer, function, parameters, shown))
