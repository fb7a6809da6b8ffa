"""What the coordinator and the roles tell each other: small, no tensors."""

from __future__ import annotations

import msgspec


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Run one step. `number` counts training steps from 0; for evaluation `batch` counts its batches."""

    number: int
    batch: int
    train: bool


class SaveCheckpoint(msgspec.Struct, frozen=True, tag="checkpoint"):
    """Write the state after `step` updates to `folder`, beside the run."""

    step: int
    folder: str
    extra: bytes


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish what was asked for, then end."""


Command = Step | SaveCheckpoint | Stop


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The role has set itself up; for MemoryX: with `step` updates already in its state."""

    role: str
    step: int = 0


class Span(msgspec.Struct, frozen=True, array_like=True):
    """One interval of a role's time, for the timeline. Seconds on the host's monotonic clock."""

    lane: str
    name: str
    start_s: float
    end_s: float


class Result(msgspec.Struct, frozen=True, tag="result"):
    """One system's part of a step: sums over its samples, to be divided by the batch."""

    system: int
    step: int
    train: bool
    rows: int
    loss_sum: float | None
    metric_sums: dict[str, float]
    bad_layer: str
    """Where values stopped being finite, when the loss is not: an input, or the first such layer."""
    compute_s: float
    weights_wait_s: float
    gradients_wait_s: float
    inputs_wait_s: float
    values_wait_s: float
    spans: tuple[Span, ...]


class Updated(msgspec.Struct, frozen=True, tag="updated"):
    """A MemoryX shard applied its updates of a step; every shard has the same logs and globals."""

    shard: int
    step: int
    logs: dict[str, float]
    globals: dict[str, float]
    bytes_read: int
    bytes_written: int
    spans: tuple[Span, ...]


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """A checkpoint is complete on disk; or, with `bad` naming a tensor with NaN or infinity, was refused."""

    step: int
    folder: str
    seconds: float
    bad: str = ""


class Fed(msgspec.Struct, frozen=True, tag="fed"):
    """An input worker made a batch."""

    replica: int
    step: int
    train: bool
    produce_s: float


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The role has done all and ends. `peak_rss` is its process's high-water mark in bytes; `peak_device` what it allocated
    at most on a device with memory of its own."""

    role: str
    peak_rss: int
    peak_device: int = 0


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The role cannot go on: the class of the error, its text, and for our own bugs the traceback."""

    role: str
    kind: str
    text: str
    trace: str


Report = Ready | Result | Updated | Saved | Fed | Ended | Failed

# Before any role thread decodes one: msgspec's first look into a type is not safe between threads (see _codec).
for _kind in (Command, Report):
    msgspec.msgpack.Decoder(_kind)
