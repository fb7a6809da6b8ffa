"""A model folder and a few words to an executor that is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from openwafer.base import MIB, InputError, PlanError
from openwafer.serve.executors._base import Executor
from openwafer.serve.executors._memory import PROCESS_BYTES, memory_budget, resident_plan
from openwafer.serve.executors._pipelined import HANG_S, PipelinedExecutor
from openwafer.serve.executors._resident import ResidentExecutor
from openwafer.serve.executors._stages import split_layers
from openwafer.serve.executors._streaming import StreamingExecutor
from openwafer.serve.executors._streaming_plan import streaming_plan
from openwafer.serve.model import Checkpoint, Precision, Progress, choose_precision

EXECUTIONS = ("auto", "resident", "pipelined", "weight_streaming")

STAGE_BYTES = 384 * MIB
"""Python and torch once more, for each stage of a pipeline; assumed."""


def open_executor(
    folder: Path | str,
    *,
    execution: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    memory_bytes: int | None = None,
    systems: int | None = None,
    blocks: int | None = None,
    progress: Progress | None = None,
    hang_s: float = HANG_S,
) -> Executor:
    """Load the model of a folder.

    execution: one of EXECUTIONS; `auto` is pipelined for several systems, resident if the model fits, else weight streaming.
    dtype: as `choose_precision` takes it. device: `auto` is a GPU if there is one, else the CPU. memory_bytes: what the
    process may take on the device; by default what is free less a reserve. systems: the stages of a pipeline, by default 2.
    blocks: of the KV cache; by default what the memory leaves. progress: called with what was read last, bytes so far and
    bytes in all. hang_s: how long a stage of a pipeline may take for one layer of a batch.

    Raises InputError for words that mean nothing and folders without a model, CheckpointError for damaged ones,
    UnsupportedModelError for models that are not built, PlanError, which says what would fit, if it is too large.
    """
    if execution not in EXECUTIONS:
        raise InputError(f"{execution!r} is no way to run a model; choose one of {', '.join(EXECUTIONS)}")
    if blocks is not None and blocks < 1:
        raise InputError(f"a KV cache of {blocks} blocks holds nothing; give at least 1")
    if systems is not None and systems < 1:
        raise InputError(f"a model cannot run on {systems} systems; give at least 1")
    if systems is not None and systems > 1 and execution not in ("auto", "pipelined"):
        raise InputError(f"{execution} runs on one system and not on {systems}; choose pipelined")
    target = choose_device(device)
    checkpoint = Checkpoint(folder)
    precision = choose_precision(dtype, checkpoint.dtype)
    budget = memory_budget(target, memory_bytes)
    if execution == "pipelined" or (execution == "auto" and systems is not None and systems > 1):
        return _pipelined(checkpoint, precision, budget, target, systems or 2, blocks, progress, hang_s)
    if execution == "weight_streaming":
        return _streaming(checkpoint, precision, budget, target, blocks, progress)
    plan = None
    try:
        plan = resident_plan(checkpoint.config, precision, budget, blocks)
    except PlanError:
        if execution == "resident" or precision.quantise != "none":
            raise
    if plan is None:
        return _streaming(checkpoint, precision, budget, target, blocks, progress)
    return ResidentExecutor(checkpoint, precision, plan.blocks, target, progress)


def _pipelined(
    checkpoint: Checkpoint,
    precision: Precision,
    budget: int,
    target: torch.device,
    systems: int,
    blocks: int | None,
    progress: Progress | None,
    hang_s: float,
) -> PipelinedExecutor:
    """Stages on the CPU share its memory; on GPUs each has a device's, and the one with most layers decides."""
    config = checkpoint.config
    if target.type == "cuda":
        longest = max(map(len, split_layers(config, precision, systems)))
        config = replace(config, layers=longest, windows=config.windows[:longest])
        plan = resident_plan(config, precision, budget, blocks)
    else:
        split_layers(
            config, precision, systems
        )  # says whether there are enough layers before anything about memory
        plan = resident_plan(config, precision, budget, blocks, PROCESS_BYTES + systems * STAGE_BYTES)
    return PipelinedExecutor(checkpoint, precision, plan.blocks, systems, target, progress, hang_s=hang_s)


def _streaming(
    checkpoint: Checkpoint,
    precision: Precision,
    budget: int,
    target: torch.device,
    blocks: int | None,
    progress: Progress | None,
) -> StreamingExecutor:
    plan = streaming_plan(checkpoint.config, precision, budget, blocks)
    return StreamingExecutor(
        checkpoint, precision, plan.memory.blocks, plan.resident, plan.slots, target, progress
    )


def choose_device(name: str) -> torch.device:
    """A device of this machine. Raises InputError if it has none of that name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"{name!r} is no device; choose auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{name!r} cannot serve a model; choose auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{name!r} is not there: torch finds {torch.cuda.device_count()} GPUs; choose cpu")
    return device
