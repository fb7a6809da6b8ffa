"""A report of a program as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from openwafer.fabric import ImageReport, ProgramReport


def show_report(report: ImageReport, console: Console) -> None:
    """Print what each distinct program takes of its PEs."""
    width, height = report.rectangle
    console.print(
        f"{width} x {height} PEs on {report.architecture}, fabric {report.fabric[0]} x {report.fabric[1]}, "
        f"{len(report.programs)} distinct programs"
        + (f", {report.tiles_without_program} tiles that only route" if report.tiles_without_program else "")
    )
    for program in report.programs:
        console.print()
        _program(program, console)


def _program(program: ProgramReport, console: Console) -> None:
    x, y = program.first_tile
    used = program.memory_bytes - program.free_bytes
    console.print(
        f"[bold]{program.name}[/bold] on {program.tiles:,} tiles, the first at ({x}, {y})", highlight=False
    )
    console.print(
        f"  memory {used:,} of {program.memory_bytes:,} bytes ({100 * used / program.memory_bytes:.1f} %), variables "
        f"{program.symbol_bytes:,}"
    )
    _table(
        console,
        ("variable", "type", ">address", ">bytes", ">bank"),
        [
            (one.name, one.type, f"{one.address:#06x}", f"{one.bytes:,}", str(one.first_bank))
            for one in program.symbols
        ],
    )
    most = max(program.bank_bytes) or 1
    _table(
        console,
        ("bank", ">bytes", ""),
        [
            (str(bank), f"{size:,}", "#" * round(30 * size / most))
            for bank, size in enumerate(program.bank_bytes)
        ],
    )
    _table(
        console,
        ("color", ">tiles", "routes"),
        [(str(one.color), f"{one.tiles:,}", _several(one.routes)) for one in program.colors],
    )
    _table(
        console,
        ("task", ">id", "kind", "priority", "at the start"),
        [(one.name or "-", str(one.id), one.kind, one.priority, one.state) for one in program.tasks],
    )
    _table(
        console,
        ("queue", ">number", ">color"),
        [(one.direction, str(one.number), str(one.color)) for one in program.queues],
    )
    _table(
        console,
        ("FIFO", ">address", ">bytes"),
        [(str(one.number), f"{one.address:#06x}", f"{one.bytes:,}") for one in program.fifos],
    )
    _table(
        console,
        ("DSR file", "numbers in use"),
        [(file, ", ".join(map(str, numbers))) for file, numbers in program.dsrs.items() if numbers],
    )
    if program.functions:
        console.print(f"  the host can launch {', '.join(program.functions)}", highlight=False)


def _several(texts: tuple[str, ...], most: int = 4) -> str:
    rest = f"; {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + rest


def _table(console: Console, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table, if it has rows; a column whose name begins with > is of numbers."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column("")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row("", *(text.replace("[", "\\[") for text in row))
    console.print(table)
