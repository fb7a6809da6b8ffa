"""Loops of layouts that are recorded and repeated say exactly what they say if every iteration is walked."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from conformance_run import find_cells
from hypothesis import given
from hypothesis import strategies as st
from layout_agreement import described, evaluated
from layout_random import RandomLayout

from openwafer.compat._flags import parse_flags
from openwafer.csl.layout import _symbolic as symbolic
from openwafer.csl.layout._tape import expression
from openwafer.csl.layout._tile_call import PURE, TILES
from openwafer.csl.layout._tracing import TracingEngine
from openwafer.csl.sema import _numbers as numbers
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import BUILTINS
from openwafer.csl.sema._core import Options

PROGRAMS = Path(__file__).parent.parent / "programs"


def own_programs() -> list[Any]:
    """The layouts of tests/programs with each choice of params, for each architecture."""
    found = []
    for check in sorted(PROGRAMS.glob("*/check.py")):
        spec = importlib.util.spec_from_file_location(f"check_{check.parent.name}", check)
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for architecture in getattr(module, "ARCHITECTURES", ("wse2", "wse3")):
            for params in getattr(module, "PARAMS", ({},)):
                texts = {name: str(value) for name, value in params.items()}
                options = Options(architecture=architecture, dialect=getattr(module, "DIALECT", "1.4"))
                name = "-".join([check.parent.name, architecture, *texts.values()])
                found.append(pytest.param(check.parent / "layout.csl", texts, options, id=name))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "public" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--csl-examples")
        if folder is None:
            skip = pytest.mark.skip(reason="--csl-examples=DIR names the folder of programs to read")
            metafunc.parametrize("public", [pytest.param(None, marks=skip)])
            return
        root = Path(folder).resolve()
        compiled = {
            (root / cell.folder, command)
            for cell in find_cells(root)
            for command in cell.commands
            if command[0] == "cslc"
        }
        metafunc.parametrize("public", sorted(compiled), ids=lambda one: one[0].relative_to(root).as_posix())


@pytest.mark.parametrize(("path", "params", "options"), own_programs())
def test_own_programs_have_the_same_layout_recorded_and_walked(path, params, options):
    """Tiles, params, routes, exports, and their order: a program must not notice how its layout was evaluated."""
    recorded, walked = evaluated(path, params, options)

    assert described(recorded) == described(walked)
    assert not recorded.diagnostics


@pytest.mark.conformance
def test_public_programs_have_the_same_layout_recorded_and_walked(public, monkeypatch):
    """The same for programs that others wrote, in their own style of loops."""
    folder, command = public
    monkeypatch.chdir(folder)
    flags = parse_flags(command[1:])
    options = Options(
        architecture=flags.architecture, dialect=flags.dialect, half=flags.half, fabric=flags.fabric,
        offset=flags.offset, max_inlined_iterations=flags.max_inlined_iterations,
    )  # fmt: skip

    recorded, walked = evaluated(
        flags.source, flags.params, options, colors=flags.colors, import_paths=flags.import_paths
    )

    assert described(recorded) == described(walked)
    assert not recorded.diagnostics


@pytest.mark.parametrize("seed", range(60))
def test_random_layouts_are_the_same_recorded_and_walked(seed, tmp_path):
    """Loops in loops, what they carry, branches, functions that leave loops, mistakes: also the diagnostics are the same."""
    (tmp_path / "layout.csl").write_text(RandomLayout(seed).text(), "utf-8")

    recorded, walked = evaluated(tmp_path / "layout.csl", {}, Options())

    assert described(recorded) == described(walked)


def rows(*body: str, head: str = "") -> str:
    """A layout of 30 x 20 tiles: what happens for each, as x and y of type u16."""
    text = "\n".join(body)
    return (
        f"{head}\nlayout {{ @set_rectangle(30, 20);\n"
        f"for (@range(u16, 30)) |x| {{ for (@range(u16, 20)) |y| {{\n{text}\n}} }} }}\n"
    )


ROUTE = "@set_color_config(x, y, @get_color(1), .{ .routes = .{ .rx = .{ RAMP }, .tx = .{ EAST } } });"
REPEATED = {
    "plain": (rows('@set_tile_code(x, y, "pe.csl");'), 4),
    "edges and parities": (
        rows(
            "const last = x == 29;",
            '@set_tile_code(x, y, "pe.csl", .{ .last = last, .odd = (x + y) % 2 == 1, .left = if (x > 0) WEST else RAMP });',
            f"if (!last and y != 0) {{ {ROUTE} }}",
        ),
        30,
    ),
    "while": (
        "layout { @set_rectangle(30, 20); var x = 0; var y: i16 = 0;\n"
        "while (x < 30) : (x += 1) { y = 0; while (y < 20) { "
        '@set_tile_code(x, y, "pe.csl", .{ .odd = y % 2 }); y += 1; } } }\n',
        20,
    ),
    "a count over all tiles": (
        "layout { @set_rectangle(30, 20); var n: u16 = 0;\n"
        "for (@range(u16, 30)) |x| { for (@range(u16, 20)) |y| { n += 1;"
        '@set_tile_code(x, y, "pe.csl", .{ .third = n % 3 == 0 }); } }\n@comptime_print(n); }\n',
        20,
    ),
    "a small loop within": (
        rows(
            '@set_tile_code(x, y, "pe.csl");',
            "for (@range(u16, 3)) |k| { if (k <= x % 4) {",
            "@set_color_config(x, y, @get_color(k), .{ .routes = .{ .rx = .{ RAMP }, .tx = .{ SOUTH } } }); } }",
        ),
        40,
    ),
    "a function that leaves its loop": (
        rows(
            '@set_tile_code(x, y, "pe.csl", .{ .found = first(x % 4) });',
            head="fn first(n: u16) u16 { for (@range(u16, 9)) |k| { if (k * k >= n) { return k; } } return 9; }",
        ),
        60,
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_large_layout_walks_few_of_its_iterations(name, tmp_path, monkeypatch):
    """That is what recording is for: what a further tile costs does not depend on how much the program says of it."""
    text, most = REPEATED[name]
    (tmp_path / "layout.csl").write_text(text, "utf-8")
    count = []
    walk = TracingEngine._walk
    monkeypatch.setattr(TracingEngine, "_walk", lambda *arguments: count.append(1) or walk(*arguments))

    recorded, walked = evaluated(tmp_path / "layout.csl", {}, Options())

    assert described(recorded) == described(walked)
    assert not recorded.diagnostics
    assert len(recorded.facts.tiles) == 600
    assert len(count) <= most


SAME = {
    "a tile that two iterations name": rows('@set_tile_code(x / 2, y, "pe.csl");'),
    "a color of a tile twice": rows(
        '@set_tile_code(x, y, "pe.csl");', ROUTE, f"if (x == 17 and y == 9) {{ {ROUTE} }}"
    ),
    "a place outside": rows('@set_tile_code(x + y / 15, y, "pe.csl");'),
    "a number below zero": rows('@set_tile_code(x, y, "pe.csl", .{ .n = 25 - x });'),
    "output in one iteration": rows(
        '@set_tile_code(x, y, "pe.csl"); if (x == 20 and y == 3) { @comptime_print(x, y); }'
    ),
    "an assertion that fails late": rows('@set_tile_code(x, y, "pe.csl"); @comptime_assert(x * y < 500);'),
    "a variable behind a pointer": (
        "layout { @set_rectangle(9, 1); var n: u16 = 0; const p = &n;\n"
        'for (@range(u16, 9)) |x| { p.* = p.* + x; @set_tile_code(x, 0, "pe.csl", .{ .n = n }); } }\n'
    ),
    "an array that a loop fills": (
        "layout { @set_rectangle(9, 1); var a = @zeros([9]u16);\n"
        'for (@range(u16, 9)) |x| { a[x] = x * x; @set_tile_code(x, 0, "pe.csl", .{ .a = a }); } }\n'
    ),
    "a loop without an end": "layout { @set_rectangle(1, 1); var n: u16 = 0; while (true) { n = (n + 1) % 7; } }\n",
}


@pytest.mark.parametrize("name", SAME)
def test_what_cannot_be_repeated_is_walked(name, tmp_path):
    """An error comes with the words and the place that the walk gives it, output comes once, state is what it was."""
    (tmp_path / "layout.csl").write_text(SAME[name], "utf-8")

    recorded, walked = evaluated(tmp_path / "layout.csl", {}, Options())

    assert described(recorded) == described(walked)


numbers_ = st.integers(-40, 40)


@given(
    st.sampled_from(["+", "-", "*", "/", "%", "&"]), numbers_, numbers_, st.integers(0, 9), st.integers(0, 9)
)
def test_an_expression_is_what_the_compiler_computes(operator, left, right, below, above):
    """Division truncates and CSL's numbers are exact; where the two differ from Python there is no expression."""
    a, b = (left - below, left + above), (right - above, right + below)

    found = symbolic.arithmetic(operator, "v[0]", "v[1]", a, b)

    if found is not None:
        text, (low, high) = found
        expected = numbers.integer_arithmetic(operator, left, right, t.COMPTIME_INT)
        assert expression(text)([left, right]) == expected
        assert low <= expected <= high
    else:
        assert min(*a, *b) <= 0


@given(st.sampled_from(symbolic.COMPARISONS), numbers_, numbers_, st.integers(0, 9), st.integers(0, 9))
def test_a_comparison_is_decided_only_if_no_number_decides_otherwise(operator, left, right, below, above):
    """What intervals decide is no test of the record, so it has to hold for all iterations."""
    found = symbolic.decided(operator, (left - below, left + above), (right, right + below))

    outcomes = {
        bool(numbers.COMPARE[operator](one, other))
        for one in range(left - below, left + above + 1)
        for other in range(right, right + below + 1)
    }
    assert outcomes == {found} if len(outcomes) == 1 else found is None


def test_builtins_that_are_recorded_as_pure_exist():
    """A name that is spelt wrong would only make layouts slow."""
    assert set(BUILTINS) >= PURE | TILES
