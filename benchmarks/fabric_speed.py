"""How fast whole programs compile and run on the fabric simulator, each case in a process of its own, on one core.

    python benchmarks/fabric_speed.py --json fabric_speed.json
    python benchmarks/fabric_speed.py --cases broadcast --scale 0.1

gemv: one PE, a 128 x 112 matrix of 16-bit floats; four launches, and after each all 28 KB read back, through SdkRuntime.
stencil: the star of radius 1 with one cell a PE on 256 x 256 PEs, 10 iterations. broadcast: 64 words from one corner to all
of 750 x 994 PEs. compile: a program of 500 lines for one PE. tiles: what each further PE of three layouts costs the
compiler, and the machine when it loads: broadcast has one color and two programs, gemv three colors and eight programs,
stencil no routes in its layout and sixteen programs with arrays of colors. `--scale` shortens the sides of the rectangles.
Seconds are of wall time; memory is the largest that the process had.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import ROOT, describe_machine, entry, finish, parser_of, print_table, run_worker
from _worker import Settings, Worker, memory

from openwafer.artifact._image import Image
from openwafer.base import InputError

PROGRAMS = Path(__file__).parent / "programs"
OWN = ROOT / "tests/programs"
STENCIL = ROOT / "src/openwafer/kernels/validate/programs/stencil_cell/layout.csl"
WIDTH, HEIGHT = 750, 994
MARGIN = (7, 2)
SECONDS = ("compile_s", "load_s", "run_s")
CASES = ("gemv", "stencil", "broadcast", "compile", "tiles")


def compiled(layout: Path, rectangle: tuple[int, int], **params: int) -> tuple[Image, float]:
    """The image for WSE-3, and the seconds that it took."""
    from openwafer.csl import compile_program

    start = time.perf_counter()
    image = compile_program(
        layout,
        params={name: str(value) for name, value in params.items()},
        architecture="wse3",
        fabric=(rectangle[0] + MARGIN[0], rectangle[1] + MARGIN[1]),
        offset=(4, 1),
        memcpy=True,
    )
    return image, time.perf_counter() - start


def gemv(scale: float) -> dict[str, Any]:
    """Four launches with a read-back after each."""
    from openwafer.host import MemcpyDataType, SdkRuntime, write_artifacts

    rows, columns, calls = 128, 112, 4
    image, compile_s = compiled(PROGRAMS / "gemv/layout.csl", (1, 1), rows=rows, columns=columns)
    matrix = np.random.default_rng(1).normal(size=rows * columns).astype(np.float16)
    vector = np.ones(columns, np.float16)
    half = {"data_type": MemcpyDataType.MEMCPY_16BIT}
    with tempfile.TemporaryDirectory() as folder:
        runtime = SdkRuntime(write_artifacts(image, Path(folder) / "out", params={}))
        start = time.perf_counter()
        runtime.load()
        runtime.run()
        load_s = time.perf_counter() - start
        start = time.perf_counter()
        for name, values in (("A", matrix), ("x", vector)):
            words = values.view(np.uint16).astype(np.uint32)
            runtime.memcpy_h2d(runtime.get_id(name), words, 0, 0, 1, 1, words.size, **half)
        for _ in range(calls):
            runtime.launch("multiply")
            back = np.zeros(rows * columns, np.uint32)
            runtime.memcpy_d2h(back, runtime.get_id("A"), 0, 0, 1, 1, back.size, **half)
        result = np.zeros(rows, np.uint32)
        runtime.memcpy_d2h(result, runtime.get_id("y"), 0, 0, 1, 1, rows, **half)
        runtime.stop()
        run_s = time.perf_counter() - start
    expected = matrix.reshape(columns, rows).astype(np.float32).sum(axis=0)
    np.testing.assert_allclose(result.astype(np.uint16).view(np.float16), expected, atol=0.5)
    return {"PEs": 1, "compile_s": compile_s, "load_s": load_s, "run_s": run_s, "cycles": "-"}


def launched(image: Image, compile_s: float, name: str, arguments: list[int]) -> tuple[Any, dict[str, Any]]:
    """The machine after a launch on every PE, and the figures."""
    from openwafer.fabric import Machine

    start = time.perf_counter()
    machine = Machine(image)
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    for tile in image.tiles:
        if tile.program is not None:
            machine.launch(tile.x, tile.y, image.programs[tile.program].functions[name], arguments)
    outcome = machine.run()
    run_s = time.perf_counter() - start
    if outcome.failed or outcome.stalled:
        raise InputError(
            f"the benchmark's program did not end: {machine.failure or machine.diagnose()[:2000]}"
        )
    figures = {"PEs": len(image.tiles), "compile_s": compile_s, "load_s": load_s, "run_s": run_s}
    return machine, {**figures, "cycles": machine.cycle}


def stencil(scale: float) -> dict[str, Any]:
    """10 iterations on 256 x 256 PEs."""
    side = max(2, round(256 * scale))
    image, compile_s = compiled(STENCIL, (side, side), width=side, height=side, iterations=10)
    return launched(image, compile_s, "main", [])[1]


def broadcast(scale: float) -> dict[str, Any]:
    """64 words to every PE."""
    width, height, count = max(2, round(WIDTH * scale)), max(2, round(HEIGHT * scale)), 64
    image, compile_s = compiled(
        PROGRAMS / "broadcast/layout.csl", (width, height), width=width, height=height, count=count
    )
    machine, figures = launched(image, compile_s, "send", [])
    if machine.statistics(width - 1, height - 1)["wavelets_in"] != count:
        raise InputError("the last PE did not get all words; the simulator lost some")
    return figures


def compile_case(scale: float) -> dict[str, Any]:
    """500 lines: 45 functions of ten lines that call each other, each of them used."""
    lines = ["param memcpy_params: comptime_struct;"]
    lines.append('const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);')
    lines += ["var data = @zeros([64]f32);", "var total: f32 = 0.0;", ""]
    for number in range(45):
        call = f"sum += step_{number - 1}(first + 1);" if number else "sum += 1.0;"
        lines += [
            f"fn step_{number}(first: i16) f32 {{",
            "  var sum: f32 = 0.0;",
            "  for (@range(i16, 8)) |i| {",
            f"    data[i + {number % 32}] = data[i] * 0.5 + sum;",
            f"    if (first > {number}) {{ sum += data[i]; }} else {{ sum -= data[i]; }}",
            "  }",
            f"  @fadds(@get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{16}} -> data[i + {number % 48}] }}),",
            "    @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{16} -> data[i] }), sum);",
            f"  {call}",
            "  return sum;",
            "}",
        ]
    lines += ["fn main() void {", "  total = step_44(0);", "  sys_mod.unblock_cmd_stream();", "}"]
    lines += ["comptime { @export_symbol(main); }"]
    layout = (
        'const memcpy = @import_module("<memcpy/get_params>", .{ .width = 1, .height = 1 });\n'
        "layout {\n  @set_rectangle(1, 1);\n"
        '  @set_tile_code(0, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(0) });\n'
        '  @export_name("main", fn()void);\n}\n'
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pe.csl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (Path(folder) / "layout.csl").write_text(layout, encoding="utf-8")
        image, compile_s = compiled(Path(folder) / "layout.csl", (1, 1))
        return {**launched(image, compile_s, "main", [])[1], "lines": len(lines)}


def tiles(scale: float) -> dict[str, Any]:
    """The difference between a square of PEs and one of twice its side, by the PEs that it has more."""
    from openwafer.fabric import Machine

    sides = [max(2, round(100 * scale)), max(4, round(200 * scale))]
    further: dict[str, dict[str, float]] = {}
    for name, (layout, params) in LAYOUTS.items():
        found = []
        for side in sides:
            image, compile_s = compiled(layout, (side, side), **params(side))
            start = time.perf_counter()
            Machine(image)
            found.append((len(image.tiles), compile_s, time.perf_counter() - start))
        PEs, compile_s, load_s = (large - small for small, large in zip(*found, strict=True))
        further[name] = {"compile_us_per_PE": 1e6 * compile_s / PEs, "load_us_per_PE": 1e6 * load_s / PEs}
    count, compile_s, load_s = found[-1]
    return {
        "PEs": count, "compile_s": compile_s, "load_s": load_s, "run_s": 0.0, "cycles": "-", "further": further
    }  # fmt: skip


LAYOUTS: dict[str, tuple[Path, Callable[[int], dict[str, int]]]] = {
    "broadcast": (
        PROGRAMS / "broadcast/layout.csl",
        lambda side: {"width": side, "height": side, "count": 64},
    ),
    "gemv": (OWN / "gemv_2d/layout.csl", lambda side: {"width": side, "height": side}),
    "stencil": (OWN / "stencil/layout.csl", lambda side: {"size": side}),
}
RUNS = {"gemv": gemv, "stencil": stencil, "broadcast": broadcast, "compile": compile_case, "tiles": tiles}


def worker(case: str) -> Worker:
    """The worker of a case: its figures, and the memory of its process."""

    def run(settings: Settings) -> dict[str, Any]:
        figures = RUNS[case](float(settings["scale"]))
        return {"case": case, "memory_gib": round(memory("VmHWM") / 2**30, 2), **figures}

    return run


def main() -> None:
    parser = parser_of(__doc__, folder=False)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="of the sides of rectangles")
    options = parser.parse_args()
    if not 0 < options.scale <= 1:
        raise InputError("--scale must be above 0 and at most 1; without it the benchmark runs as published")
    rows = []
    for case in options.cases:
        rows.append(run_worker(__file__, case, {"scale": options.scale}))
    print(f"{describe_machine()}\n")
    table = [
        [row["case"], row["PEs"], *(f"{row[name]:.2f}" for name in SECONDS), row["cycles"], row["memory_gib"]]
        for row in rows
    ]
    print_table(["case", "PEs", "compile, s", "load, s", "run, s", "cycles", "memory, GiB"], table)
    for row in rows:
        for name, figures in row.get("further", {}).items():
            compile_us, load_us = figures["compile_us_per_PE"], figures["load_us_per_PE"]
            print(f"\na further PE of {name}: {compile_us:.1f} us to compile, {load_us:.1f} us to load")
    finish(options, {"rows": rows})


if __name__ == "__main__":
    entry(main, {case: worker(case) for case in CASES})
