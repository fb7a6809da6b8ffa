"""Writes the tables of fabric.md and csl.md that the code already knows: `python docs/tables.py`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; tests/docs/test_tables.py holds them to the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from openwafer.csl.sema import _builtin, builtins
from openwafer.fabric import TimingValue, load_timing

HERE = Path(__file__).parent
DOCUMENTS = ("fabric.md", "csl.md")
LIBRARY = Path(builtins.__file__).parents[2] / "library"
_PLACE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_AREAS = {
    "_types_of_things": "types and conversions",
    "_sequences": "ranges and arrays",
    "_structs": "structs",
    "_strings": "strings, messages while compiling",
    "_checks": "checks, random numbers",
    "_modules": "modules",
    "_imported_values": "modules",
    "_layout": "layout",
    "_colors": "routes",
    "_exports": "what the host sees",
    "_ids": "ids",
    "_tasks": "tasks",
    "_queues": "queues",
    "_descriptors": "DSDs",
    "_operations": "operations on DSDs",
    "_map": "operations on DSDs",
    "_fifos": "FIFOs",
    "_configuration": "configuration registers",
}
_STAGES = {
    "comptime": "at comptime",
    "layout": "in a layout block",
    "block": "in a comptime block",
    "code": "in running code",
}


def timing_section(section: str) -> str:
    """One section of the sim tables, entry by entry; entries alike in everything share a row."""
    old, new = load_timing("wse2", "sim").entries, load_timing("wse3", "sim").entries
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in old:
        if name.partition(".")[0] != section:
            continue
        a, b = old[name], new[name]
        grades = a.grade if a.grade == b.grade else f"{a.grade}; {b.grade}"
        sources = a.source if a.source == b.source else f"WSE-2: {a.source}; WSE-3: {b.source}"
        key = (_numbers(a), _numbers(b), grades, sources)
        rows.setdefault(key, []).append(f"`{name.partition('.')[2]}`")
    lines = ["| entry | WSE-2 | WSE-3 | grade | source |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {', '.join(names)} | {' | '.join(key)} |" for key, names in rows.items()])


def _numbers(value: TimingValue) -> str:
    return ", ".join(f"{number:g}" for number in value.values)


def silicon_section() -> str:
    """What the silicon tables change."""
    lines = ["| entry | architecture | sim | silicon | grade | source |", "|---|---|---|---|---|---|"]
    for architecture in ("wse2", "wse3"):
        sim, silicon = (load_timing(architecture, profile).entries for profile in ("sim", "silicon"))
        lines += [
            f"| `{name}` | {architecture} | {_numbers(sim[name])} | {_numbers(value)} | {value.grade} | {value.source} |"
            for name, value in silicon.items()
            if value != sim[name]
        ]
    return "\n".join(lines)


def builtin_table() -> str:
    """Every builtin, by area."""
    areas: dict[str, list[str]] = {area: [] for area in _AREAS.values()}
    for name, entry in sorted(_builtin.BUILTINS.items()):
        if name.startswith("__"):
            continue
        text = f"`@{name}`"
        remarks = [_STAGES[entry.stage]] if entry.stage in ("comptime", "layout", "block") else []
        if len(entry.dialects) == 1:
            remarks.append(f"dialect {entry.dialects[0]}")
        areas[_AREAS[entry.handler.__module__.rpartition(".")[2]]].append(
            text + (f" ({', '.join(remarks)})" if remarks else "")
        )
    rows = [f"| {area} | {', '.join(names)} |" for area, names in areas.items()]
    return "\n".join(["| area | builtins |", "|---|---|", *rows])


def library_table() -> str:
    """Every library file with the functions that it has."""
    rows = []
    for path in sorted(LIBRARY.rglob("*.csl")):
        names = re.findall(r"^(?:inline )?fn (\w+)", path.read_text(), re.MULTILINE)
        public = [f"`{name}`" for name in dict.fromkeys(names) if not name.startswith("_")]
        name = path.relative_to(LIBRARY).with_suffix("").as_posix()
        rows.append(f"| `<{name}>` | {', '.join(public) or 'constants'} |")
    return "\n".join(["| library | functions |", "|---|---|", *rows])


def private_table() -> str:
    """The builtins that only libraries may use."""
    rows = [f"`@{name}`" for name in sorted(_builtin.BUILTINS) if name.startswith("__")]
    return ", ".join(rows) + "."


TABLES: dict[str, Callable[[], str]] = {
    **{
        f"timing-{section}": (lambda section=section: timing_section(section))
        for section in ("network", "queues", "tasks", "vector", "widths", "registers", "operations", "memcpy")
    },
    "timing-silicon": silicon_section,
    "builtins": builtin_table,
    "libraries": library_table,
    "private": private_table,
}


def filled(text: str) -> str:
    """A document with its tables as the code has them now."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for name in DOCUMENTS:
        path = HERE / name
        path.write_text(filled(path.read_text()))
