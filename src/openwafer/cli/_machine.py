"""`wafer machine`: the numbers of the hardware as tables."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openwafer.machine import (
    MACHINES,
    Cluster,
    Contested,
    Fact,
    Machine,
    System,
    Wafer,
    facts_of,
    find_machine,
    part_of,
)

_RECOMMENDED = "[bold]*[/bold] "
_CONTRADICTS = "  "


def show_machines(name: str | None, console: Console) -> None:
    """Print every machine in one overview, or all the numbers of one and of the machines inside it.

    Beside each number stand its grade, its source and its entry in docs/facts.md. A contested number
    shows every value, the recommended one first with a star, and why it is recommended.

    Raises InputError for an unknown name, listing the known names and the nearest one.
    """
    if name is None:
        for table in _overview():
            console.print(table)
        console.print(
            "* contested: `wafer machine NAME` shows every value, its grade and its source.", markup=False
        )
        return
    machine: Machine | None = find_machine(name)
    while machine is not None:
        console.print(_details(machine))
        machine = part_of(machine)
    console.print("* recommended; the values below it contradict it. Entries: docs/facts.md.", markup=False)


def _overview() -> list[Table]:
    wafers = Table(
        "wafer", "PEs", "fabric, columns x rows", "SRAM", "clock", "hop", "peak fp16, dense", title="Wafers"
    )
    systems = Table("system", "wafer", "I/O", "power, peak", title="Systems")
    clusters = Table("cluster", "systems", "cores", "peak fp16, dense", "MemoryX", title="Clusters")
    for machine in MACHINES.values():
        match machine:
            case Wafer():
                wafers.add_row(
                    machine.name,
                    _brief(machine.pes),
                    f"{int(machine.fabric.width)}{_star(machine.fabric.width)} x "
                    f"{int(machine.fabric.height)}{_star(machine.fabric.height)}",
                    _brief(machine.sram_bytes),
                    _brief(machine.clock.default_hz),
                    _brief(machine.link.hop_cycles),
                    _brief(machine.peak_fp16_flops_per_s),
                )
            case System():
                systems.add_row(
                    machine.name,
                    machine.wafer.name,
                    _brief(machine.io_bits_per_s),
                    _brief(machine.peak_watts),
                )
            case Cluster():
                memory = machine.memory_bytes
                clusters.add_row(
                    machine.name,
                    f"{int(machine.systems):,} {machine.system.name}{_star(machine.systems)}",
                    _brief(machine.cores),
                    _brief(machine.peak_fp16_flops_per_s),
                    "not known" if memory is None else _brief(memory),
                )
    return [wafers, systems, clusters]


def _brief(fact: Fact) -> str:
    return f"{fact.text}{_star(fact)} [dim]{fact.grade.value}[/dim]"


def _star(fact: Fact) -> str:
    return "*" if isinstance(fact, Contested) else ""


def _details(machine: Machine) -> Table:
    inside = part_of(machine)
    title = machine.name if inside is None else f"{machine.name}, around the {inside.name}"
    table = Table(title=title, title_justify="left")
    for heading in ("number", "value", "grade", "source"):
        table.add_column(heading, overflow="fold")
    for path, fact in facts_of(machine):
        contested = isinstance(fact, Contested)
        source = f"{escape(fact.recommended.origin)} [dim]#{fact.anchor}[/dim]"
        if contested:
            source += f"\n[italic]{escape(fact.reason)}[/italic]"
        table.add_row(
            escape(path),
            (_RECOMMENDED if contested else _CONTRADICTS) + escape(fact.text),
            fact.grade.value,
            source,
        )
        for other in fact.alternatives:
            table.add_row("", _CONTRADICTS + escape(other.text), other.grade.value, escape(other.origin))
    return table
