"""From a function that was taken apart to the StepGraph that native models have too."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from openwafer.base import CirhError, PlanError
from openwafer.compat.cirh import (  # noqa: F401 - importing these fills the table of operations
    _ops_index,
    _ops_norm,
    _ops_pointwise,
    _ops_product,
    _ops_random,
    _ops_shape,
)
from openwafer.compat.cirh._batch import by_sample, constants_of
from openwafer.compat.cirh._dense import DTYPES
from openwafer.compat.cirh._emit import Emitter, Splat, Value
from openwafer.compat.cirh._function import Function, Op, Type
from openwafer.compat.cirh._kinds import Kind
from openwafer.compat.cirh._rules import RULES, Use
from openwafer.compat.cirh._states import Parts
from openwafer.graph import StepGraph
from openwafer.graph.ir import RNG, SAMPLE_FRACTION, SampleTensor, verify
from openwafer.graph.passes import ancestors

aten = torch.ops.aten

CB16 = (6, 9)
"""Bits of exponent and mantissa of the vendor's own half format."""


def torch_name(function: Function, kind: Type) -> str:
    """The dtype that holds values of an element type, without `torch.`."""
    return str(_held(function, kind)).removeprefix("torch.")


def _held(function: Function, kind: Type) -> torch.dtype:
    wide = kind.element == "!cs.cb16" or (
        kind.element == "f16" and function.attributes.get("cs.fp16_type") == "cbfloat16"
    )
    return torch.float32 if wide else DTYPES[kind.element]


class Lowering:
    """The nodes of a function's operations, for some number of samples."""

    def __init__(self, function: Function, parts: Parts | None, samples: int) -> None:
        self.function = function
        self.parts = parts
        self.samples = samples
        self.graph = fx.Graph()
        self.emit = Emitter(self.graph)
        self.values: dict[int, Value] = {}
        self.constants = constants_of(function)
        self.wide_half = function.attributes.get("cs.fp16_type") == "cbfloat16"
        self._places: dict[str, dict[str, Any]] = {}
        self._sums = set(parts.sums.values()) if parts else set()

    def kind(self, value: int) -> Type:
        """The type of a value for this number of samples."""
        kind = self.function.values[value]
        return self.parts.batch.scaled(value, kind, self.samples) if self.parts else kind

    def dtype(self, kind: Type) -> torch.dtype:
        """What holds values of an element type: float32 holds the vendor's half format."""
        return _held(self.function, kind)

    def argument(self, value: int, name: str) -> fx.Node:
        """A placeholder for an argument."""
        kind = self.kind(value)
        node = self.emit.placeholder(f"arg{value}", kind, self.dtype(kind))
        node.meta["name"] = name
        self.values[value] = node
        return node

    def run(self) -> None:
        """Emit every operation, in order; what is shared by all samples (casts of weights) when it is first needed.

        Programs begin with all such operations, and layers are found from the order.
        """
        kinds = self.parts.kinds.of if self.parts else {}
        made_by = {value: op for op in self.function.ops for value in op.results}
        for op in self.function.ops:
            if not op.results or kinds.get(op.results[0]) is not Kind.SHARED:
                self._run_after(op, made_by)
        for result in self.function.results:
            if result.value in made_by:
                self._run_after(made_by[result.value], made_by)

    def _run_after(self, op: Op, made_by: dict[int, Op]) -> None:
        """Emit an operation, after those that its operands come from."""
        waiting = [op]
        while waiting:
            last = waiting[-1]
            missing = [value for value in last.operands if value not in self.values]
            if missing:
                waiting.extend(made_by[value] for value in missing)
                continue
            waiting.pop()
            if not last.results or last.results[0] not in self.values:
                self.emit.meta = self._place(last)
                self._run(last)

    def _place(self, op: Op) -> dict[str, Any]:
        if op.place not in self._places:
            place = self.function.place_of(op)
            self._places[op.place] = {"cirh_place": str(place), "module": place.scope.partition("/")[0]}
        return self._places[op.place]

    def _run(self, op: Op) -> None:
        tag = self.parts.batch.tags.get(op.results[0]) if self.parts and op.results else None
        if op.name == "Const" and tag is not None and self.constants[op.results[0]].ndim:
            rows = by_sample(self.constants[op.results[0]], tag)[:, : self.samples]
            self.values[op.results[0]] = self.emit.constant(rows.reshape(self.kind(op.results[0]).shape))
            return
        rule = RULES[op.name]
        use = Use(
            emit=self.emit,
            function=self.function,
            op=op,
            values=[self.values[value] for value in op.operands],
            ins=[self.kind(value) for value in op.operands],
            outs=[self.kind(value) for value in op.results],
            numbers=[self.constants.get(value) for value in op.operands],
            dtypes=[self.dtype(self.kind(value)) for value in op.results],
        )
        try:
            made = rule.lower(use)
        except CirhError:
            raise
        except (RuntimeError, IndexError, ValueError, TypeError, KeyError, ArithmeticError) as error:
            reason = str(error).partition("\n")[0]
            raise CirhError(
                f"{self.function.where(op)}: its operands {', '.join(map(str, use.ins))} do not fit: {reason}"
            ) from error
        results = made if isinstance(made, tuple) else (made,)
        if len(results) != len(op.results):
            raise use.refuse(f"{len(op.results)} results are asked of it; {len(results)} are made here")
        for value, result in zip(op.results, results, strict=True):
            self.values[value] = self._finished(use, op, value, result, rule.exact)

    def _finished(self, use: Use, op: Op, value: int, result: Value, exact: bool) -> Value:
        """The result with the shape and dtype that the program promises."""
        kind = self.kind(value)
        dtype = self.dtype(kind)
        if isinstance(result, Splat):
            if self.wide_half and kind.element == "f16" and not exact:
                result = _rounded_splat(self.emit, result)
            result = Splat(result.source, dtype, kind.shape)
            if value not in self._sums:
                return result
            # For these samples alone: the update must read the number of all.
            return self.emit(aten.clone.default, self.emit.tensor(result))
        if self.wide_half and kind.element == "f16" and not exact:
            result = self.emit.rounded(result, *CB16)
        found = result.meta["val"]
        if (tuple(found.shape), found.dtype) != (kind.shape, dtype):
            raise use.refuse(
                f"it makes {found.dtype} of shape {tuple(found.shape)}, but the program promises {kind}"
            )
        return result

    def tensor(self, value: int) -> fx.Node:
        """The node of a value, whole."""
        return self.emit.tensor(self.values[value])


def _rounded_splat(emit: Emitter, splat: Splat) -> Splat:
    source = splat.source if isinstance(splat.source, fx.Node) else emit.scalar(splat.source, torch.float32)
    return Splat(emit.rounded(source, *CB16), splat.dtype, splat.shape)


def lower(parts: Parts, samples: int) -> StepGraph:
    """The step for a microbatch of `samples` samples.

    Constants such as 1 / batch stay those of the whole batch, so that gradients of microbatches add up to the batch's.
    The loss and the metrics are divided by the microbatch's share of the batch, because they are averaged over samples.

    Raises PlanError if the batch cannot be divided and `samples` is less of it; CirhError for what is not run here.
    """
    if parts.kinds.whole and samples != parts.batch.size:
        raise PlanError(
            f"{parts.function.text_name} cannot be divided into microbatches or over systems: {parts.kinds.whole}; run it on one "
            f"system with its whole batch of {parts.batch.size}"
        )
    run = Lowering(parts.function, parts, samples)
    nodes = {state.name: run.argument(state.value, state.tensor) for state in parts.states.values()}
    inputs = {name: run.argument(value, name) for name, value in parts.inputs.items()}
    fraction = run.emit.placeholder(SAMPLE_FRACTION, Type("f32", ()), torch.float32)
    rng = run.emit.rng = run.emit.placeholder(RNG, Type("i64", ()), torch.int64)
    fraction.meta["name"], rng.meta["name"] = SAMPLE_FRACTION, RNG
    run.run()
    run.emit.meta = {}
    states = parts.states
    weights = {s.tensor: nodes[s.name] for s in states.values() if s.role == "weight"}
    gradients = {states[name].tensor: run.tensor(value) for name, value in parts.gradients.items()}
    new_weights = {
        entry.tensor: run.tensor(entry.new)
        for entry in states.values()
        if entry.role == "weight" and (entry.tensor in gradients or entry.new != entry.value)
    }
    state: dict[str, dict[str, fx.Node]] = {tensor: {} for tensor in (*gradients, *parts.sums)}
    new_state: dict[str, dict[str, fx.Node]] = {tensor: {} for tensor in (*gradients, *parts.sums)}
    globals_, new_globals = {}, {}
    for entry in states.values():
        if entry.role == "state":
            owner = states[entry.owner].tensor if entry.owner in states else entry.owner
            key = entry.tensor.partition("/")[2]
            state[owner][key] = nodes[entry.name]
            new_state[owner][key] = run.tensor(entry.new)
        elif entry.role == "global":
            globals_[entry.tensor] = nodes[entry.name]
            new_globals[entry.tensor] = run.tensor(entry.new)
    reports = _Reports(parts, run, fraction)
    sums = _Sums(parts, run)
    weights |= sums.weights
    gradients |= sums.gradients
    new_weights |= sums.weights
    graph = StepGraph(
        model=parts.function.text_name,
        graph=run.graph,
        samples=samples,
        weights=weights,
        buffers={s.tensor: nodes[s.name] for s in states.values() if s.role == "buffer"},
        new_buffers={s.tensor: run.tensor(s.new) for s in states.values() if s.role == "buffer"},
        inputs=inputs,
        sample_fraction=fraction,
        rng=rng,
        loss=reports.loss,
        metrics=reports.metrics,
        gradients=gradients,
        state=state,
        globals=globals_,
        initial_globals=dict.fromkeys(globals_, 0.0),
        new_weights=new_weights,
        new_state=new_state,
        new_globals=new_globals,
        logs=reports.logs,
        companions={s.tensor: s.owner for s in states.values() if s.role == "weight" and s.owner},
        outputs=reports.samples,
        update_outputs=reports.tensors,
        sums=tuple(sums.weights),
    )
    sums.hand_over(graph)
    ends = [
        graph.loss, *graph.metrics.values(), *gradients.values(), *new_weights.values(), *new_globals.values(),
        *(node for entries in new_state.values() for node in entries.values()), *graph.logs.values(),
    ]  # fmt: skip
    ends += [*graph.new_buffers.values(), *graph.update_outputs.values()]
    ends += [output.node for output in graph.outputs.values()]
    run.graph.output(tuple(ends))
    run.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    if parts.kinds.whole:
        graph.notes.append(f"the whole batch is computed at once, on one system: {parts.kinds.whole}")
    verify(graph)
    return graph


class _Reports:
    """Which outputs are the loss and metrics (sums over samples) and which come from the update."""

    def __init__(self, parts: Parts, run: Lowering, fraction: fx.Node) -> None:
        self.metrics: dict[str, fx.Node] = {}
        self.logs: dict[str, fx.Node] = {}
        self.samples: dict[str, SampleTensor] = {}
        self.tensors: dict[str, fx.Node] = {}
        for name, value in parts.outputs.items():
            kind = run.kind(value)
            node = run.tensor(value)
            if parts.function.values[value].count != 1:
                self._hand_out(parts, run, name, value)
                continue
            if kind.shape:
                node = run.emit(aten.view.default, node, [])
            if node.meta["val"].dtype is not torch.float32:
                node = run.emit(aten._to_copy.default, node, dtype=torch.float32)
            if name in parts.reports:
                self.logs[name] = node
            else:
                self.metrics[name] = run.emit(aten.div.Tensor, node, fraction)
        chosen = next((name for name in self.metrics if "loss" in name), next(iter(self.metrics), None))
        self.loss = self.metrics[chosen] if chosen else self._some_sum(parts, run, fraction)

    def _hand_out(self, parts: Parts, run: Lowering, name: str, value: int) -> None:
        """An output that is a tensor: of the update, or of the samples, whose parts are put together again."""
        node = run.tensor(value)
        if node.op == "placeholder" or value in parts.gradients.values():
            node = run.emit(aten.clone.default, node)  # what is handed out is made by somebody
        if name in parts.reports:
            self.tensors[name] = node
            return
        if not any(source.op == "placeholder" for source in ancestors([node])):
            raise CirhError(
                f"{parts.function.text_name}: the output {name} is a constant; return it from Python, not from the traced step"
            )
        tag = parts.batch.tags.get(value)
        undivided = parts.kinds.whole or tag is None
        self.samples[name] = (
            SampleTensor(node)
            if undivided or tag is None
            else SampleTensor(node, tag.dim, tag.before, tag.after)
        )

    def _some_sum(self, parts: Parts, run: Lowering, fraction: fx.Node) -> fx.Node:
        """Something to tell of each step and to watch for infinities, where a program reports no sum over its samples."""
        made = [run.tensor(value) for value in parts.sums.values()]
        made += [entry.node for entry in self.samples.values()]
        if not made:
            raise CirhError(
                f"{parts.function.text_name} returns nothing that is made of its samples; return the loss from the traced step"
            )
        total = run.emit(aten.sum.default, made[0], dtype=torch.float32)
        return run.emit(aten.div.Tensor, total, fraction)


class _Sums:
    """Sums over the batch that the update reads: each the gradient of a weight that stays zero."""

    def __init__(self, parts: Parts, run: Lowering) -> None:
        self.weights: dict[str, fx.Node] = {}
        self.gradients: dict[str, fx.Node] = {}
        self._made: dict[str, fx.Node] = {}
        graph = run.graph
        for name, value in parts.sums.items():
            made = run.tensor(value)
            kind = Type("f32", run.kind(value).shape)
            with graph.inserting_before(next(iter(graph.nodes))):
                self.weights[name] = weight = run.emit.placeholder(f"sum{value}", kind, torch.float32)
            weight.meta["name"] = name
            with graph.inserting_after(made):
                wide = run.emit(aten._to_copy.default, made, dtype=torch.float32)
            self._made[name], self.gradients[name] = made, wide

    def hand_over(self, step: StepGraph) -> None:
        """Let the update read what came up, added over microbatches and systems, and no more what the forward made."""
        system = ancestors([*step.reported, *step.gradients.values()])
        for name, made in self._made.items():
            wide = self.gradients[name]
            value = made.meta["val"]
            with step.graph.inserting_after(wide):
                # A copy, whatever the dtype: the slot that it came in goes back.
                came = step.graph.call_function(aten._to_copy.default, (wide,), {"dtype": value.dtype})
            came.meta = {**made.meta, "val": value}
            for user in [user for user in made.users if user not in system]:
                user.replace_input_with(made, came)
            for ends in (step.new_globals, step.logs, step.update_outputs, *step.new_state.values()):
                for key, node in ends.items():
                    if node is made:
                        ends[key] = came
