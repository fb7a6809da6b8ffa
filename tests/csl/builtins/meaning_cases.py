"""The programs of wrong_meaning.txt: syntax is right, but what they say cannot be meant."""

from __future__ import annotations

import re
from pathlib import Path

from openwafer.csl import DiagnosticError, ir
from openwafer.csl.layout import check_layout
from openwafer.csl.layout._programs import Programs, make_program
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._module import Files

WRONG = Path(__file__).with_name("wrong_meaning.txt")


def wrong_meanings() -> list[tuple[str, str, str]]:
    """Name, program and message of each: `=== name`, the program, `---`, the message.

    A name with `(wse2)` is compiled for that machine, others for the WSE-3; with `(2.10)` in that dialect, others in 1.4. One
    that begins with `layout:` is a whole program, others are programs of one PE.
    """
    found = []
    for part in WRONG.read_text("utf-8").split("=== ")[1:]:
        name, _, rest = part.partition("\n")
        program, _, message = rest.partition("\n---\n")
        found.append((name, program + "\n", message.rstrip("\n")))
    return found


def meaning(name: str, program: str, folder: Path) -> str:
    """The errors of a program as a user reads them; empty if there are none."""
    path = folder / "t.csl"
    path.write_text(program, "utf-8")
    architecture = "wse2" if "(wse2)" in name else "wse3"
    dialect = "2.10" if "(2.10)" in name else "1.4"
    files = Files(dialect)  # type: ignore[arg-type]
    options = Options(architecture=architecture, dialect=dialect, fabric=(20, 10), offset=(4, 1))  # type: ignore[arg-type]
    try:
        file = files.load(path, "t.csl")
        if name.startswith("layout:"):
            check_layout(file, {}, options, files)
        else:
            made = Programs()
            make_program(file, {}, options, files, made)
            if made.diagnostics:
                raise DiagnosticError(made.diagnostics)
    except DiagnosticError as error:
        return re.sub(re.escape(str(folder)) + "/?", "", str(error))
    return ""


def unit_of(program: str, folder: Path, architecture: str = "wse3", half: str = "f16") -> ir.Unit:
    """The PE-IR of a program of one PE. Raises DiagnosticError."""
    path = folder / "t.csl"
    path.write_text(program, "utf-8")
    files, made = Files("1.4"), Programs()
    options = Options(architecture=architecture, half=half)  # type: ignore[arg-type]
    program_made = make_program(files.load(path, "t.csl"), {}, options, files, made)
    if made.diagnostics:
        raise DiagnosticError(made.diagnostics)
    ir.verify(program_made.unit)
    return program_made.unit


def lines(unit: ir.Unit) -> list[str]:
    """The unit as text without its places in the file."""
    text = ir.print_unit(unit)
    return [
        re.sub(r" !\d+$", "", line).strip() for line in text.splitlines() if not line.startswith("location")
    ]


def body(statements: str, declarations: str = "") -> str:
    """A program whose only task does these statements."""
    return (
        f"{declarations}\ntask t() void {{ {statements} }}\n"
        "comptime { @bind_local_task(t, @get_local_task_id(9)); }\n"
    )
