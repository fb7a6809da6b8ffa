"""The flags of `cslc`: one table, and a parser that takes `--flag=v`, `--flag v` and `-o=v`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from openwafer.base import InputError
from openwafer.csl.sema._core import MAX_INLINED_ITERATIONS


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its forms, what stands behind it (nothing: it is a switch), what it says."""

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...] = ()


FLAGS = (
    Flag(("--arch",), "wse2|wse3", "architecture; default wse2", ("wse2", "wse3")),
    Flag(("--fabric-dims",), "W,H", "width and height of the fabric, with the program's margins"),
    Flag(("--fabric-offsets",), "X,Y", "where the program's rectangle begins in the fabric; default 0,0"),
    Flag(("--params",), "NAME:V,...", "values of the layout's parameters; may be given again"),
    Flag(("--colors",), "NAME:V,...", "values of the layout's color parameters; may be given again"),
    Flag(("-o", "--output"), "FOLDER", "folder for the compiled program; default out"),
    Flag(("--memcpy",), "", "the program uses <memcpy/...>: 4 columns west, 3 east, 1 row north and south"),
    Flag(("--channels",), "N", "channels of memcpy, 1 to 16; default 1"),
    Flag(("--width-west-buf",), "N", "columns of buffers west of the rectangle; default 0"),
    Flag(("--width-east-buf",), "N", "columns of buffers east of the rectangle; default 0"),
    Flag(
        ("--import-path",),
        "FOLDER",
        "where @import_module looks too; may be given again, see CSL_IMPORT_PATH",
    ),
    Flag(("--max-inlined-iterations",), "N", "iterations of one inline loop; default 100000"),
    Flag(("--fp16-format",), "f16|bf16|cb16", "what @fp16() is; default f16", ("f16", "bf16", "cb16")),
    Flag(("--sdk-dialect",), "1.4|2.10", "the language of which SDK; default 1.4", ("1.4", "2.10")),
    Flag(("--warnings-as-errors",), "", "accepted for existing scripts; there are no warnings"),
    Flag(("--max-parallelism",), "N", "accepted for existing scripts; one process compiles"),
    Flag(("--verbose",), "", "say what was compiled, and how long it took"),
    Flag(("-h", "--help"), "", "show this"),
)
_BY_NAME = {name: flag for flag in FLAGS for name in flag.names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a `cslc` call asks for."""

    source: Path
    architecture: Literal["wse2", "wse3"] = "wse2"
    fabric: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    params: dict[str, str] = field(default_factory=dict)
    colors: dict[str, str] = field(default_factory=dict)
    output: Path = Path("out")
    memcpy: bool = False
    channels: int = 1
    import_paths: tuple[Path, ...] = ()
    max_inlined_iterations: int = MAX_INLINED_ITERATIONS
    half: Literal["f16", "bf16", "cb16"] = "f16"
    dialect: Literal["1.4", "2.10"] = "1.4"
    verbose: bool = False


def help_text() -> str:
    """What `cslc --help` prints."""
    forms = [(", ".join(flag.names) + (f" {flag.value}" if flag.value else ""), flag.help) for flag in FLAGS]
    width = max(len(form) for form, _ in forms)
    lines = [f"  {form:<{width}}  {text}" for form, text in forms]
    usage = "usage: cslc LAYOUT.csl --fabric-dims=W,H [--fabric-offsets=X,Y] [flags]"
    return "\n".join([usage, "", "Compile a CSL program for the fabric simulator.", "", *lines]) + "\n"


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the call asks for the help text."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def parse_flags(arguments: Sequence[str]) -> Options:
    """The options of a call; the environment's CSL_IMPORT_PATH adds to the import paths.

    Raises InputError for an unknown flag (with the nearest), a missing value, or a value that does not fit.
    """
    given, sources = _split(arguments)
    if len(sources) != 1:
        found = f"found {' '.join(sources)}" if sources else "found none"
        raise InputError(
            f"cslc compiles one layout file, {found}; write cslc layout.csl --fabric-dims=W,H ..."
        )
    for flag in FLAGS:
        for text in given.get(flag.names[0], []):
            if flag.choices and text not in flag.choices:
                raise InputError(f"{flag.names[0]}={text}: choose {' or '.join(flag.choices)}")
    memcpy = "--memcpy" in given
    fabric, offset = _pair(given, "--fabric-dims"), _pair(given, "--fabric-offsets") or (0, 0)
    if fabric is None:
        raise InputError(
            "cslc needs --fabric-dims=W,H; with --memcpy at least the rectangle's width + 7 and height + 2, and "
            "--fabric-offsets=4,1"
        )
    west = _number(given, "--width-west-buf", 0)
    _number(given, "--width-east-buf", 0)  # those columns only have to fit, which the layout checks
    channels = _number(given, "--channels", 1)
    if not 1 <= channels <= 16:
        raise InputError(f"--channels={channels}: choose 1 to 16")
    if memcpy and (offset[0] < 4 + west or offset[1] < 1):
        raise InputError(
            f"--fabric-offsets={offset[0]},{offset[1]} leaves no room for memcpy: it takes {4 + west} columns west of the "
            f"rectangle and 1 row north; write --fabric-offsets={4 + west},1"
        )
    paths = [*given.get("--import-path", []), *os.environ.get("CSL_IMPORT_PATH", "").split(os.pathsep)]
    return Options(
        source=Path(sources[0]),
        architecture=cast(Literal["wse2", "wse3"], _text(given, "--arch", "wse2")),
        fabric=fabric,
        offset=offset,
        params=_named(given, "--params"),
        colors=_named(given, "--colors"),
        output=Path(_text(given, "-o", "out")),
        memcpy=memcpy,
        channels=channels,
        import_paths=tuple(Path(path) for path in paths if path),
        max_inlined_iterations=_number(given, "--max-inlined-iterations", MAX_INLINED_ITERATIONS),
        half=cast(Literal["f16", "bf16", "cb16"], _text(given, "--fp16-format", "f16")),
        dialect=cast(Literal["1.4", "2.10"], _text(given, "--sdk-dialect", "1.4")),
        verbose="--verbose" in given,
    )


def _split(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    given: dict[str, list[str]] = {}
    sources: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            sources.append(argument)
            continue
        name, equals, value = argument.partition("=")
        flag = _BY_NAME.get(name)
        if flag is None:
            near = difflib.get_close_matches(name, _BY_NAME, 1)
            raise InputError(
                f"cslc has no flag {name}" + (f"; did you mean {near[0]}?" if near else "; see cslc --help")
            )
        if not flag.value and equals:
            raise InputError(f"{name} takes no value, found {value!r}")
        if flag.value and not equals:
            following = next(rest, None)
            if following is None:
                raise InputError(f"{name} needs a value: {name} {flag.value}")
            value = following
        given.setdefault(flag.names[0], []).append(value)
    return given, sources


def _text(given: dict[str, list[str]], name: str, default: str) -> str:
    return given[name][-1] if name in given else default


def _number(given: dict[str, list[str]], name: str, default: int) -> int:
    text = _text(given, name, str(default))
    if not text.isdecimal():
        raise InputError(f"{name}={text}: expected a whole number from 0")
    return int(text)


def _pair(given: dict[str, list[str]], name: str) -> tuple[int, int] | None:
    if name not in given:
        return None
    parts = given[name][-1].split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"{name}={given[name][-1]}: expected two whole numbers, for example {name}=8,3")
    return int(parts[0]), int(parts[1])


def _named(given: dict[str, list[str]], name: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in given.get(name, []):
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, colon, value = part.partition(":")
            if not colon or not key.strip() or not value.strip():
                raise InputError(f"{name}={text}: expected NAME:VALUE,..., found {part!r}")
            values[key.strip()] = value.strip()
    return values
