"""A model whose weights and optimizer state are four times what its process may allocate trains from disk.

    python benchmarks/larger_than_memory.py --shape gpt2-xl --precision bf16 --batch 4 --microbatches 4 --recompute \\
        --reference-shape gpt2-medium --steps 3 --folder /a/folder/with/54GB --json gpt2-xl.json

The run is one process, all roles threads of it. Before it imports torch it sets RLIMIT_DATA to --limit, and the
kernel then refuses whatever would make its private writable memory (VmData: heap, buffers, stacks of threads, the data
of Python, torch and every library) larger. Rings and buffers of such a run are private memory, so they count. Pages of
files in the page cache do not: the kernel drops them when it needs room; records are read and written past it where
the file system allows. The model is given as a function and is never built whole; its weights are made one module at a time.

The script refuses to run if the state (weights and both moments of AdamW, float32) is less than --ratio limits. It
shows state, limit, VmHWM, the peak of VmData, seconds a step, and FLOP/s beside those of a plain loop without limit on
--reference-shape, which fits memory; both counted alike: the arithmetic of forward and backward, without
recomputation. Every step has the same tokens, so the loss must fall. If the reference has the same shape, both begin
with the same weights and their losses must agree within --tolerance.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

from _common import (
    describe_machine,
    entry,
    finish,
    largest_difference,
    median_step,
    need_disk,
    parser_of,
    print_table,
    run_worker,
    workspace,
)
from _worker import Settings, memory

from openwafer.base import GIB, MIB, InputError, NumericsError, format_bytes, parse_bytes

PROOF = (64, 640, 10, 256, 16)
"""Shows the mechanism in a minute: many weights, few tokens. Smaller ones are below what Python and torch take."""
SAMPLE_S = 0.01


def main() -> None:
    from _models import SHAPES, Shape  # imports torch, which the limited process must do after its limit

    shapes = {**SHAPES, "proof": Shape(*PROOF)}
    parser = parser_of(__doc__)
    parser.add_argument("--shape", default="gpt2-xl", choices=shapes)
    parser.add_argument("--reference-shape", default="gpt2-medium", choices=shapes)
    parser.add_argument("--limit", type=parse_bytes, help="of VmData, as 4300MiB; default: state / ratio")
    parser.add_argument("--ratio", type=float, default=4.0, help="state / limit must be at least this")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--recompute", action="store_true", help="make activations again in the backward")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "bf16-autocast"))
    parser.add_argument("--matmul", default="torch", choices=("torch", "onednn", "auto"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--tolerance",
        type=float,
        help="of losses, if both shapes are the same; default: 1e-4, in bf16 0.02 (8 bits of mantissa)",
    )
    parser.add_argument(
        "--tidy",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="freed blocks of 1 MiB go back to the kernel at once: slower, but nothing idle counts in the limit",
    )
    parser.add_argument(
        "--no-last-checkpoint", action="store_true", help="end without one: two thirds of the disk, less time"
    )
    options = parser.parse_args()
    shape, reference = shapes[options.shape], shapes[options.reference_shape]
    options.limit = options.limit or int(shape.state_bytes / options.ratio)
    if options.tolerance is None:
        options.tolerance = 1e-4 if options.precision == "fp32" else 0.02
    check(options, shape)

    with workspace(options.folder) as folder:
        # The first checkpoint, MemoryX's store, the last checkpoint.
        copies = 2 if options.no_last_checkpoint else 3
        same = options.shape == options.reference_shape
        needed = copies * shape.state_bytes + (shape.state_bytes // 3 if same else 0)
        need_disk(folder, needed + GIB // 2, f"{copies} copies of {format_bytes(shape.state_bytes)} of state")
        settings: Settings = {
            name: getattr(options, name)
            for name in ("batch", "microbatches", "steps", "threads", "precision", "limit")
        }
        settings |= {"folder": str(folder), "last": not options.no_last_checkpoint}
        settings |= {"weights": None, "one_batch": True}
        settings["cluster"] = {
            "memoryx": "disk",
            "recompute": options.recompute,
            "processes": False,
            "matmul": options.matmul,
        }
        # Freed blocks go back to the kernel, and threads share one heap: the limit is then on what is in use.
        tidy = {"MALLOC_MMAP_THRESHOLD_": str(MIB), "MALLOC_ARENA_MAX": "1"} if options.tidy else {}
        environment = {**tidy, "OMP_NUM_THREADS": str(options.threads)}
        planned = run_worker(__file__, "plan", settings | {"shape": shape}, environment=environment)
        check_fits(options, planned)
        counted = count_work(settings, {"limited": shape, "resident": reference})
        if same:
            settings["weights"] = str(folder / "weights.safetensors")
            run_worker(__file__, "weights", settings | {"shape": shape})
        plain = run_worker(__file__, "resident", settings | {"shape": reference})
        print(f"resident {options.reference_shape}: {median_step([plain]):.2f} s/step", flush=True)
        found = run_worker(__file__, "limited", settings | {"shape": shape}, environment=environment)
    show(options, shape.state_bytes, found, plain, counted)
    finish(options, {"limited": found, "resident": plain, "flops": counted, "state": shape.state_bytes})
    judge(options, found["losses"], plain["losses"])


def check(options: argparse.Namespace, shape: Any) -> None:
    """Raises InputError for a run that would show nothing."""
    ratio = shape.state_bytes / options.limit
    if ratio < options.ratio * (1 - 1e-9):
        raise InputError(
            f"{options.shape} has {format_bytes(shape.state_bytes)} of weights and optimizer state, {ratio:.2f} times the "
            f"limit of {format_bytes(options.limit)}, but {options.ratio:g} times is asked for; lower --limit to "
            f"{format_bytes(shape.state_bytes / options.ratio)} or take a larger --shape"
        )
    if options.steps < 3:
        raise InputError(
            "the first step does not count and the loss must be seen to move; give --steps 3 or more"
        )
    if options.batch % options.microbatches:
        raise InputError(
            f"a batch of {options.batch} does not divide into {options.microbatches} microbatches; choose others"
        )


def limited(settings: Settings) -> dict[str, Any]:
    """Worker: limit this process, then import torch, then train."""
    import resource

    assert "torch" not in sys.modules, "what torch allocates must count"
    resource.setrlimit(resource.RLIMIT_DATA, (settings["limit"], settings["limit"]))
    peak = DataPeak()

    from _contestants import Steps, Tokens, predictions, trainer
    from _models import Shape

    class Enough(Exception):  # noqa: N818 - no error: the last step is done
        pass

    shape = Shape(*settings["shape"])
    steps = Steps()
    losses: list[float] = []

    def note(done: Any) -> None:
        steps.note(done)
        losses.append(done.loss)
        if not settings["last"] and len(losses) == settings["steps"]:
            raise Enough

    made = trainer(settings, shape, Path(settings["folder"], "run"))
    source = Tokens(shape, settings["batch"], one_batch=True)
    plan = made.plan(source)
    before = memory("VmData")
    # A step more than will be done: so the last one that is done is no different from the others.
    count = settings["steps"] + (0 if settings["last"] else 1)
    with contextlib.suppress(Enough):
        made.fit(source, steps=count, keep_checkpoints=1, callbacks=[note])
    return {
        "losses": losses,
        **steps.figures(),
        "peak": memory("VmHWM"),
        "data_before": before,
        "data_peak": peak.stop(),
        "limit": resource.getrlimit(resource.RLIMIT_DATA)[0],
        **predictions(plan),
    }


class DataPeak:
    """The largest VmData that a thread saw; the kernel keeps no such mark. Samples every 10 ms."""

    def __init__(self) -> None:
        self._most = memory("VmData")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self._most = max(self._most, memory("VmData"))

    def stop(self) -> int:
        """End watching; returns the peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most


def plan(settings: Settings) -> dict[str, Any]:
    """Worker: what the plan promises, and VmData of a process that has only planned. Allocates nothing of the model."""
    from _contestants import Tokens, predictions, trainer
    from _models import Shape

    shape = Shape(*settings["shape"])
    made = trainer(settings | {"weights": None}, shape, Path(settings["folder"], "plan"))
    found = predictions(made.plan(Tokens(shape, settings["batch"])))
    return {**found, "data": memory("VmData")}


def count_work(settings: Settings, shapes: dict[str, Any]) -> dict[str, int]:
    """Floating-point operations of a step of each shape, without recomputation, as the plan counts them."""
    kept = settings | {"cluster": {**settings["cluster"], "recompute": False}}
    flops = {
        shape: run_worker(__file__, "plan", kept | {"shape": shape})["flops"]
        for shape in set(shapes.values())
    }
    return {name: flops[shape] for name, shape in shapes.items()}


def check_fits(options: argparse.Namespace, planned: dict[str, Any]) -> None:
    """Raises InputError if the plan needs more than the limit; the run would end the same way, but later."""
    needed = planned["predicted"] + planned["data"]
    print(
        f"memory: the plan needs {format_bytes(planned['predicted'])} beside {format_bytes(planned['data'])} of Python, "
        f"PyTorch and the plan itself; the limit is {format_bytes(options.limit)}",
        flush=True,
    )
    if needed > options.limit:
        raise InputError(
            f"{options.shape} with batch {options.batch} needs {format_bytes(needed)} but the limit is "
            f"{format_bytes(options.limit)}; take a smaller --batch, --recompute, a --shape of more and smaller layers "
            "(the largest one sets the size of every buffer), or a larger limit with a lower --ratio"
        )


def resident(settings: Settings) -> dict[str, Any]:
    """Worker: the plain loop, without limit."""
    import _contestants

    return _contestants.resident(settings)


def weights(settings: Settings) -> dict[str, Any]:
    """Worker: initial weights for both, if both have the same shape."""
    import _contestants

    return _contestants.weights(settings)


def show(
    options: argparse.Namespace,
    state: int,
    found: dict[str, Any],
    plain: dict[str, Any],
    counted: dict[str, int],
) -> None:
    """The table."""
    times = {"limited": median_step([found]), "resident": median_step([plain])}
    rate = {name: counted[name] / times[name] for name in times}
    rows = [
        ["model", options.shape, options.reference_shape],
        ["weights and optimizer state", format_bytes(state), ""],
        ["limit of VmData (RLIMIT_DATA)", format_bytes(found["limit"]), "none"],
        ["state / limit", f"{state / found['limit']:.2f}", ""],
        ["VmData before the run", format_bytes(found["data_before"]), ""],
        ["VmData, peak", format_bytes(found["data_peak"]), ""],
        ["VmHWM", format_bytes(found["peak"]), format_bytes(plain["peak"])],
        ["predicted beyond Python and PyTorch", format_bytes(found["predicted"]), ""],
        ["s/step", f"{times['limited']:.2f}", f"{times['resident']:.2f}"],
        ["GFLOP a step, without recomputation", *(f"{counted[name] / 1e9:.0f}" for name in times)],
        ["GFLOP/s", *(f"{rate[name] / 1e9:.1f}" for name in times)],
        ["of the resident rate", f"{100 * rate['limited'] / rate['resident']:.0f} %", "100 %"],
        ["losses", *(" ".join(f"{loss:.4f}" for loss in each["losses"]) for each in (found, plain))],
    ]
    print(f"\n{describe_machine()}; {os.uname().sysname} {os.uname().release}")
    print(
        f"batch {options.batch} in {options.microbatches} microbatch(es), {options.precision}, {options.threads} threads, "
        f"{'recomputed' if options.recompute else 'activations kept'}, {options.steps} steps\n"
    )
    print_table(["", "limited, from disk", "resident"], rows)


def judge(options: argparse.Namespace, losses: list[float], plain: list[float]) -> None:
    """Raises NumericsError unless the limited run trained."""
    if not (all(map(math.isfinite, losses)) and losses[-1] < losses[0]):
        raise NumericsError(f"the losses {losses} do not fall; the run computed, but it did not train")
    if options.shape != options.reference_shape:
        return
    apart = largest_difference(losses, plain)
    print(f"\nlosses differ from the resident run's by {apart:.1e}")
    if apart > options.tolerance:
        raise NumericsError(
            f"the losses {losses} differ from the resident run's {plain} by more than {options.tolerance:g}; look for "
            "what the limit changed"
        )


WORKERS = {"limited": limited, "plan": plan, "resident": resident, "weights": weights}

if __name__ == "__main__":
    entry(main, WORKERS)
