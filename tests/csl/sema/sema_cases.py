"""One case a file: a program, what is done with it (`// RUN:`), and what must come of it (`// CHECK:`), in order.

    // RUN: ir f          the PE-IR of the function f, without its locations
    // RUN: unit          all PE-IR but locations
    // RUN: run main      calls main, which nothing else does; CHECK: lines are `symbol = value` afterwards
    // RUN: errors        the diagnostics; a CHECK: line is part of a line of them, and there are as many as CHECK: lines with
                          `error:`
    // RUN: print         what @comptime_print shows

Behind the word may stand `--dialect=2.10`, `--half=bf16`, `--arch=wse2` and `name=value` for params.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from openwafer.csl import DiagnosticError, ir
from openwafer.csl._compile import compile_unit
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._module import Files
from openwafer.csl.sema._values import Value, comptime_int

CASES = Path(__file__).parents[1] / "cases"


@dataclass(frozen=True)
class Case:
    """One file of cases/."""

    path: Path
    action: str
    target: str
    options: Options
    params: dict[str, Value]
    checks: list[str]


def read_case(path: Path) -> Case:
    text = path.read_text("utf-8")
    found = re.search(r"// RUN: (.*)", text)
    assert found, f"{path.name} has no // RUN: line"
    words = found[1].split()
    settings = {"max_inlined_iterations": 2000}
    params, rest = {}, []
    names = {"--dialect": "dialect", "--half": "half", "--arch": "architecture"}
    for word in words:
        name, equals, value = word.partition("=")
        if name in names:
            settings[names[name]] = value
        elif equals:
            params[name] = comptime_int(int(value))
        else:
            rest.append(word)
    checks = [one.strip() for one in re.findall(r"// CHECK: (.*)", text)]
    assert checks, f"{path.name} checks nothing"
    return Case(path, rest[0], " ".join(rest[1:]), Options(**settings), params, checks)


def compile_case(case: Case, tell: list[str] | None = None) -> ir.Unit:
    """The unit of a case; files are named without their folder."""
    files = Files(case.options.dialect)
    files.load(case.path, case.path.name)
    told = [] if tell is None else tell
    unit = compile_unit(case.path, case.params, options=case.options, files=files, tell=told.append)
    return ir.stack_calls(ir.loop_tail_calls(unit))


def result_text(case: Case) -> str:
    """What the checks of a case are held against."""
    told: list[str] = []
    try:
        unit = compile_case(case, told)
    except DiagnosticError as error:
        return str(error)
    if case.action == "print":
        return "\n".join(told)
    text = "\n".join(line for line in ir.print_unit(unit).splitlines() if not line.startswith("location"))
    text = re.sub(r" !\d+$", "", text, flags=re.MULTILINE)
    if case.action == "ir":
        start = text.index(f"fn {case.target}(")
        text = text[start : text.index("\n}", start) + 2]
    return text


def missing(checks: list[str], text: str) -> str:
    """The first check that no line of the text holds behind the lines of those before it."""
    lines = iter(text.splitlines())
    return next((one for one in checks if not any(one in line for line in lines)), "")


def symbol_values(unit: ir.Unit, memory: bytes) -> dict[str, list[float]]:
    """What the variables hold in a memory, by their names."""
    linked = ir.link(unit)
    found = {}
    for name, variable in unit.symbols.items():
        kind = variable.type.rpartition("]")[2]
        codes = {"i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q"}
        codes |= {"f16": "e", "f32": "f", "bool": "B"}
        if kind in codes:
            code = codes[kind]
            at, count = linked.addresses[name], variable.bytes // struct.calcsize(code)
            found[name] = list(struct.unpack_from(f"<{count}{code}", memory, at))
    return found
