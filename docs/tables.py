"""Writes the tables of fabric.md, fabric-timing.md and csl.md that the code already knows: `python docs/tables.py`.

A table stands between `<!-- table NAME -->` and `<!-- end -->`; tests/docs/test_tables.py holds them to the code.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path

from openwafer.csl.sema import _builtin, builtins
from openwafer.fabric import TimingValue, load_timing
from openwafer.kernels.validate import MEASURES, ROWS, Result, summarise, validate

HERE = Path(__file__).parent
DOCUMENTS = ("fabric.md", "fabric-timing.md", "csl.md")
LIBRARY = Path(builtins.__file__).parents[2] / "library"
_PLACE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_REFUSALS = re.compile(r'@comptime_assert\(false,\s*"([^";]+ (?:not supported yet|not modelled)); ([^"]+)"\)')
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
    "_rotation": "tasks",
    "_queues": "queues",
    "_descriptors": "DSDs",
    "_registers": "DSRs",
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


def fitted_table() -> str:
    """The entries of the sim tables that benchmarks/fit_timing.py found."""
    old, new = load_timing("wse2", "sim").entries, load_timing("wse3", "sim").entries
    lines = ["| entry | WSE-2 | WSE-3 |", "|---|--:|--:|"]
    for name in old:
        if "fit_timing" in old[name].source + new[name].source:
            lines.append(f"| `{name}` | {_numbers(old[name])} | {_numbers(new[name])} |")
    return "\n".join(lines)


@functools.cache
def _results() -> list[Result]:
    return validate(ROWS)


def comparison_summary() -> str:
    """How many rows hold, of each kind."""
    lines = ["| rows | within their bound | mean error |", "|---|--:|--:|"]
    return "\n".join(
        lines
        + [
            f"| {one.name} | {one.held} of {one.rows} | {100 * one.mean_error:.1f} % |"
            for one in summarise(_results())
        ]
    )


def comparison_table() -> str:
    """Every row of `wafer fabric validate`."""
    lines = [
        "| row | architecture | published | simulated | error | | holds |",
        "|---|---|--:|--:|--:|---|---|",
    ]
    for one in _results():
        row = one.row
        published = _cycles(row.low) if row.low == row.high else f"{_cycles(row.low)} to {_cycles(row.high)}"
        part = "fitted" if row.fitted else "" if row.bound in ("exact", "told") else "held out"
        holds = {None: "-", True: "yes", False: "no, another program" if row.remark else "no"}[one.holds]
        error = f"{100 * one.error:+.1f} %"
        lines.append(
            f"| {row.name} | {row.architecture} | {published} | {_cycles(one.simulated)} | {error} | {part} | {holds} |"
        )
    return "\n".join(lines)


def _cycles(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def measures_table() -> str:
    """What `wafer fabric validate --rows` may ask for."""
    lines = ["| measure | params | what it is |", "|---|---|---|"]
    for name, function in MEASURES.items():
        params = list(inspect.signature(function).parameters)[3:]
        text = (inspect.getdoc(function) or "").partition("\n")[0]
        lines.append(f"| `{name}` | {', '.join(f'`{one}`' for one in params) or '-'} | {text} |")
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
        text = path.read_text()
        names = re.findall(r"^(?:inline )?fn (\w+)", text, re.MULTILINE)
        if not names and _REFUSALS.search(text):
            continue
        public = [f"`{name}`" for name in dict.fromkeys(names) if not name.startswith("_")]
        name = path.relative_to(LIBRARY).with_suffix("").as_posix()
        rows.append(f"| `<{name}>` | {', '.join(public) or 'constants'} |")
    return "\n".join(["| library | functions |", "|---|---|", *rows])


def refused_table() -> str:
    """What is an error because it is not there, and what to use instead."""
    rows = [
        f"| `@{name}` {problem} | {instead} |"
        for name, (problem, instead) in sorted(_builtin.REFUSED.items())
    ]
    for path in sorted(LIBRARY.rglob("*.csl")):
        for problem, instead in _REFUSALS.findall(path.read_text()):
            name = f"`<{path.relative_to(LIBRARY).with_suffix('').as_posix()}>`"
            what = (
                problem.replace(name.strip("`"), name) if name.strip("`") in problem else f"{name}: {problem}"
            )
            rows.append(f"| {what} | {instead} |")
    return "\n".join(["| what | instead |", "|---|---|", *rows])


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
    "timing-fitted": fitted_table,
    "comparison-summary": comparison_summary,
    "comparison": comparison_table,
    "measures": measures_table,
    "builtins": builtin_table,
    "libraries": library_table,
    "refused": refused_table,
    "private": private_table,
}


def filled(text: str) -> str:
    """A document with its tables as the code has them now."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for name in DOCUMENTS:
        path = HERE / name
        path.write_text(filled(path.read_text()))
