"""Training speed on a GPU that holds a quarter of the model's weights and state, against everything resident.

    python benchmarks/gpu.py                                       # a Llama of 1.8 billion parameters, under 8 minutes
    python benchmarks/gpu.py --shape tiny --device copying --cap 250000000     # where there is no GPU, seconds

Both contestants are processes of their own and train the same shape on the same tokens in bfloat16, with float32 weights
and AdamW. `resident` holds weights, gradients and state on the GPU, whose memory is not limited; `streamed` is openwafer,
with weights and state in the host's memory and the GPU's allocator capped at a quarter of their size (PyTorch enforces
it). Reported: tokens per second (median over the steps after the first two), the share of a step that the device
computed, memory that was allocated at most, and the losses (of other random weights). Needs RAM for 12 bytes a parameter,
and twice that on disk for the checkpoints that a run begins and ends with.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

import llama

import openwafer as ow
from openwafer.base import format_bytes

LR = 1e-4
WARM = 2
"""First steps, which compile, pin memory and fill caches; they do not count."""


@dataclass(frozen=True)
class Job:
    """A shape and how it is trained."""

    shape: llama.Shape
    positions: int
    batch: int
    resident_microbatch: int


SHAPES = {
    "tiny": Job(llama.Shape(layers=8, width=128, heads=4, kv_heads=4, hidden=384), 32, 4, 2),
    "1.8b": Job(
        llama.Shape(layers=14, width=3072, heads=24, kv_heads=24, hidden=8192, vocabulary=32_000), 2048, 10, 5
    ),
}


class Tokens(ow.BatchSource):
    """The same random tokens for everybody."""

    samples = None
    steps_per_epoch = None

    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    def batch_size(self) -> int:
        return self.job.batch

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 + step)
        shape = (self.job.batch, self.job.positions + 1)
        ids = torch.randint(self.job.shape.vocabulary, shape, generator=generator)
        return {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}


def job_of(args: argparse.Namespace) -> Job:
    """The shape that was named; a batch that was given takes the place of its own."""
    job = SHAPES[args.shape]
    return replace(job, batch=args.batch) if args.batch else job


def parameters(job: Job) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in llama.Llama(job.shape).parameters())


def cap_bytes(args: argparse.Namespace) -> int:
    """The share of float32 weights and both moments of AdamW that the streamed run may hold on the device."""
    return args.cap or int(12 * parameters(job_of(args)) * args.share)


def resident(args: argparse.Namespace) -> dict[str, Any]:
    """Plain PyTorch with everything on the device: float32 weights, cast to bfloat16 for each microbatch."""
    job, device = job_of(args), "cpu" if args.device == "copying" else args.device
    torch.manual_seed(0)
    with torch.device(device):
        module = llama.Llama(job.shape)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, fused=True)
    source, losses, times = Tokens(job), [], []
    for step in range(args.steps):
        batch = {name: value.to(device) for name, value in source.batch(step).items()}
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for first in range(0, job.batch, job.resident_microbatch):
            rows = {name: value[first : first + job.resident_microbatch] for name, value in batch.items()}
            cast = {name: value.bfloat16() for name, value in module.named_parameters()}
            logits = torch.func.functional_call(module, cast, (rows["input_ids"],))
            loss = llama.next_token_loss(logits, rows) * (len(rows["labels"]) / job.batch)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        losses.append(float(total))  # waits for the device
        times.append(time.perf_counter() - started)
    return {"losses": losses, "times": times, "computed": None, "peak": peak_allocated(device)}


def streamed(args: argparse.Namespace) -> dict[str, Any]:
    """openwafer: one system on the device, MemoryX in the host's memory."""
    job = job_of(args)
    times: list[float] = []
    computed: list[float] = []

    def note(done: Any) -> None:
        times.append(done.seconds)
        computed.append(done.results[0].compute_s)

    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        trainer = ow.Trainer(
            partial(llama.Llama, job.shape),
            loss=llama.next_token_loss,
            optimizer=ow.AdamW(lr=LR),
            precision="bf16",
            folder=folder,
            cluster=ow.LocalCluster(
                device=args.device, system_memory=cap_bytes(args), execution="weight_streaming"
            ),
        )
        result = trainer.fit(Tokens(job), steps=args.steps, keep_checkpoints=1, callbacks=[note])
        plan = (folder / "plan.txt").read_text()
    finally:
        shutil.rmtree(folder)
    return {
        "losses": list(result.losses),
        "times": times,
        "computed": computed,
        "peak": max(result.peak_device.values()),
        "plan": plan,
    }


def peak_allocated(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="1.8b", choices=SHAPES)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or copying where there is no GPU")
    parser.add_argument("--share", type=float, default=0.25, help="of weights and state, that is the cap")
    parser.add_argument("--cap", type=int, default=0, help="the cap in bytes, in place of the share")
    parser.add_argument(
        "--batch", type=int, default=0, help="samples a step; the more the cap has room for the better"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", default=".", help="where checkpoints go while it runs")
    parser.add_argument("--json", help="write everything there")
    parser.add_argument("--worker", choices=("resident", "streamed"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        found = resident(args) if args.worker == "resident" else streamed(args)
        print("RESULT " + json.dumps(found))
        return
    results = {name: run(name) for name in ("resident", "streamed")}
    show(args, results)
    if args.json:
        Path(args.json).write_text(json.dumps({"arguments": vars(args), "results": results}, indent=1))


def run(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{name} failed:\n{done.stdout}")
    found: dict[str, Any] = json.loads(lines[-1][7:])
    return found


def show(args: argparse.Namespace, results: dict[str, dict[str, Any]]) -> None:
    job = job_of(args)
    tokens = job.batch * job.positions
    count = parameters(job)
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
    print(
        f"{args.shape}: {count:,} parameters, {format_bytes(12 * count)} of weights and state, {tokens} tokens a step, "
        f"torch {torch.__version__}, {device}"
    )
    print(
        f"{'':<10}{'s/step':>9}{'tokens/s':>10}{'ratio':>8}{'computing':>11}{'peak':>12}{'cap':>12}{'last loss':>11}"
    )
    base = statistics.median(results["resident"]["times"][WARM:])
    for name, found in results.items():
        seconds = statistics.median(found["times"][WARM:])
        share = f"{statistics.median(found['computed'][WARM:]) / seconds:.0%}" if found["computed"] else "-"
        cap = format_bytes(cap_bytes(args)) if name == "streamed" else "-"
        print(
            f"{name:<10}{seconds:>9.3f}{tokens / seconds:>10.0f}{base / seconds:>8.2f}{share:>11}"
            f"{format_bytes(found['peak']):>12}{cap:>12}{found['losses'][-1]:>11.4f}"
        )
    print(results["streamed"]["plan"])


if __name__ == "__main__":
    main()
