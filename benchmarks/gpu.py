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

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _common import (
    check_steps,
    describe_machine,
    entry,
    finish,
    median_step,
    need_disk,
    parser_of,
    print_table,
    run_worker,
    workspace,
)
from _worker import Settings

import openwafer as ow
from openwafer.base import format_bytes

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

import llama

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


def job_of(shape: str, batch: int) -> Job:
    """The shape that was named; a batch that was given takes the place of its own."""
    job = SHAPES[shape]
    return replace(job, batch=batch) if batch else job


def parameters(job: Job) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in llama.Llama(job.shape).parameters())


def resident(settings: Settings) -> dict[str, Any]:
    """Worker: plain PyTorch with everything on the device, float32 weights, cast to bfloat16 for each microbatch."""
    job = job_of(settings["shape"], settings["batch"])
    device = "cpu" if settings["device"] == "copying" else settings["device"]
    torch.manual_seed(0)
    with torch.device(device):
        module = llama.Llama(job.shape)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, fused=True)
    source, losses, times = Tokens(job), [], []
    for step in range(settings["steps"]):
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
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
    return {"losses": losses, "times": times, "computed": None, "peak": peak}


def streamed(settings: Settings) -> dict[str, Any]:
    """Worker: openwafer, one system on the device, MemoryX in the host's memory."""
    job = job_of(settings["shape"], settings["batch"])
    times: list[float] = []
    computed: list[float] = []

    def note(done: Any) -> None:
        times.append(done.seconds)
        computed.append(done.results[0].compute_s)

    folder = Path(settings["folder"])
    trainer = ow.Trainer(
        partial(llama.Llama, job.shape),
        loss=llama.next_token_loss,
        optimizer=ow.AdamW(lr=LR),
        precision="bf16",
        folder=folder,
        cluster=ow.LocalCluster(
            device=settings["device"], system_memory=settings["cap"], execution="weight_streaming"
        ),
    )
    result = trainer.fit(Tokens(job), steps=settings["steps"], keep_checkpoints=1, callbacks=[note])
    return {
        "losses": list(result.losses),
        "times": times,
        "computed": computed,
        "peak": max(result.peak_device.values()),
        "plan": (folder / "plan.txt").read_text(),
    }


WORKERS = {"resident": resident, "streamed": streamed}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--shape", default="1.8b", choices=SHAPES)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or copying where there is no GPU")
    parser.add_argument("--share", type=float, default=0.25, help="of weights and state, that is the cap")
    parser.add_argument("--cap", type=int, default=0, help="the cap in bytes, in place of the share")
    parser.add_argument(
        "--batch", type=int, default=0, help="samples a step; the more the cap has room for the better"
    )
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    check_steps(options.steps, WARM)

    job = job_of(options.shape, options.batch)
    state = 12 * parameters(job)
    cap = options.cap or int(state * options.share)
    found = {}
    with workspace(options.folder) as folder:
        need_disk(folder, 2 * state, "the checkpoints that a run begins and ends with")
        settings = {name: getattr(options, name) for name in ("shape", "batch", "device", "steps")}
        settings |= {"cap": cap, "folder": str(folder)}
        for name in WORKERS:
            found[name] = run_worker(__file__, name, settings)
            print(f"{name} done", flush=True)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(f"\n{describe_machine()}; {device}")
    print(
        f"{options.shape}: {state // 12 / 1e6:.1f} M parameters, {format_bytes(state)} of weights and state, "
        f"{job.batch * job.positions} tokens a step, bf16, {options.steps} steps\n"
    )
    header = ["contestant", "s/step", "tok/s", "of resident", "computing", "peak", "cap", "last loss"]
    print_table(header, [cells(name, found, job, cap) for name in found])
    print(f"\n{found['streamed']['plan']}")
    finish(options, {"device": device, "state": state, "cap": cap, "runs": found})


def cells(name: str, found: dict[str, dict[str, Any]], job: Job, cap: int) -> list[object]:
    """One row of the table."""
    figures = found[name]
    seconds = median_step([figures], skipped=WARM)
    out: list[object] = [name, f"{seconds:.3f}", f"{job.batch * job.positions / seconds:.0f}"]
    out.append(f"{median_step([found['resident']], skipped=WARM) / seconds:.2f}")
    computed = median_step([figures], "computed", WARM) if figures["computed"] else None
    out.append("" if computed is None else f"{100 * computed / seconds:.0f} %")
    out.append("" if figures["peak"] is None else format_bytes(figures["peak"]))
    out.append(format_bytes(cap) if name == "streamed" else "")
    return [*out, f"{figures['losses'][-1]:.4f}"]


if __name__ == "__main__":
    entry(main, WORKERS)
