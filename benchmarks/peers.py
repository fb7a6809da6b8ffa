"""openwafer against DeepSpeed's and FSDP2's offload and the plain PyTorch loop, interleaved in one run.

    python benchmarks/peers.py --model s8 --precision fp32 --steps 5 --rounds 3 --environment ~/peers --json s8-fp32.json
    python benchmarks/peers.py --model m8 --precision bf16 --steps 5 --rounds 3 --environment ~/peers --json m8-bf16.json

The same GPT (the shapes of `train.py`), the same initial weights, the same random tokens, AdamW. In each round every
contestant is a process of its own:

    resident        the plain loop, everything in memory, fused AdamW
    wafer-ram       weight streaming, MemoryX in memory
    wafer-disk      weight streaming, MemoryX in files
    deepspeed-cpu   ZeRO-3, parameters and optimizer in host memory
    deepspeed-nvme  ZeRO-Infinity, parameters and optimizer in files (libaio)
    fsdp2-offload   fully_shard with CPUOffloadPolicy

fp32: all compute in float32. bf16: each its own usual mixed precision over float32 master weights (resident:
autocast). bf16-autocast: torch.autocast in each. Reported are the median seconds per step (without the first step of
each round, which compiles and faults pages in), the speed in terms of the first contestant's, CPU seconds, VmHWM
summed over the contestant's processes for their whole life, and the losses. They must agree with the first
contestant's within --tolerance (relative), or the script ends with an error after its table.

DeepSpeed gets an environment of its own in --environment, kept for the next time, or else in a temporary folder. It
compiles its operators there, which takes minutes; no measured time has that in it. It needs g++, and for
deepspeed-nvme libaio's header.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
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
from _environment import DEEPSPEED, OPERATORS, SCRIPT, Environment
from _models import SHAPES

from openwafer.base import InputError, NumericsError

CONTESTANTS = ("resident", "wafer-ram", "wafer-disk", "deepspeed-cpu", "deepspeed-nvme", "fsdp2-offload")
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "bf16-autocast": 2e-2}
"""Relative difference of a loss; bfloat16 has 8 bits of fraction, and each contestant rounds in other places."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "contestants", nargs="*", metavar="contestant", help="default: all; the first is the reference"
    )
    parser.add_argument("--model", default="s8", choices=SHAPES)
    parser.add_argument("--precision", default="fp32", choices=TOLERANCE)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matmul", default="torch", choices=("torch", "onednn", "auto"), help="openwafer's")
    parser.add_argument("--recompute", action="store_true", help="openwafer's")
    parser.add_argument("--tuned", action="store_true", help="glibc keeps freed pages, for every contestant")
    parser.add_argument("--tolerance", type=float, help="largest relative difference of a loss")
    parser.add_argument("--environment", type=Path, help="folder for the peers' Python; default: temporary")
    parser.add_argument("--libaio", type=Path, help="folder with libaio's header and library")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one contestant's round")
    options = parser.parse_args()
    names = options.contestants or list(CONTESTANTS)
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        raise InputError(f"there is no contestant {unknown[0]!r}; take some of {', '.join(CONTESTANTS)}")
    if options.batch % options.microbatches:
        raise InputError(
            f"a batch of {options.batch} does not divide into {options.microbatches} microbatches, as DeepSpeed asks for"
        )
    check_steps(options.steps)

    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with ExitStack() as stack:
        folder = stack.enter_context(workspace(options.folder))
        # openwafer's first checkpoint, store and last checkpoint; ZeRO-Infinity's files are less.
        need_disk(folder, int(3.4 * SHAPES[options.model].state_bytes), "weights, stores and checkpoints")
        home = (options.environment or folder / "environment").absolute()
        environment = Environment(home, options.libaio and options.libaio.absolute())
        environment.prepare(names)
        weights = str(folder / "weights.safetensors")
        run_worker(__file__, "weights", {"shape": SHAPES[options.model], "weights": weights})
        for number in range(options.rounds):
            for name in names:
                with workspace(folder) as place:
                    rounds[name].append(contest(name, options, environment, weights, place))
                print(f"round {number + 1}: {name} {median_step(rounds[name][-1:]):.3f} s/step", flush=True)
    show(options, rounds)


def contest(
    name: str, options: argparse.Namespace, environment: Environment, weights: str, folder: Path
) -> dict[str, Any]:
    """One round of one contestant."""
    settings = {
        "shape": SHAPES[options.model],
        "weights": weights,
        "folder": str(folder),
        **{key: getattr(options, key) for key in ("batch", "microbatches", "steps", "threads", "precision")},
    }
    variables = {"OMP_NUM_THREADS": str(options.threads), **(TUNED if options.tuned else {})}
    if name in OPERATORS:
        own = {**variables, **environment.variables} if OPERATORS[name] else variables
        python = {"python": environment.python} if OPERATORS[name] else {}
        return run_worker(SCRIPT, name, settings, environment=own, timeout_s=options.timeout, **python)
    kind, _, store = name.partition("-")
    settings["cluster"] = {
        "memoryx": store or "ram",
        "matmul": options.matmul,
        "recompute": options.recompute,
        "processes": False,
    }
    return run_worker(__file__, kind, settings, environment=variables, timeout_s=options.timeout)


def show(options: argparse.Namespace, rounds: dict[str, list[dict[str, Any]]]) -> None:
    """The table; raises NumericsError if losses differ by more than they may."""
    shape = SHAPES[options.model]
    count = options.batch * shape.positions
    reference = next(iter(rounds))
    base, base_losses = median_step(rounds[reference]), rounds[reference][0]["losses"]
    rows, apart = [], {}
    for name, figures in rounds.items():
        seconds = median_step(figures)
        apart[name] = max(largest_difference(entry["losses"], base_losses) for entry in figures)
        rows.append(
            [
                name,
                f"{seconds:.3f}",
                f"{count / seconds:.0f}",
                f"{100 * base / seconds:.0f} %",
                f"{median_step(figures, 'cpu'):.3f}",
                mib(max(entry["peak"] for entry in figures)),
                f"{figures[0]['losses'][0]:.6f}",
                f"{figures[0]['losses'][-1]:.6f}",
                f"{apart[name]:.1e}",
            ]
        )
    print(f"\n{describe_machine()}; DeepSpeed {DEEPSPEED}")
    print(
        f"{options.model}: {shape.parameters / 1e6:.1f} M parameters, {options.precision}, {count} tokens a step in "
        f"{options.microbatches} microbatch(es), {options.threads} threads, {options.rounds} round(s) of {options.steps} steps\n"
    )
    header = ["contestant", "s/step", "tok/s", f"of {reference}", "CPU s/step", "VmHWM MiB"]
    print_table([*header, "first loss", "last loss", "differs by"], rows)
    finish(options, {"deepspeed": DEEPSPEED, "shape": shape, "rounds": rounds, "differences": apart})
    allowed = TOLERANCE[options.precision] if options.tolerance is None else options.tolerance
    wrong = [name for name, value in apart.items() if not value <= allowed]
    if wrong:
        raise NumericsError(
            f"the losses of {', '.join(wrong)} differ from {reference}'s by more than {allowed:g}: this compares different "
            "trainings, so its speeds mean nothing; look at the losses in --json"
        )


if __name__ == "__main__":
    entry(main, _contestants.WORKERS)
