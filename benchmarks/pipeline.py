"""Two systems on two cores: how much of a step each idles, pipelined and weight streaming, and what passes unseen.

    python benchmarks/pipeline.py --model s8 --batch 16 --microbatches 2 4 8 --json pipeline.json

Two systems as processes with one thread each, against the plain loop in one process with two threads, in the same
run and on the same batch. By number of microbatches:

    bubble, measured   1 - sum of the systems' seconds in layer bodies / (systems * seconds of the step)
    bubble, plan       (S - 1) / (M + S - 1), for S stages of equal time and M microbatches: the plan's formula
    imbalance          1 - mean / largest of the systems' seconds in layer bodies: what unequal stages cost by themselves
    waits              seconds that a system waits on average, for weights, values, gradient slots and input

A step's seconds are from the end of the step before to its own end, so a system that begins the next step while the
other ends this one makes the bubble smaller than the formula. What is neither body nor wait is copying gradients and
values, and interpreting. Weight streaming has no bubble in the plan; "reduce under backward" is the share of
the time that MemoryX adds the systems' gradients (spans "reduce" of the timeline, steps 2 and 3) during which some
system runs a backward, so that nothing waits for it. All but the losses are medians over the steps after the first.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _contestants
from _common import (
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
from _contestants import Tokens, predictions, trainer
from _models import SHAPES, Shape
from _worker import Settings, memory

from openwafer.base import InputError
from openwafer.cluster import StepDone
from openwafer.train.report import Timeline

SYSTEMS = 2
WAITS = ("weights", "values", "gradients", "inputs")
MODES = {"pipelined": "pipelined", "streaming": "weight_streaming"}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="s8", choices=SHAPES)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--microbatches", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "bf16-autocast"))
    parser.add_argument("--memoryx", default="ram", choices=("ram", "disk"))
    options = parser.parse_args()
    if options.steps < 4:
        raise InputError(
            "the overlap is read from the second and third step while a fourth runs; give --steps 4 or more"
        )
    for count in options.microbatches:
        if options.batch % (count * SYSTEMS):
            raise InputError(
                f"a batch of {options.batch} does not divide into {count} microbatches on each of {SYSTEMS} systems; "
                "choose other --batch or --microbatches"
            )

    found: dict[str, list[dict[str, Any]]] = {}
    with workspace(options.folder) as folder:
        need_disk(folder, int(3.4 * SHAPES[options.model].state_bytes), "weights, store and checkpoints")
        weights = str(folder / "weights.safetensors")
        run_worker(__file__, "weights", {"shape": SHAPES[options.model], "weights": weights})
        for number, count in itertools.product(range(options.rounds), options.microbatches):
            for mode in ("resident", *MODES):
                name = f"{mode}, {count}"
                settings = settings_of(options, count, mode, weights, folder)
                worker = "resident" if mode == "resident" else "systems"
                found.setdefault(name, []).append(run_worker(__file__, worker, settings))
                print(
                    f"round {number + 1}: {name} microbatches {median_step(found[name][-1:]):.3f} s/step",
                    flush=True,
                )
    show(options, found)
    finish(options, {"runs": found})


def settings_of(
    options: argparse.Namespace, count: int, mode: str, weights: str, folder: Path
) -> dict[str, Any]:
    """One run's: in every mode a microbatch of `batch / count` samples, or of half of them per streaming system."""
    return {
        "shape": SHAPES[options.model],
        "weights": weights,
        "folder": str(folder),
        "batch": options.batch,
        "microbatches": count,
        "steps": options.steps,
        "precision": options.precision,
        "threads": SYSTEMS if mode == "resident" else 1,
        "cluster": {
            "systems": SYSTEMS,
            "execution": MODES.get(mode, ""),
            "memoryx": options.memoryx,
            "processes": True,
        },
    }


def systems(settings: Settings) -> dict[str, Any]:
    """Worker: openwafer on several systems, with what each did in each step."""
    shape = Shape(*settings["shape"])
    steps: list[StepDone] = []
    with tempfile.TemporaryDirectory(dir=settings["folder"]) as folder:
        made = trainer(settings, shape, Path(folder, "run"))
        source = Tokens(shape, settings["batch"])
        plan = made.plan(source)
        result = made.fit(source, steps=settings["steps"], keep_checkpoints=1, callbacks=[steps.append])
    later = steps[1:]
    count = len(plan.systems)
    compute = [[part.compute_s for part in done.results] for done in steps]
    return {
        "losses": list(result.losses),
        "times": [done.seconds for done in steps],
        "compute": compute,
        "bubbles": [
            1 - sum(seconds) / (count * done.seconds) for seconds, done in zip(compute, steps, strict=True)
        ],
        "imbalances": [1 - statistics.mean(seconds) / max(seconds) for seconds in compute],
        "waits": {
            kind: statistics.median(
                statistics.mean(getattr(part, f"{kind}_wait_s") for part in done.results) for done in later
            )
            for kind in WAITS
        },
        "hidden_reduce": hidden_reduce(later),
        "bubble": plan.bubble,
        "peaks": {**result.peak_rss, "coordinator": memory("VmHWM")},
        **predictions(plan),
    }


def hidden_reduce(steps: Sequence[StepDone]) -> float | None:
    """Share (0 to 1) of the time of "reduce" spans during which some system's "backward" span runs; None if none is.

    Spans exist for the first steps of a run only.
    """
    lanes = Timeline()
    for span in itertools.chain.from_iterable(done.spans for done in steps):
        kind = span.name.partition(" ")[0]
        if kind in ("reduce", "backward"):
            lanes.add(kind, span.name, span.start_s, span.end_s)
    return lanes.overlap("reduce", "backward") if lanes.busy("reduce") else None


def show(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """The table."""
    tokens = options.batch * SHAPES[options.model].positions
    rows = []
    for name, rounds in found.items():
        mode, _, count = name.partition(", ")
        resident = found[f"resident, {count}"]
        seconds = median_step(rounds)
        row = [mode, count, f"{seconds:.3f}", f"{tokens / seconds:.0f}"]
        row.append(f"{100 * median_step(resident) / seconds:.0f} %")
        if mode == "resident":
            rows.append(row + [""] * 7)
            continue
        hidden = [entry["hidden_reduce"] for entry in rounds if entry["hidden_reduce"] is not None]
        row.append(percent(median_step(rounds, "bubbles")))
        row.append(percent(rounds[0]["bubble"]) if mode == "pipelined" else "")
        row.append(percent(median_step(rounds, "imbalances")))
        row.append(
            " ".join(f"{statistics.median(entry['waits'][kind] for entry in rounds):.3f}" for kind in WAITS)
        )
        row.append(percent(statistics.median(hidden)) if hidden else "")
        row.append(mib(max(sum(peaks_of(entry)) for entry in rounds)))
        row.append(f"{largest_difference(rounds[0]['losses'], resident[0]['losses']):.1e}")
        rows.append(row)
    print(f"\n{describe_machine()}")
    print(
        f"{options.model} {options.precision}, {tokens} tokens a step, {SYSTEMS} systems of 1 thread, MemoryX in "
        f"{options.memoryx}; resident: {SYSTEMS} threads; {options.rounds} round(s) of {options.steps} steps\n"
    )
    header = ["mode", "microbatches", "s/step", "tok/s", "of resident", "bubble, measured", "bubble, plan"]
    header += ["imbalance", f"waits ({' '.join(WAITS)}), s", "reduce under backward", "VmHWM MiB"]
    print_table([*header, "losses differ by"], rows)


def peaks_of(figures: dict[str, Any]) -> list[int]:
    """VmHWM of every process: input workers are threads of the coordinator's. Pages that they share count in each."""
    return [peak for role, peak in figures["peaks"].items() if not role.startswith("input")]


def percent(share: float) -> str:
    """A share as a percentage with one digit."""
    return f"{100 * share:.1f} %"


WORKERS = {**_contestants.WORKERS, "systems": systems}

if __name__ == "__main__":
    entry(main, WORKERS)
