"""The Plan: everything that the cluster's roles need to know about a job, as plain data.

A value of the step has one name everywhere. Names of weights, state and globals are the user's own
(`transformer.h.0.mlp.weight`, `transformer.h.0.mlp.weight/exp_avg`, `step`); names of other values come from the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property

import msgspec

from openwafer.artifact._body import Body, TensorType, parse_body
from openwafer.base import MIB, PAGE_BYTES, PlanError, round_up

HEAP_BYTES = 64 * MIB
"""What a run's heap holds beside what is in use: interpreter, planning, and holes that activations leave. Measured with glibc:
58 MiB for a model of 43 thousand parameters, 65 to 135 MiB for 98 million."""
ALIGN_BYTES = 64
"""Tensors inside a record start at multiples of this, as torch's own allocator aligns them."""


class Mode(StrEnum):
    """Where weights are during a step."""

    WEIGHT_STREAMING = "weight_streaming"
    PIPELINED = "pipelined"


class Part(msgspec.Struct, frozen=True):
    """What a tensor of a record is of a larger one: its rows from `start` on.

    A tensor without dims is no rows: it is a copy of the whole (the step count of each part of a weight).
    """

    whole: str
    """The user's name of the whole tensor; checkpoints go by it."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int


class Tensor(msgspec.Struct, frozen=True):
    """One named tensor of a record; `offset` is in bytes from the start of its region."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    stream_dtype: str = ""
    """For weights: the dtype that systems compute with; MemoryX casts to it as it sends."""
    stream_offset: int = 0
    """For weights: where it lies in the slot that systems receive."""
    trained: bool = False
    """For weights: has a gradient and an update."""
    part: Part | None = None
    """For a row shard: where it belongs."""

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        return self.type.nbytes

    @property
    def stream_type(self) -> TensorType:
        return TensorType(self.stream_dtype or self.dtype, self.shape)

    @property
    def whole(self) -> str:
        """The name under which checkpoints hold this tensor, or the larger one that it is a part of."""
        return self.name if self.part is None else self.part.whole

    @property
    def whole_type(self) -> TensorType:
        """Dtype and shape of the tensor of that name."""
        return self.type if self.part is None else TensorType(self.dtype, self.part.shape)

    @property
    def whole_offset(self) -> int:
        """Where this tensor's bytes begin in the whole one's."""
        if self.part is None or not self.shape:
            return 0
        return self.part.start * (self.nbytes // self.shape[0])


class Record(msgspec.Struct, frozen=True):
    """The unit that MemoryX stores, streams and updates: one layer's weights, then their optimizer state.

    Two regions, each page aligned: weights at 0, state at `weight_bytes`. Sizes are multiples of the page.
    """

    name: str
    weights: tuple[Tensor, ...]
    state: tuple[Tensor, ...]
    weight_bytes: int
    state_bytes: int
    stream_bytes: int
    gradient_bytes: int

    @property
    def nbytes(self) -> int:
        return self.weight_bytes + self.state_bytes

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """The weights that have gradients, in the order in which a gradient slot holds them."""
        return tuple(weight for weight in self.weights if weight.trained)

    @property
    def gradient_offsets(self) -> tuple[int, ...]:
        """Byte offset of each trained weight's float32 gradient in a gradient slot."""
        return _offsets([TensorType("float32", weight.shape) for weight in self.trained])[0]

    @property
    def streams_as_stored(self) -> bool:
        """Whether a system can read the stored weights in place, with no cast."""
        return all(weight.stream_dtype in ("", weight.dtype) for weight in self.weights)


def make_record(
    name: str,
    weights: list[tuple[str, TensorType, str, bool]],
    state: list[tuple[str, TensorType]],
    parts: Mapping[str, Part] | None = None,
) -> Record:
    """Lay out a record. `weights`: name, stored type, stream dtype, trained; `state`: name, type; `parts`: by name."""
    parts = parts or {}
    offsets, weight_bytes = _offsets([kind for _, kind, _, _ in weights])
    stream_offsets, stream_bytes = _offsets([TensorType(cast, kind.shape) for _, kind, cast, _ in weights])
    state_offsets, state_bytes = _offsets([kind for _, kind in state])
    _, gradient_bytes = _offsets(
        [TensorType("float32", kind.shape) for _, kind, _, trained in weights if trained]
    )
    return Record(
        name=name,
        weights=tuple(
            Tensor(
                name=key,
                dtype=kind.dtype,
                shape=kind.shape,
                offset=offset,
                stream_dtype=cast,
                stream_offset=stream_offset,
                trained=trained,
                part=parts.get(key),
            )
            for (key, kind, cast, trained), offset, stream_offset in zip(
                weights, offsets, stream_offsets, strict=True
            )
        ),
        state=tuple(
            Tensor(name=key, dtype=kind.dtype, shape=kind.shape, offset=offset, part=parts.get(key))
            for (key, kind), offset in zip(state, state_offsets, strict=True)
        ),
        weight_bytes=weight_bytes,
        state_bytes=state_bytes,
        stream_bytes=stream_bytes,
        gradient_bytes=gradient_bytes,
    )


def _offsets(types: list[TensorType]) -> tuple[tuple[int, ...], int]:
    offsets, end = [], 0
    for kind in types:
        offsets.append(end)
        end = round_up(end + kind.nbytes, ALIGN_BYTES)
    return tuple(offsets), round_up(end, PAGE_BYTES)


class Call(msgspec.Struct, frozen=True):
    """One use of a body: which named values go in and which come out."""

    body: str
    inputs: tuple[str | int, ...]
    """Names of values; an int is a literal (the salt of a random operator)."""
    outputs: tuple[str, ...]


class Gradient(msgspec.Struct, frozen=True):
    """A value that adds to the gradient of a weight; tied weights have several."""

    value: str
    weight: str


class Layer(msgspec.Struct, frozen=True):
    """A run of the step's nodes whose weights are streamed together."""

    name: str
    records: tuple[int, ...]
    """Records whose weights this layer reads; the first is its own, the others hold tied weights."""
    forward: Call
    backward: Call | None
    gradients: tuple[Gradient, ...]
    recompute: bool
    forward_flops: int
    backward_flops: int


class RecordUpdate(msgspec.Struct, frozen=True):
    """What MemoryX computes for one record each step.

    `before` runs when the record's gradients are complete and makes the small values that `Update.across` needs
    (norms, finite flags); `apply` writes weights and state.
    """

    before: Call | None
    apply: Call | None


class Output(msgspec.Struct, frozen=True):
    """A tensor that each step hands out whole.

    Dim `dim` belongs to the batch: it has before * samples * after entries. dim -1: none does, and the value is the whole.
    """

    label: str
    value: str
    dtype: str
    shape: tuple[int, ...]
    """For the whole batch."""
    dim: int = -1
    before: int = 1
    after: int = 1


class Update(msgspec.Struct, frozen=True):
    """The update part of the step, cut along the records.

    begin: from the globals alone (schedules). across: from values of several records (clipping, loss scaling).
    `waits`: some `apply` needs `across`, so that no weight changes before every gradient is there.
    """

    begin: Call | None
    records: tuple[RecordUpdate, ...]
    across: Call | None
    waits: bool
    new_globals: tuple[tuple[str, str], ...] = ()
    """(global, value name): what the globals become when the step ends."""
    logs: tuple[tuple[str, str], ...] = ()
    """(label, value name) of scalars to report each step: learning rate, gradient norm, loss scale."""
    outputs: tuple[Output, ...] = ()
    """Tensors to hand out each step."""


class Global(msgspec.Struct, frozen=True):
    """A named scalar of the whole job (step, loss scale), with its initial value."""

    name: str
    dtype: str
    initial: float


class Metric(msgspec.Struct, frozen=True):
    """An output of the step that is averaged over microbatches and systems, weighted by samples."""

    label: str
    value: str


# --- the schedule: one program per system -----------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Wait for the records of `layer`, in stream order."""

    layer: int


class Unload(msgspec.Struct, frozen=True, tag="unload"):
    """Give the records of `layer` back to the stream."""

    layer: int


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    layer: int
    microbatch: int


class Backward(msgspec.Struct, frozen=True, tag="backward"):
    layer: int
    microbatch: int


class SendGradients(msgspec.Struct, frozen=True, tag="gradients"):
    """The gradients that `layer` adds to are summed over this system's microbatches: give them to SwarmX."""

    layer: int


class SendValues(msgspec.Struct, frozen=True, tag="send"):
    """Hand boundary values of a microbatch to the next stage."""

    peer: int
    microbatch: int
    values: tuple[str, ...]


class ReceiveValues(msgspec.Struct, frozen=True, tag="receive"):
    peer: int
    microbatch: int
    values: tuple[str, ...]


Action = Load | Unload | Forward | Backward | SendGradients | SendValues | ReceiveValues


class SystemMemory(msgspec.Struct, frozen=True):
    """Predicted bytes of one system at its worst moment, by what holds them."""

    weights: int
    activations: int
    gradients: int
    inputs: int
    peak: int
    """Largest sum at one moment; less than the sum of the parts, which peak at different moments."""
    reserve: int = 0
    """For a device with memory of its own, in the peak: what libraries and the allocator take there beside."""
    host: int = 0
    """For such a device: bytes of the host's memory through which its messages go."""


class MemoryXMemory(msgspec.Struct, frozen=True):
    """Predicted bytes of MemoryX: buffers in RAM, and the store in RAM or on disk."""

    store_ram: int
    store_disk: int
    gradients: int
    """Gradients that wait for others before an update."""
    buffers: int
    """Records on their way from and to the disk."""
    gradients_disk: int = 0
    """Gradients that wait on disk, because the budget has no room for them."""

    @property
    def ram(self) -> int:
        return self.store_ram + self.gradients + self.buffers


class System(msgspec.Struct, frozen=True):
    """One system's part: which rows of the batch, which layers, in what order."""

    replica: int
    stage: int
    rows: tuple[int, ...]
    """Samples of the global batch that each of its microbatches holds."""
    program: tuple[Action, ...]
    evaluation: tuple[Action, ...]
    memory: SystemMemory


class Plan(msgspec.Struct, frozen=True, dict=True):
    """How one job runs. Serialise with `plan_to_json`, read back with `plan_from_json`."""

    model: str
    mode: Mode
    batch: int
    microbatches: tuple[int, ...]
    """Samples in each microbatch of one replica with the most rows; the last may be smaller."""
    replicas: int
    stages: int
    store: str
    """ram or disk."""
    cached: tuple[int, ...]
    """Records that a disk store keeps in RAM as well."""
    spills_gradients: bool
    """Whether gradients that wait do so on disk."""
    slots: int
    """Layers of weights that may be on the way or in use at once."""
    bodies: dict[str, str]
    """Key to text form."""
    records: tuple[Record, ...]
    layers: dict[int, tuple[Layer, ...]]
    """By microbatch size: the same layers, traced for that many samples."""
    evaluation: dict[int, tuple[Layer, ...]]
    """The same for evaluation: forward only, the module in eval mode."""
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, dtype and shape per sample (without the batch dim) of each input."""
    tied: tuple[tuple[str, str], ...]
    """(other name, name here) of tied weights."""
    initial_state: dict[str, float]
    """State that does not start as zeros: name -> the value that fills it."""
    buffers: tuple[tuple[str, str], ...]
    """(buffer, value name) of buffers that a step's forward replaces (batch statistics)."""
    globals: tuple[Global, ...]
    update: Update
    loss: str
    metrics: tuple[Metric, ...]
    evaluation_loss: str
    evaluation_metrics: tuple[Metric, ...]
    constants: dict[int, Call | None]
    """By microbatch size: values that depend on nothing (masks, positions); made once, kept for the job."""
    evaluation_constants: dict[int, Call | None]
    systems: tuple[System, ...]
    memoryx: MemoryXMemory
    flops_per_step: int
    bubble: float
    notes: tuple[str, ...] = ()
    own_memory: bool = False
    """Whether systems compute in memory that is not the host's (GPUs): all that they receive is copied there."""
    outputs: tuple[Output, ...] = ()
    """Tensors that systems hand out in each step, in parts: their microbatches'."""
    memoryx_of: tuple[int, ...] = ()
    """By record: the MemoryX shard that stores, streams and updates it; empty where there is one for all."""

    @property
    def host_bytes(self) -> int:
        """Predicted peak of all roles together, when they share one host's memory, beyond what the processes take to
        start. Systems of one stage share their slots of weights; resident weights lie in the store. HEAP_BYTES is in it."""
        if self.own_memory:
            return sum(system.memory.host for system in self.systems) + self.memoryx.ram + HEAP_BYTES
        slots = 0
        for stage in range(self.stages):
            members = [system for system in self.systems if system.stage == stage]
            slots += members[0].memory.weights if self.mode is Mode.WEIGHT_STREAMING else 0
        own = sum(system.memory.peak - system.memory.weights for system in self.systems)
        return own + slots + self.memoryx.ram + HEAP_BYTES

    @cached_property
    def memoryx_records(self) -> tuple[tuple[int, ...], ...]:
        """By MemoryX shard: the records that it keeps."""
        if not self.memoryx_of:
            return (tuple(range(len(self.records))),)
        shards = range(max(self.memoryx_of) + 1)
        return tuple(tuple(r for r, home in enumerate(self.memoryx_of) if home == shard) for shard in shards)

    @cached_property
    def record_of(self) -> dict[str, int]:
        """Weight or buffer name -> index of its record."""
        return {weight.name: index for index, record in enumerate(self.records) for weight in record.weights}

    @cached_property
    def body(self) -> dict[str, Body]:
        """The bodies, parsed."""
        return {key: parse_body(text) for key, text in self.bodies.items()}


def plan_to_json(plan: Plan) -> bytes:
    """The plan as JSON text."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1)


def plan_from_json(data: bytes) -> Plan:
    """Read a plan. Raises PlanError with the place if it is not one, or if a body does not match its key."""
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise PlanError(f"this is no plan: {error}") from None
    for key, text in plan.bodies.items():
        if parse_body(text).key != key:
            raise PlanError(f"body {key} of the plan was changed after it was written; plan the job again")
    return plan
