"""Peak memory by the size of the vocabulary: resident, and streamed with the logits made in chunks of rows.

    python benchmarks/vocabulary.py --vocabularies 8192 32768 131072 --json vocabulary.json

A small GPT, where embedding, head and logits are most of what training holds. Random tokens, AdamW, float32.
Predicted is the plan's `host_bytes`. Measured is VmHWM during the run above VmRSS before it (a small model was
trained before, so that imports and threads are there already). The plain loop has no plan: "holds at least" counts its
weights, gradients and two moments (16 bytes a parameter) and its logits with their gradient.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _common import (
    check_steps,
    describe_machine,
    entry,
    finish,
    largest_difference,
    median_step,
    mib,
    need_disk,
    parser_of,
    print_table,
    run_worker,
    workspace,
)
from _contestants import WORKERS
from _models import Shape

STORES = ("ram", "disk")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    check_steps(options.steps)

    shapes = [
        Shape(options.layers, options.width, options.heads, vocabulary, options.positions)
        for vocabulary in options.vocabularies
    ]
    rows: list[dict[str, Any]] = []
    with workspace(options.folder) as folder:
        need_disk(folder, int(3.4 * max(shape.state_bytes for shape in shapes)), "store and checkpoints")
        for shape in shapes:
            rows.append({"vocabulary": shape.vocabulary, "parameters": shape.parameters})
            rows[-1].update(measure(options, shape, folder))
            print(f"vocabulary {shape.vocabulary} done", flush=True)

    print(f"\n{describe_machine()}")
    print(
        f"{options.layers} layers of width {options.width}, batch {options.batch} x {options.positions} tokens, float32, "
        f"{options.threads} threads; MiB\n"
    )
    header = ["vocabulary", "parameters, M", "resident, holds at least", "resident, measured"]
    header += [f"{store}, {what}" for store in STORES for what in ("predicted", "measured")]
    header += ["resident s/step", *(f"{store} s/step" for store in STORES), "losses differ by"]
    print_table(header, [cells(options, row) for row in rows])
    finish(options, {"rows": rows})


def measure(options: argparse.Namespace, shape: Shape, folder: Path) -> dict[str, Any]:
    """All contestants on one vocabulary, from the same weights."""
    weights = folder / "weights.safetensors"
    run_worker(__file__, "weights", {"shape": shape, "weights": str(weights)})
    settings = {
        "shape": shape,
        "weights": str(weights),
        "folder": str(folder),
        "microbatches": 1,
        "precision": "fp32",
        **{name: getattr(options, name) for name in ("batch", "steps", "threads")},
    }
    found = {"resident": run_worker(__file__, "resident", settings)}
    for store in STORES:
        settings["cluster"] = {"memoryx": store, "processes": False}
        found[store] = run_worker(__file__, "wafer", settings)
    return found


def cells(options: argparse.Namespace, row: dict[str, Any]) -> list[object]:
    """One row of the table."""
    logits = options.batch * options.positions * row["vocabulary"] * 4
    out: list[object] = [row["vocabulary"], f"{row['parameters'] / 1e6:.1f}"]
    out += [mib(16 * row["parameters"] + 2 * logits), mib(row["resident"]["above"])]
    for store in STORES:
        out += [mib(row[store]["predicted"]), mib(row[store]["above"])]
    out += [f"{median_step([row[name]]):.3f}" for name in ("resident", *STORES)]
    losses = row["resident"]["losses"]
    return [*out, f"{max(largest_difference(row[store]['losses'], losses) for store in STORES):.1e}"]


if __name__ == "__main__":
    entry(main, WORKERS)
