"""Training speed and memory against the plain PyTorch loop, interleaved in one run.

    python benchmarks/train.py --model s8 --precision bf16 --steps 5 --rounds 3 --json s8-bf16.json
    python benchmarks/train.py --model m8 --precision bf16 --batch 16 --microbatches 4 resident wafer-disk

The same GPT, the same initial weights, the same random tokens, AdamW. In each round every contestant is a process of
its own:

    resident        the plain loop, everything in memory, fused AdamW
    wafer-ram       weight streaming, MemoryX in memory
    wafer-disk      weight streaming, MemoryX in files
    ...-tuned       the same with settings of the allocator: glibc keeps freed pages, PyTorch asks for huge ones
    ...-recomputed  the same with inner activations made again in the backward

fp32: all compute in float32. bf16: openwafer computes in bfloat16 over float32 weights, the plain loop under autocast.
Reported are the median seconds per step (without the first step of each round, which compiles and faults pages in), the
speed in terms of the first contestant's, CPU seconds, memory (VmHWM of the whole life; and above what the process had
before the run), and the last loss. Beside them stand what openwafer predicted: seconds of a step, measured for a moment
before the run, and memory, from the plan.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import _contestants
from _common import (
    TUNED,
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
from _models import SHAPES

from openwafer.base import InputError

CONTESTANTS = ("resident", "wafer-ram", "wafer-disk")
SUFFIXES = ("tuned", "recomputed")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "contestants",
        nargs="*",
        metavar="contestant",
        default=list(CONTESTANTS),
        help="the first is the reference",
    )
    parser.add_argument("--model", default="s8", choices=SHAPES)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "bf16-autocast"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", type=int, default=1, help="openwafer's; more than one are processes")
    parser.add_argument("--matmul", default="torch", choices=("torch", "onednn", "auto"), help="openwafer's")
    parser.add_argument("--memoryx-memory", help="RAM that a disk store may use, as 2GiB, or auto")
    options = parser.parse_args()
    for name in options.contestants:
        kind, *rest = name.split("-tuned")[0].split("-recomputed")
        if kind not in CONTESTANTS or (kind == "resident" and rest):
            raise InputError(
                f"there is no contestant {name!r}; take {', '.join(CONTESTANTS)}, with -tuned or -recomputed"
            )
    check_steps(options.steps)

    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.contestants}
    with workspace(options.folder) as folder:
        need_disk(folder, int(3.4 * SHAPES[options.model].state_bytes), "weights, stores and checkpoints")
        weights = str(folder / "weights.safetensors")
        run_worker(__file__, "weights", {"shape": SHAPES[options.model], "weights": weights})
        for number in range(options.rounds):
            for name in options.contestants:
                with workspace(folder) as place:
                    rounds[name].append(contest(name, options, weights, place))
                print(f"round {number + 1}: {name} {median_step(rounds[name][-1:]):.3f} s/step", flush=True)
    show(options, rounds)


def contest(name: str, options: argparse.Namespace, weights: str, folder: Path) -> dict[str, Any]:
    """One round of one contestant."""
    kind, _, store = name.split("-tuned")[0].split("-recomputed")[0].partition("-")
    settings = {
        "shape": SHAPES[options.model],
        "weights": weights,
        "folder": str(folder),
        **{key: getattr(options, key) for key in ("batch", "microbatches", "steps", "precision")},
        "threads": options.threads if kind == "resident" else max(1, options.threads // options.systems),
    }
    if kind == "wafer":
        settings["cluster"] = {
            "systems": options.systems,
            "memoryx": store,
            "matmul": options.matmul,
            "recompute": "-recomputed" in name,
            "memoryx_memory": options.memoryx_memory if store == "disk" else None,
        }
    variables = {"OMP_NUM_THREADS": str(settings["threads"]), **(TUNED if "-tuned" in name else {})}
    return run_worker(__file__, kind, settings, environment=variables)


def show(options: argparse.Namespace, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """The table."""
    shape = SHAPES[options.model]
    count = options.batch * shape.positions
    reference = next(iter(rounds))
    base, base_losses = median_step(rounds[reference]), rounds[reference][0]["losses"]
    rows = []
    for name, figures in rounds.items():
        seconds = median_step(figures)
        promised = [entry["predicted_s"] for entry in figures if entry.get("predicted_s")]
        rows.append(
            [
                name,
                f"{seconds:.3f}",
                f"{sum(promised) / len(promised):.3f}" if promised else "",
                f"{count / seconds:.0f}",
                f"{base / seconds:.2f}",
                f"{median_step(figures, 'cpu'):.3f}",
                mib(max(entry["peak"] for entry in figures)),
                mib(max(entry["above"] for entry in figures)),
                mib(figures[0]["predicted"]) if "predicted" in figures[0] else "",
                f"{figures[0]['losses'][-1]:.6f}",
                f"{max(largest_difference(entry['losses'], base_losses) for entry in figures):.1e}",
            ]
        )
    print(f"\n{describe_machine()}")
    print(
        f"{options.model}: {shape.parameters / 1e6:.1f} M parameters, {options.precision}, {count} tokens a step in "
        f"{options.microbatches} microbatch(es), {options.threads} threads, {options.systems} system(s), "
        f"{options.rounds} round(s) of {options.steps} steps\n"
    )
    header = ["contestant", "s/step", "predicted", "tok/s", f"of {reference}", "CPU s/step", "VmHWM MiB"]
    print_table([*header, "above MiB", "predicted MiB", "last loss", "differs by"], rows)
    finish(options, {"shape": shape, "rounds": rounds})


if __name__ == "__main__":
    entry(main, _contestants.WORKERS)
