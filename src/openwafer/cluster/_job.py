"""A job: a plan, and all that its roles need beside it. Plain data, so that it travels to processes."""

from __future__ import annotations

from typing import Literal

import msgspec

from openwafer.artifact import Layer, Load, Plan, SendGradients, System


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What every role is started with."""

    plan: Plan
    seed: int
    start: str
    """Folder of the checkpoint to start from; the first is written before the roles start."""
    store_folder: str = ""
    """Where a disk store lives."""
    matmul: Literal["torch", "onednn", "auto"] = "torch"
    matmul_choices: dict[str, str] = {}
    """Measured once by the coordinator, so that all systems of a job run the same kernels."""
    threads: int = 1
    """Threads of arithmetic per system."""
    device: str = "cpu"
    stall_s: float = 300.0
    """How long a role may wait for another before the run ends with StallError."""
    timeline_steps: int = 0
    """Steps, counted from the start of this run, whose spans are reported."""
    keep_checkpoints: int = 3
    fail: str = ""
    """Fault injection for tests: `<role>:<step>` kills that role when it begins that step."""


def memoryx() -> str:
    return "memoryx"


def system_role(index: int) -> str:
    return f"system{index}"


def input_role(replica: int) -> str:
    return f"input{replica}"


def systems_of_stage(plan: Plan, stage: int) -> list[int]:
    """Indices of the systems that run a stage, in the order of their replicas: the leaves of the SwarmX tree."""
    return [index for index, system in enumerate(plan.systems) if system.stage == stage]


def layers_for(plan: Plan, size: int, train: bool) -> tuple[Layer, ...]:
    """The layers for microbatches of `size` samples."""
    return (plan.layers if train else plan.evaluation)[size]


def load_order(plan: Plan, system: System, train: bool) -> tuple[int, ...]:
    """Records in the order in which a system receives them in one step."""
    layers = layers_for(plan, system.rows[0], train)
    program = system.program if train else system.evaluation
    return tuple(
        record for action in program if isinstance(action, Load) for record in layers[action.layer].records
    )


def gradient_records(plan: Plan, layer: Layer) -> tuple[int, ...]:
    """Records to whose gradients a layer adds, in the order in which a system sends them."""
    home = record_of_weight(plan)
    return tuple(sorted({home[gradient.weight] for gradient in layer.gradients}))


def gradient_order(plan: Plan, system: System) -> tuple[tuple[int, int], ...]:
    """(layer, record) of every gradient message of one step, in order."""
    layers = layers_for(plan, system.rows[0], True)
    return tuple(
        (action.layer, record)
        for action in system.program
        if isinstance(action, SendGradients)
        for record in gradient_records(plan, layers[action.layer])
    )


def record_of_weight(plan: Plan) -> dict[str, int]:
    """Weight name -> index of its record."""
    return {weight.name: index for index, record in enumerate(plan.records) for weight in record.weights}
