"""The runs that several scripts compare: the plain PyTorch loop, and openwafer.

Workers: settings in, figures out. Settings of both: `shape` (the fields of a Shape), `batch`, `steps`, `threads`,
`microbatches`, `precision`, and `weights`, a file of initial weights, or None to make them; with `one_batch` every
step has the same tokens, so that the loss must fall.
Figures of both: `losses`, `times` and `cpu` (seconds by step, the first with what compiling takes), `peak` (bytes:
VmHWM of the whole life, summed over processes), `above` (bytes: VmHWM during the run above VmRSS before it).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _models import DECAY, GPT, LR, Shape, mean_loss, tokens
from _worker import Meter, Settings, memory, restart_peak, steps_of, tree_peak
from rich.console import Console
from safetensors.torch import load_model, save_model

import openwafer as ow
from openwafer.artifact import Plan

WARM = Shape(2, 64, 2, 64, 16)
"""A model that is trained for two steps first, so that what PyTorch and openwafer import, and the threads that they
start, are there before memory is measured."""


def weights(settings: Settings) -> dict[str, Any]:
    """Write initial weights to the file `weights`, for contestants that must begin alike."""
    torch.manual_seed(0)
    save_model(GPT(Shape(*settings["shape"])), settings["weights"])
    return {}


def resident(settings: Settings) -> dict[str, Any]:
    """The loop that everybody writes: model, gradients and AdamW's state in memory, the optimizer fused."""
    torch.set_num_threads(settings["threads"])
    _resident_loop(Shape(*WARM), settings | {"batch": 2, "steps": 2, "microbatches": 1, "weights": None})
    before = restart_peak()
    losses, meter = _resident_loop(Shape(*settings["shape"]), settings)
    above = memory("VmHWM") - before
    return {"losses": losses, **meter.figures(), "peak": tree_peak(), "above": above}


def _resident_loop(shape: Shape, settings: Settings) -> tuple[list[float], Meter]:
    torch.manual_seed(0)
    model = GPT(shape)
    if settings.get("weights"):
        load_model(model, settings["weights"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    batch, parts = settings["batch"], settings["microbatches"]
    losses = []
    meter = Meter.started()
    for step in range(settings["steps"]):
        inputs = tokens(0 if settings.get("one_batch") else step, batch, shape)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(parts):
            rows = slice(part * batch // parts, (part + 1) * batch // parts)
            piece = {name: value[rows] for name, value in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] != "fp32"):
                loss = mean_loss(model(piece["input_ids"]), piece)
            share = len(piece["labels"]) / batch
            (loss * share).backward()
            total += loss.item() * share
        optimizer.step()
        losses.append(total)
        meter.step()
    return losses, meter


class Tokens(ow.BatchSource):
    """The random tokens of every step, without end; with `one_batch` those of the first again and again."""

    batch_size = 0  # each instance has its own
    samples = None
    steps_per_epoch = None

    def __init__(self, shape: Shape, batch: int, one_batch: bool = False) -> None:
        self.shape = shape
        self.batch_size = batch
        self.one_batch = one_batch

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        return tokens(0 if self.one_batch else step, self.batch_size, self.shape)


def trainer(settings: Settings, shape: Shape, folder: Path) -> ow.Trainer:
    """The trainer of these settings; beside those above `cluster`, fields of LocalCluster."""
    cluster = {"execution": "weight_streaming", "matmul": "torch", **settings["cluster"]}
    systems = cluster.get("systems", 1) if cluster["execution"] == "weight_streaming" else 1
    return ow.Trainer(
        lambda: GPT(shape),
        weights=settings.get("weights"),
        loss=mean_loss,
        optimizer=ow.AdamW(lr=LR, weight_decay=DECAY),
        precision=settings["precision"],
        folder=folder,
        cluster=ow.LocalCluster(
            threads=settings["threads"],
            microbatch=-(-settings["batch"] // (settings["microbatches"] * systems)),
            **cluster,
        ),
        console=quiet(),
    )


def wafer(settings: Settings) -> dict[str, Any]:
    """openwafer, with `cluster`; runs in `folder`.

    `predicted` is the plan's `host_bytes`, `predicted_s` the seconds of a step; `roles` are peaks by role.
    """
    torch.set_num_threads(settings["threads"])
    with tempfile.TemporaryDirectory(dir=settings["folder"]) as name:
        folder = Path(name)
        warm_up(settings, folder / "warm")
        shape = Shape(*settings["shape"])
        made = trainer(settings, shape, folder / "run")
        source = Tokens(shape, settings["batch"], settings.get("one_batch", False))
        plan = made.plan(source)
        before = restart_peak()
        steps = Steps()
        result = made.fit(source, steps=settings["steps"], keep_checkpoints=1, callbacks=[steps.note])
    above = memory("VmHWM") - before
    roles = _role_processes(result.peak_rss, made.cluster)
    return {
        "losses": list(result.losses),
        **steps.figures(),
        "peak": before + above + sum(roles.values()),
        "above": above,
        "roles": roles,
        "predicted_s": result.predicted_step_s,
        **predictions(plan),
    }


def warm_up(settings: Settings, folder: Path) -> None:
    """Train WARM for two steps, as one system of this process."""
    alone = {"systems": 1, "processes": False, "execution": "weight_streaming", "memoryx": "ram"}
    small = {"batch": 2, "microbatches": 1, "weights": None}
    made = trainer(settings | small | {"cluster": settings["cluster"] | alone}, WARM, folder)
    made.fit(Tokens(WARM, 2), steps=2, keep_checkpoints=1)


class Steps:
    """Times of openwafer's steps, as the coordinator tells them; `cpu` is of this process, with the roles in it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu = [time.process_time()]

    def note(self, done: Any) -> None:
        self.seconds.append(done.seconds)
        self.cpu.append(time.process_time())

    def figures(self) -> dict[str, list[float]]:
        return {"times": self.seconds, "cpu": steps_of(self.cpu)}


def predictions(plan: Plan) -> dict[str, Any]:
    """What the plan promises, beyond Python and PyTorch."""
    return {
        "predicted": plan.host_bytes,
        "state_bytes": sum(record.nbytes for record in plan.records),
        "flops": plan.flops_per_step,
    }


def _role_processes(peaks: Mapping[str, int], cluster: ow.LocalCluster) -> dict[str, int]:
    """Peaks of the roles that are processes of their own; threads share this process."""
    if not cluster.uses_processes:
        return {}
    return {
        role: peak for role, peak in peaks.items() if cluster.input_processes or not role.startswith("input")
    }


def quiet() -> Console:
    """A console that shows nothing."""
    return Console(file=open(os.devnull, "w"))


WORKERS = {"weights": weights, "resident": resident, "wafer": wafer}
