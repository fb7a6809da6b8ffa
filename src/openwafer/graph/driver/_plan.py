"""Plan a job: capture, choose mode, microbatch and recomputation, place, predict memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from openwafer.artifact import (
    Global,
    Layer,
    MemoryXMemory,
    Metric,
    Mode,
    Plan,
    Record,
    System,
    SystemMemory,
    TensorType,
    part_type,
)
from openwafer.base import PlanError, format_bytes
from openwafer.graph.ir import StepGraph
from openwafer.graph.passes import (
    Assembled,
    BodyTable,
    CannotShardError,
    Choice,
    assemble,
    choose_shards,
    is_worth_a_look,
)
from openwafer.graph.perf import with_cache, with_memory
from openwafer.graph.place import (
    bubble,
    deal_records,
    pipelined,
    split_microbatches,
    split_rows,
    split_stages,
    weight_streaming,
)

CaptureStep = Callable[..., StepGraph]
"""(samples, train) -> the step for a microbatch of that many samples. (samples, train, shards) if weights are cut by rows:
see `capture`; it is never called so where `plan_job` is told of no divisible weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What the user asks of a plan; `None` and "auto" leave the choice to the planner."""

    batch: int
    systems: int = 1
    execution: Literal["auto", "weight_streaming", "pipelined"] = "auto"
    microbatch: int | Literal["auto"] | None = "auto"
    """Samples per microbatch; None: the whole share of a system at once."""
    system_memory: int | None = None
    """Budget of one system in bytes."""
    store: Literal["ram", "disk"] = "ram"
    memoryx_memory: int | None = None
    """Bytes of RAM that a disk store may use; what its buffers leave keeps whole records."""
    memoryx_shards: int = 1
    """MemoryX roles that share the records."""
    recompute: bool | Literal["auto"] = "auto"
    evaluate: bool = True
    shard_vocabulary: bool | Literal["auto"] = "auto"
    """Whether weights of a vocabulary are cut by rows into several records. "auto": those that would otherwise set the
    size of every slot and buffer; True: all that can be."""
    prefetch_layers: int = 1
    """Layers of weights on their way while one is in use."""
    own_memory: bool = False
    """Whether systems compute in memory that is not the host's, as GPUs do."""


def plan_job(
    model: str,
    capture: CaptureStep,
    options: PlanOptions,
    divisible: Mapping[str, TensorType] | None = None,
) -> Plan:
    """Make the plan of one job.

    divisible: weights that may be cut by rows, by name, with their types: those that are not trained, or that the
    optimizer updates element by element.

    `auto` execution takes pipelined when every stage's weights, activations and gradients fit the systems'
    budget, else weight streaming; without a budget it takes weight streaming. `auto` microbatch takes the whole share of a
    system if that fits the budget, else halves it until it does, first with activations kept, then recomputed.

    Raises PlanError, with what would fit, if nothing does; CaptureError from `capture`.
    """
    if options.systems < 1 or (options.batch < options.systems and options.execution != "pipelined"):
        raise PlanError(
            f"a batch of {options.batch} samples cannot be shared by {options.systems} systems; use at most {options.batch} "
            "systems or a larger batch"
        )
    planner = _Planner(model, capture, options, divisible or {})
    while True:
        try:
            return _search(planner, options)
        except CannotShardError as found:
            planner.leave_whole(found)


def _search(planner: _Planner, options: PlanOptions) -> Plan:
    modes = [Mode.WEIGHT_STREAMING]
    if options.execution == "pipelined":
        modes = [Mode.PIPELINED]
    elif options.execution == "auto" and options.system_memory is not None:
        modes = [Mode.PIPELINED, Mode.WEIGHT_STREAMING]
    best: Plan | None = None
    for mode in modes:
        for microbatch in planner.candidates(mode):
            for recompute in (False, True) if options.recompute == "auto" else (options.recompute,):
                try:
                    plan = planner.plan(mode, microbatch, recompute)
                except PlanError:
                    if mode is modes[-1]:
                        raise
                    break
                need = max(system.memory.peak for system in plan.systems)
                if options.system_memory is None or need <= options.system_memory:
                    return plan
                if best is None or need < max(system.memory.peak for system in best.systems):
                    best = plan
    assert best is not None
    raise PlanError(_does_not_fit(best, options))


class _Planner:
    def __init__(
        self, model: str, capture: CaptureStep, options: PlanOptions, divisible: Mapping[str, TensorType]
    ) -> None:
        self.model = model
        self.capture = capture
        self.options = options
        self.divisible = divisible
        self._choice: Choice | None = None
        self._steps: dict[tuple[int, bool], StepGraph] = {}
        self._records: tuple[Record, ...] | None = None

    def step(self, samples: int, train: bool) -> StepGraph:
        shards = self.choice(samples).shards
        if (samples, train) not in self._steps:
            self._steps[samples, train] = (
                self.capture(samples, train, shards) if shards else self.capture(samples, train)
            )
        return self._steps[samples, train]

    def choice(self, samples: int) -> Choice:
        """The weights to cut by rows. The forward alone shows them, and costs less to capture than the step."""
        if self._choice is None:
            forced = self.options.shard_vocabulary is True
            self._choice = Choice()
            if self.options.shard_vocabulary and is_worth_a_look(self.divisible, forced):
                step = self.capture(samples, False)
                self._choice = choose_shards(step, self.divisible, forced)
                if not self._choice.cuts:
                    self._steps[samples, False] = step
            if forced and not self._choice.all_notes:
                why = "no weight of a vocabulary, of at least two rows, is updated element by element"
                self._choice = Choice(notes=(f"shard_vocabulary: nothing is cut by rows, since {why}",))
        return self._choice

    def leave_whole(self, found: CannotShardError) -> None:
        """Begin anew without cutting a weight that turned out to be used otherwise in training."""
        assert self._choice is not None
        self._choice = self._choice.without(found.weight, str(found))
        self._steps, self._records = {}, None

    def candidates(self, mode: Mode) -> list[int]:
        """Microbatch sizes to try, largest first."""
        options = self.options
        replicas = 1 if mode is Mode.PIPELINED else options.systems
        share = max(split_rows(options.batch, replicas))
        if isinstance(options.microbatch, int):
            if options.microbatch < 1:
                raise PlanError(f"microbatch must be at least 1, not {options.microbatch}")
            return [min(options.microbatch, share)]
        if options.microbatch is None:
            return [share]
        if mode is Mode.PIPELINED:  # enough microbatches that the bubble stays below a fifth
            share = max(1, share // (4 * max(options.systems - 1, 1))) if options.systems > 1 else share
        sizes = []
        while share >= 1:
            sizes.append(share)
            share //= 2
        return sizes if options.system_memory is not None else sizes[:1]

    def plan(self, mode: Mode, microbatch: int, recompute: bool) -> Plan:
        options = self.options
        stages_count = options.systems if mode is Mode.PIPELINED else 1
        replicas = 1 if mode is Mode.PIPELINED else options.systems
        shares = split_rows(options.batch, replicas)
        rows_of = [split_microbatches(share, min(microbatch, share)) for share in shares]
        sizes = sorted({size for rows in rows_of for size in rows}, reverse=True)
        table = BodyTable()
        train = {size: self._assemble(table, size, True, recompute) for size in sizes}
        evaluation = (
            {size: self._assemble(table, size, False, False) for size in sizes} if options.evaluate else {}
        )
        main = train[sizes[0]]
        for entries in (train, evaluation):
            for entry in entries.values():
                if _layout(entry) != _layout(entries[sizes[0]]):
                    raise PlanError(
                        f"the model has other layers for a microbatch of {entry.samples} samples than for {sizes[0]}; choose "
                        f"a batch ({options.batch}) and microbatch ({microbatch}) that divide"
                    )
        step = self.step(sizes[0], True)
        stages = split_stages(
            [layer.forward_flops + layer.backward_flops + 1 for layer in main.layers], stages_count
        )
        eval_stages = (
            self._eval_stages(evaluation[sizes[0]].layers, main.layers, stages) if evaluation else ()
        )
        systems = []
        for replica, rows in enumerate(rows_of):
            for stage in range(stages_count):
                if mode is Mode.PIPELINED:
                    program = pipelined([train[size].layers for size in rows], stages, stage, train=True)
                    forward_only = (
                        pipelined([evaluation[size].layers for size in rows], eval_stages, stage, train=False)
                        if evaluation
                        else ()
                    )
                else:
                    program = weight_streaming(main.layers, len(rows), train=True)
                    forward_only = (
                        weight_streaming(evaluation[sizes[0]].layers, len(rows), train=False)
                        if evaluation
                        else ()
                    )
                systems.append(
                    System(
                        replica=replica,
                        stage=stage,
                        rows=rows,
                        program=program,
                        evaluation=forward_only,
                        memory=SystemMemory(0, 0, 0, 0, 0),
                    )
                )
        slots = max(len(layer.records) for layer in main.layers) + options.prefetch_layers
        plan = Plan(
            model=self.model,
            mode=mode,
            batch=options.batch,
            microbatches=rows_of[0],
            replicas=replicas,
            stages=stages_count,
            store=options.store,
            cached=(),
            spills_gradients=False,
            slots=slots,
            bodies=table.texts,
            records=main.records,
            layers={size: entry.layers for size, entry in train.items()},
            evaluation={size: entry.layers for size, entry in evaluation.items()},
            inputs=tuple(
                (name, step.type_of(node).dtype, step.type_of(node).shape[1:])
                for name, node in step.inputs.items()
            ),
            tied=tuple(step.tied.items()),
            globals=tuple(
                Global(name=name, dtype=step.type_of(node).dtype, initial=step.initial_globals[name])
                for name, node in step.globals.items()
            ),
            initial_state={
                f"{name}/{key}": value
                for name, entry in step.initial_state.items()
                for key, value in entry.items()
                if value
            },
            buffers=main.buffers,
            update=main.update,
            loss=main.loss,
            metrics=tuple(Metric(label=label, value=value) for label, value in main.metrics),
            evaluation_loss=evaluation[sizes[0]].loss if evaluation else "",
            evaluation_metrics=tuple(
                Metric(label=label, value=value)
                for label, value in (evaluation[sizes[0]].metrics if evaluation else ())
            ),
            constants={size: entry.constants for size, entry in train.items()},
            evaluation_constants={size: entry.constants for size, entry in evaluation.items()},
            systems=tuple(systems),
            memoryx=MemoryXMemory(store_ram=0, store_disk=0, gradients=0, buffers=0),
            flops_per_step=sum(
                layer.forward_flops + layer.backward_flops
                for rows in rows_of
                for size in rows
                for layer in train[size].layers
            ),
            bubble=bubble(stages_count, len(rows_of[0])) if mode is Mode.PIPELINED else 0.0,
            notes=(*self.choice(sizes[0]).all_notes, *step.notes),
            own_memory=options.own_memory,
            outputs=tuple(
                msgspec.structs.replace(output, shape=part_type(output, options.batch).shape)
                for output in main.outputs
            ),
            memoryx_of=deal_records(main.records, options.memoryx_shards),
        )
        return with_memory(with_cache(plan, options.memoryx_memory), table.bodies)

    def _assemble(self, table: BodyTable, size: int, train: bool, recompute: bool) -> Assembled:
        def again(index: int, count: int) -> bool:
            return recompute and index < count - 1  # the last layer's backward follows its forward at once

        made = assemble(self.step(size, train), table, again, self._records)
        if self._records is None:
            self._records = made.records
        return made

    @staticmethod
    def _eval_stages(
        layers: tuple[Layer, ...], trained: tuple[Layer, ...], stages: tuple[range, ...]
    ) -> tuple[range, ...]:
        """The same weights on the same stage: evaluation layers follow the records of the training layers."""
        if len(layers) == len(trained):
            return stages
        home: dict[int, int] = {}
        for stage, members in enumerate(stages):
            for index in members:
                for record in trained[index].records:
                    home.setdefault(record, stage)
        ends, at = [], 0
        for stage in range(len(stages)):
            start = at
            while (
                at < len(layers)
                and min((home.get(r, stage) for r in layers[at].records), default=stage) <= stage
            ):
                at += 1
            ends.append(range(start, at if stage < len(stages) - 1 else len(layers)))
        return tuple(ends)


def _layout(entry: Assembled) -> list[tuple[tuple[int, ...], set[str]]]:
    """What one program must find alike for microbatches of every size: weights that come, gradients that go."""
    return [(layer.records, {gradient.weight for gradient in layer.gradients}) for layer in entry.layers]


def _does_not_fit(best: Plan, options: PlanOptions) -> str:
    system = max(best.systems, key=lambda entry: entry.memory.peak)
    memory = system.memory
    assert options.system_memory is not None
    advice = []
    if options.microbatch not in ("auto",) or options.recompute is False:
        advice.append("let the planner choose microbatch and recomputation ('auto')")
    if memory.activations > memory.weights and sum(system.rows) > 1:
        advice.append(f"use a smaller batch (now {options.batch}) or more systems (now {options.systems})")
    advice.append(f"give each system at least {format_bytes(memory.peak)}")
    return (
        f"{best.model} does not fit {format_bytes(options.system_memory)} per system: the smallest plan found "
        f"({best.mode}, microbatches of {system.rows[0]}) needs {format_bytes(memory.peak)} "
        f"(weights {format_bytes(memory.weights)}, activations {format_bytes(memory.activations)}, "
        f"gradients {format_bytes(memory.gradients)}, inputs {format_bytes(memory.inputs)}"
        + (f", libraries {format_bytes(memory.reserve)}" if memory.reserve else "")
        + "); "
        + ", or ".join(advice)
    )
