"""What the client programs share: their command line, the backend, the training loop and the record of what they saw.

    python mlp.py --backend CPU --steps 40 --folder OUT
    python mlp.py --backend CSX --address localhost:9000 --systems 2 --steps 40 --folder OUT

Everything here is an ordinary program over the public interface of cerebras.pytorch. A program writes OUT/losses.json,
the loss of each step in order, and OUT/checkpoint_STEP.mdl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cerebras.pytorch as cstorch
import torch

HERE = str(Path(__file__).parent)
"""Input workers import this module, so its folder is mounted for them."""


def parse(**defaults: Any) -> argparse.Namespace:
    """The options of a program, with its own defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=("CPU", "CSX"), default="CPU")
    parser.add_argument("--validate-only", action="store_true", help="only write the program's CIRH")
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--address", default="localhost:9000")
    parser.add_argument("--systems", type=int, default=1)
    parser.add_argument("--micro-batch", default=None)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--checkpoint-steps", type=int, default=0)
    parser.add_argument("--activation-steps", type=int, default=1)
    parser.add_argument("--resume", default=None, help="a checkpoint of an earlier run")
    parser.add_argument("--folder", type=Path, default=Path("run"))
    parser.add_argument("--half", choices=("float16", "bfloat16", "cbfloat16"), default="float16")
    parser.add_argument("--level", type=int, default=1, help="precision optimisation level")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--sparsity", choices=("none", "static", "gmp", "set", "rigl"), default="none")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--mount", action="append", default=[])
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(**defaults)
    return parser.parse_args()


def open_backend(chosen: argparse.Namespace) -> Any:
    """The backend that the options ask for. The CPU backend knows bfloat16 alone, and else computes in float32."""
    torch.manual_seed(chosen.seed)
    if _is_mixed(chosen):
        cstorch.amp.set_half_dtype(chosen.half)
    cstorch.backends.csx.precision.optimization_level = chosen.level
    if chosen.micro_batch is not None:
        value = chosen.micro_batch
        cstorch.backends.csx.performance.micro_batch_size = int(value) if value.isdigit() else value
    chosen.folder.mkdir(parents=True, exist_ok=True)
    artefacts = str(chosen.folder / "artefacts")
    if chosen.backend == "CPU":
        return cstorch.backend("CPU", artifact_dir=artefacts)
    return cstorch.backend(
        "CSX",
        artifact_dir=artefacts,
        validate_only=chosen.validate_only,
        compile_only=chosen.compile_only,
        cluster_config=cstorch.distributed.ClusterConfig(
            mgmt_address=chosen.address,
            num_csx=chosen.systems,
            mount_dirs=[*chosen.mount, HERE],
            python_paths=[HERE],
        ),
    )


def _is_mixed(chosen: argparse.Namespace) -> bool:
    return chosen.backend == "CSX" or chosen.half == "bfloat16"


def sparsity_of(chosen: argparse.Namespace) -> Any:
    """The sparsity algorithm that the options ask for, or None."""
    update = {"freq": 2, "stop": 1000}
    if chosen.sparsity == "static":
        return cstorch.sparse.Static(sparsity=0.75)
    if chosen.sparsity == "gmp":
        return cstorch.sparse.GMP(sparsity={"type": "linear", "init": 0.0, "slope": 0.05}, update=update)
    if chosen.sparsity == "set":
        return cstorch.sparse.SET(sparsity=0.75, update=update, drop_fraction=0.3)
    if chosen.sparsity == "rigl":
        return cstorch.sparse.RigL(sparsity=0.75, update=update, drop_fraction=0.3)
    return None


def loader_of(dataset: torch.utils.data.Dataset, batch: int) -> torch.utils.data.DataLoader:
    """Batches in the dataset's order, again and again; each input worker reads its own rows of every global batch."""
    sampler = cstorch.utils.data.DistributedSampler(
        dataset, shuffle=False, batch_size=batch, num_samples=1 << 20
    )
    return torch.utils.data.DataLoader(dataset, batch_sampler=sampler)


def train(
    chosen: argparse.Namespace,
    backend: Any,
    model: torch.nn.Module,
    make_optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
    make_scheduler: Callable[[torch.optim.Optimizer], Any] | None,
    loss_of: Callable[..., torch.Tensor],
    loader: Any,
    max_gradient_norm: float | None = None,
) -> None:
    """Train for the steps that the options ask for; `loss_of(compiled_model, *batch)` is the loss of a batch."""
    compiled = cstorch.compile(model, backend)
    sparsity = sparsity_of(chosen)
    if sparsity is not None:
        model.apply(sparsity)
    optimizer = make_optimizer(model)
    if sparsity is not None:
        optimizer.apply(sparsity)
    scheduler = make_scheduler(optimizer) if make_scheduler else None
    scaler = None
    if chosen.half != "bfloat16" and chosen.backend == "CSX":
        scaler = cstorch.amp.GradScaler(loss_scale="dynamic")
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    parts = {name: part for name, part in parts.items() if part is not None}
    first_step = 1
    if chosen.resume:
        state = cstorch.load(chosen.resume)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first_step = int(state["step"]) + 1
    losses: list[float] = []

    @cstorch.trace
    def training_step(*batch: torch.Tensor) -> torch.Tensor:
        with cstorch.amp.autocast() if _is_mixed(chosen) else contextlib.nullcontext():
            loss = loss_of(compiled, *batch)
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
        else:
            loss.backward()
        if max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_gradient_norm)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        if scheduler is not None:
            scheduler.step()
        return loss

    @cstorch.step_closure
    def note(loss: torch.Tensor) -> None:
        losses.append(loss.item())
        (chosen.folder / "losses.json").write_text(json.dumps(losses) + "\n")

    @cstorch.checkpoint_closure
    def save(step: int) -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        cstorch.save({**state, "step": step}, str(chosen.folder / f"checkpoint_{step}.mdl"))

    executor = cstorch.utils.data.DataExecutor(
        loader,
        num_steps=chosen.steps,
        checkpoint_steps=chosen.checkpoint_steps or None,
        activation_steps=chosen.activation_steps,
    )
    for step, batch in enumerate(executor, start=first_step):
        note(training_step(*batch))
        save(step)
