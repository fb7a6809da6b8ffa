"""Peak memory of training from disk, by the number of layers: it grows by what passes between layers only.

    python benchmarks/depth.py --layers 8 16 32 64 --width 1024 --json depth.json

One GPT block's width, more and more of them; MemoryX on disk, one system, all roles as threads of one process.
Activations kept, and recomputed. Predicted is the plan's `host_bytes`. Measured is VmHWM during the run above VmRSS
before it (a small model was trained before, so that imports and threads are there already). Draws
docs/images/depth.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import (
    ROOT,
    describe_machine,
    entry,
    finish,
    mib,
    need_disk,
    parser_of,
    print_table,
    run_worker,
    workspace,
)
from _contestants import WORKERS
from _models import Shape

from openwafer.base import StorageError

MODES = {"kept": False, "recomputed": True}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--picture", type=Path, default=ROOT / "docs" / "images" / "depth.png", metavar="FILE"
    )
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    with workspace(options.folder) as folder:
        deepest = Shape(
            max(options.layers), options.width, options.heads, options.vocabulary, options.positions
        )
        need_disk(folder, int(3.1 * deepest.state_bytes), f"store and checkpoints of {deepest.layers} layers")
        for layers in options.layers:
            shape = Shape(layers, options.width, options.heads, options.vocabulary, options.positions)
            row: dict[str, Any] = {"layers": layers, "parameters": shape.parameters}
            for mode, recompute in MODES.items():
                row[mode] = run_worker(__file__, "wafer", settings(options, shape, recompute, folder))
            rows.append(row)
            print(f"{layers} layers done", flush=True)

    print(f"\n{describe_machine()}")
    print(
        f"width {options.width}, vocabulary {options.vocabulary}, batch {options.batch} x {options.positions} tokens in "
        f"{options.microbatches} microbatch(es), float32; MiB\n"
    )
    header = ["layers", "parameters, M", "state on disk"]
    header += [f"{mode}, {what}" for mode in MODES for what in ("predicted", "measured")]
    print_table(header, [cells(row) for row in rows])
    draw(rows, options.picture)
    finish(options, {"rows": rows})


def settings(options: argparse.Namespace, shape: Shape, recompute: bool, folder: Path) -> dict[str, Any]:
    """One run's."""
    return {
        "shape": shape,
        "batch": options.batch,
        "microbatches": options.microbatches,
        "steps": options.steps,
        "threads": options.threads,
        "precision": "fp32",
        "folder": str(folder),
        "cluster": {"memoryx": "disk", "recompute": recompute, "processes": False},
    }


def cells(row: dict[str, Any]) -> list[object]:
    """One row of the table."""
    out: list[object] = [row["layers"], f"{row['parameters'] / 1e6:.1f}", mib(row["kept"]["state_bytes"])]
    for mode in MODES:
        out += [mib(row[mode]["predicted"]), mib(row[mode]["above"])]
    return out


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The table as a picture; both axes logarithmic, so that growth in proportion is a line of slope 1."""
    from matplotlib.figure import Figure

    layers = [row["layers"] for row in rows]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    state = [row["kept"]["state_bytes"] / 2**20 for row in rows]
    axes.plot(layers, state, color="0.55", linestyle=":", marker=".", label="weights and state, on disk")
    for mode, color in zip(MODES, ("tab:orange", "tab:blue"), strict=True):
        measured = [row[mode]["above"] / 2**20 for row in rows]
        predicted = [row[mode]["predicted"] / 2**20 for row in rows]
        axes.plot(layers, measured, color=color, marker="o", label=f"activations {mode}, measured")
        axes.plot(layers, predicted, color=color, linestyle="--", marker="x", label=f"{mode}, predicted")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(layers, [str(count) for count in layers])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("layers")
    axes.set_ylabel("MiB")
    axes.set_title("Peak memory of training from disk")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    try:
        figure.savefig(path, dpi=140)
    except OSError as error:
        raise StorageError(
            f"the picture cannot be written to {path} ({error.strerror}); name a file with --picture"
        ) from None
    print(f"\npicture: {path}")


if __name__ == "__main__":
    entry(main, WORKERS)
