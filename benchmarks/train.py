"""Training speed and memory against plain resident PyTorch, interleaved in one run.

    python benchmarks/train.py --model s8 --precision fp32 --steps 4 --rounds 2 resident wafer-ram wafer-disk

Every contestant is a process of its own per round (same model, same random tokens, AdamW). Reported are the median
seconds per step (the first step, which compiles and faults pages in, is left out), the ratio to `resident`,
VmHWM of the process, and the losses, which must agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {  # layers, width, heads, vocabulary, positions
    "tiny": (4, 128, 4, 512, 64),
    "s8": (12, 768, 12, 8192, 256),
    "m8": (24, 1024, 16, 8192, 256),
    "xl8": (48, 1600, 25, 8192, 256),
}
LR = 1e-4
TUNED = {
    # glibc: keep freed pages, and use transparent huge pages for what is allocated.
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "THP_MEM_ALLOC_ENABLE": "1",
}


def model(shape: str):
    """A GPT-2 shape with untied head, its loss, vocabulary and positions."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
    import gpt

    layers, width, heads, vocabulary, positions = SHAPES[shape]
    gpt.VOCABULARY = vocabulary
    return gpt.GPT(layers, width, heads, positions), gpt.next_byte_loss, vocabulary, positions


def next_byte_loss():
    sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
    import gpt

    return gpt.next_byte_loss


def save_weights(args: argparse.Namespace) -> dict:
    """The initial weights, as one file that the others read."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({name: value.detach() for name, value in model(args.model)[0].named_parameters()}, args.weights)
    return {}


def batch_of(step: int, batch: int, vocabulary: int, positions: int):
    import torch

    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, vocabulary, (batch, positions), generator=generator)
    return {"input_ids": tokens, "labels": tokens}


def peak_rss() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def resident(args: argparse.Namespace) -> dict:
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    module, loss_fn, vocabulary, positions = model(args.model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, weight_decay=0.1, fused=True)
    losses, times, cpu = [], [], []
    for step in range(args.steps):
        inputs = batch_of(step, args.batch, vocabulary, positions)
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        parts = args.microbatches
        for part in range(parts):
            rows = slice(part * args.batch // parts, (part + 1) * args.batch // parts)
            piece = {name: value[rows] for name, value in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision != "fp32"):
                loss = loss_fn(module(piece["input_ids"]), piece)
            (loss / parts).backward()
            total += loss.item() / parts
        optimizer.step()
        losses.append(total)
        times.append(time.perf_counter() - started)
        cpu.append(time.process_time())
    return {"losses": losses, "times": times, "cpu": _steps(cpu), "rss": peak_rss()}


def wafer(args: argparse.Namespace) -> dict:
    import torch

    import openwafer as ow

    torch.set_num_threads(args.threads)
    _, _, _, vocabulary, positions = SHAPES[args.model]
    kind = args.worker.split("-")[1]

    class Tokens(ow.BatchSource):
        batch_size = args.batch
        samples = None
        steps_per_epoch = None

        def batch(self, step):
            return batch_of(step, args.batch, vocabulary, positions)

    folder = Path(tempfile.mkdtemp(dir=args.folder))
    times: list[float] = []
    cpu: list[float] = []

    def note(done) -> None:
        times.append(done.seconds)
        cpu.append(time.process_time())

    trainer = ow.Trainer(
        lambda: model(args.model)[0],
        weights=args.weights,
        loss=next_byte_loss(),
        optimizer=ow.AdamW(lr=LR, weight_decay=0.1),
        precision=args.precision,
        folder=folder,
        cluster=ow.LocalCluster(
            systems=args.systems,
            memoryx=kind,
            execution="weight_streaming",
            microbatch=max(1, args.batch // args.microbatches // args.systems),
            recompute=args.recompute,
            threads=max(1, args.threads // args.systems),
            matmul=args.matmul,
        ),
        console=_quiet(),
    )
    source = Tokens()
    plan = trainer.plan(source)
    try:
        result = trainer.fit(source, steps=args.steps, keep_checkpoints=1, callbacks=[note])
    finally:
        shutil.rmtree(folder)
    predicted = {
        "system": max(system.memory.peak for system in plan.systems),
        "memoryx": plan.memoryx.ram,
    }
    return {
        "losses": list(result.losses),
        "times": times,
        "cpu": _steps(cpu),
        "rss": peak_rss(),
        "predicted": predicted,
        "roles": result.peak_rss,
    }


def _quiet():
    from rich.console import Console

    return Console(file=open(os.devnull, "w"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contestants", nargs="*", default=["resident", "wafer-ram", "wafer-disk"])
    parser.add_argument("--model", default="s8", choices=SHAPES)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", type=int, default=1)
    parser.add_argument("--matmul", default="torch")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--folder", default=".")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--weights", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker = (
            save_weights
            if args.worker == "weights"
            else resident
            if args.worker.startswith("resident")
            else wafer
        )
        found = worker(args)
        print("RESULT " + json.dumps(found))
        return
    results: dict[str, list[dict]] = {name: [] for name in args.contestants}
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        compare(args, results, str(folder / "weights.safetensors"))
    finally:
        shutil.rmtree(folder)
    show(args, results)


def compare(args: argparse.Namespace, results: dict[str, list[dict]], weights: str) -> None:
    run(args, "weights", weights)
    for _ in range(args.rounds):
        for name in args.contestants:
            results[name].append(run(args, name, weights))


def run(args: argparse.Namespace, name: str, weights: str) -> dict:
    env = os.environ | (TUNED if name.endswith("-tuned") else {})
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--weights", weights]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(lines[-1][7:])


def show(args: argparse.Namespace, results: dict[str, list[dict]]) -> None:
    tokens = args.batch * SHAPES[args.model][4]
    base = _median(results[args.contestants[0]], "times")
    base_cpu = _median(results[args.contestants[0]], "cpu")
    print(
        f"{args.model} {args.precision}, {tokens} tokens a step, {args.threads} threads, {args.rounds} round(s)"
    )
    print(
        f"{'contestant':<24}{'s/step':>9}{'tok/s':>9}{'ratio':>8}{'CPU s/step':>12}{'ratio':>8}{'RSS MB':>9}{'last loss':>12}"
    )
    for name, rounds in results.items():
        seconds = _median(rounds, "times")
        cpu = _median(rounds, "cpu")
        rss = max(entry["rss"] for entry in rounds) / 1e6
        print(
            f"{name:<24}{seconds:>9.3f}{tokens / seconds:>9.0f}{base / seconds:>8.2f}"
            f"{cpu:>12.3f}{base_cpu / cpu:>8.2f}{rss:>9.0f}"
            f"{rounds[0]['losses'][-1]:>12.6f}"
        )
        if "predicted" in rounds[0]:
            print(f"    predicted bytes {rounds[0]['predicted']}, by role {rounds[0]['roles']}")


def _steps(clock: list[float]) -> list[float]:
    """Differences of a clock that was read after every step; the first step has none."""
    return [0.0, *(after - before for before, after in itertools.pairwise(clock))]


def _median(rounds: list[dict], what: str) -> float:
    """The first step of each round compiles and faults pages in: it does not count."""
    return statistics.median(value for entry in rounds for value in entry[what][1:])


if __name__ == "__main__":
    main()
