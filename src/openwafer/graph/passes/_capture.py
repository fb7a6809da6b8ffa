"""Capture: module + loss + update rule -> StepGraph, under FakeTensorMode, so that nothing is ever allocated.

The step is traced once with `make_fx`: forward, `autograd.grad` and update, at the level of the ATen operators that
eager PyTorch itself would run. That is why a streamed step can equal an eager one bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils import checkpoint as checkpointing

from openwafer.artifact import Part, TensorType
from openwafer.base import CaptureError, WaferError
from openwafer.graph.ir import RNG, SAMPLE_FRACTION, StepGraph, verify
from openwafer.graph.passes import _fake_ops  # noqa: F401 - registers shapes
from openwafer.graph.passes._clean import clean
from openwafer.graph.passes._explain import ModuleTrail, explain


class UpdateRule(Protocol):
    """What capture asks of an optimizer: pure functions of tensors (see `train.optim`)."""

    def globals(self) -> dict[str, torch.Tensor]: ...
    def state(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]: ...
    def update(
        self,
        weights: dict[str, torch.Tensor],
        grads: dict[str, torch.Tensor],
        state: dict[str, dict[str, torch.Tensor]],
        globals: dict[str, torch.Tensor],
    ) -> Any: ...
    def loss_scale(self, globals: dict[str, torch.Tensor]) -> torch.Tensor | None: ...
    def for_shards(self, wholes: Mapping[str, tuple[str, torch.Tensor]]) -> UpdateRule: ...


@dataclass(frozen=True, slots=True)
class Precision:
    """What systems compute in. Weights and optimizer state stay float32 in MemoryX whatever this says.

    `compute` casts weights and floating-point inputs; `autocast` runs the module under `torch.autocast`
    instead, with the numbers of the usual mixed-precision loop.
    """

    compute: torch.dtype | None = None
    autocast: torch.dtype | None = None


StepFunction = Callable[[nn.Module, Callable[..., Any], Mapping[str, torch.Tensor]], Any]
"""(module, call, batch) -> loss, or (loss, {metric: scalar}); `call(*args, **kwargs)` runs the module's forward."""


Shards = Mapping[str, Sequence[int]]
"""Weights to cut by rows -> where shards begin, from 0, and last the number of rows."""


def capture(
    module: nn.Module,
    step: StepFunction,
    inputs: Mapping[str, TensorType],
    samples: int,
    rule: UpdateRule | None,
    precision: Precision = Precision(),
    shards: Shards | None = None,
) -> StepGraph:
    """Trace one step of `module` for a microbatch of `samples` samples.

    inputs: name -> type per sample, without the batch dim. rule None: forward only, as evaluation runs it;
    the module's own training flag decides about dropout and batch statistics.
    The module's parameters may be real, fake or on the meta device; they are read for shape and dtype only.
    shards: parameters that are to be several weights of the step, each some of the rows; the module sees them joined.
    `rule` must treat their elements alike.

    Raises CaptureError, naming the module and the source line, for data-dependent control flow, `.item()`,
    data-dependent shapes, and operators that the tracer does not know; and if no weight receives a gradient.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
    parameters, tied = _distinct(dict(module.named_parameters(remove_duplicate=False)))
    buffers, tied_buffers = _distinct(dict(module.named_buffers(remove_duplicate=False)))
    global_values = rule.globals() if rule else {}
    pieces = {name: shard_parts(name, parameters[name], bounds) for name, bounds in (shards or {}).items()}
    parts = {shard: part for found in pieces.values() for shard, part in found.items()}
    with mode:
        wholes = {name: _fake(mode, value) for name, value in parameters.items()}
        weights = {}
        for name, value in wholes.items():
            if name in pieces:
                for shard, rows in zip(pieces[name], pairwise((shards or {})[name]), strict=True):
                    weights[shard] = value.new_empty((rows[1] - rows[0], *value.shape[1:]))
            else:
                weights[name] = value
        fixed = {name: _fake(mode, value) for name, value in buffers.items()}
        batch = {
            name: torch.empty((samples, *kind.shape), dtype=getattr(torch, kind.dtype))
            for name, kind in inputs.items()
        }
        trained = {
            name: value
            for name, value in weights.items()
            if rule is not None and parameters[parts[name].whole if name in parts else name].requires_grad
        }
        if rule is not None and parts:
            rule = rule.for_shards({shard: (p.whole, wholes[p.whole]) for shard, p in parts.items()})
        global_fakes = {name: torch.empty_like(value, device="cpu") for name, value in global_values.items()}
        state = {name: rule.state(name, value) for name, value in trained.items()} if rule else {}
        fraction = torch.empty((), dtype=torch.float32)
        rng = torch.empty((), dtype=torch.int64)

    if rule is not None and not trained:
        raise CaptureError(
            f"{type(module).__name__} has no trainable parameter (of {len(parameters)}, all have requires_grad=False), so "
            "training would change nothing; set requires_grad=True on those that should learn"
        )
    aliases = {**tied, **tied_buffers}
    trail = ModuleTrail(module)
    names_without_gradient: list[str] = []

    def whole_step(tree: dict[str, Any]) -> dict[str, Any]:
        w: dict[str, torch.Tensor] = dict(tree["weights"])
        for name in trained:
            w[name] = w[name].detach().requires_grad_()
        out: dict[str, Any] = {}
        with ExitStack() as inside:
            inside.enter_context(torch.enable_grad() if trained else torch.no_grad())
            used = {name: _cast(value, precision.compute) for name, value in w.items()}
            used.update(
                {name: torch.cat([used.pop(shard) for shard in found]) for name, found in pieces.items()}
            )
            used.update(tree["buffers"])
            used.update({alias: used[name] for alias, name in aliases.items()})
            feed = {name: _cast(value, precision.compute) for name, value in tree["inputs"].items()}

            # Loss functions and backward hooks may read the module as well: all of them find the traced weights in it.
            inside.enter_context(_reparametrize_module(module, used, tie_weights=False))
            with torch.autocast("cpu", precision.autocast) if precision.autocast else nullcontext():
                result = step(module, module, feed)
            loss, metrics = result if isinstance(result, tuple) else (result, {})
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                found = (
                    f"a tensor of shape {tuple(loss.shape)}"
                    if isinstance(loss, torch.Tensor)
                    else type(loss).__name__
                )
                raise CaptureError(
                    f"the loss must be one number (a mean over the samples), but the loss function returned {found}"
                )
            loss = loss.reshape(())
            out["loss"] = loss.detach().float()
            out["metrics"] = {name: value.detach().float().reshape(()) for name, value in metrics.items()}
            if trained and rule:
                scale = rule.loss_scale(tree["globals"])
                tangent = tree["fraction"] if scale is None else tree["fraction"] * scale
                leaves = [w[name] for name in trained]
                if not loss.requires_grad:
                    raise CaptureError(
                        "the loss does not depend on any trainable parameter; check that the loss function uses the model's "
                        "output and that parameters have requires_grad=True"
                    )
                found_grads = torch.autograd.grad(
                    loss, leaves, grad_outputs=tangent.to(loss.dtype), allow_unused=True
                )
                grads = {name: g for name, g in zip(trained, found_grads, strict=True) if g is not None}
                names_without_gradient[:] = [name for name in trained if name not in grads]
                out["gradients"] = grads
        out["new_buffers"] = {name: used[name] for name in tree["buffers"]}
        if trained and rule:
            with torch.no_grad():
                updated = rule.update(
                    {name: tree["weights"][name] for name in grads},
                    dict(grads),
                    {name: tree["state"][name] for name in grads},
                    tree["globals"],
                )
            out["new_weights"] = dict(updated.weights)
            out["new_state"] = {name: dict(entry) for name, entry in updated.state.items()}
            out["new_globals"] = dict(updated.globals)
            out["logs"] = {name: value.detach().float().reshape(()) for name, value in updated.logs.items()}
        return out

    tree = {
        "weights": weights,
        "buffers": fixed,
        "inputs": batch,
        "fraction": fraction,
        "rng": rng,
        "state": state,
        "globals": global_fakes,
    }
    flat, spec = torch.utils._pytree.tree_flatten(tree)
    out_spec: list[Any] = []

    def flat_step(*values: torch.Tensor) -> list[torch.Tensor]:
        out = whole_step(torch.utils._pytree.tree_unflatten(list(values), spec))
        leaves, found = torch.utils._pytree.tree_flatten(out)
        out_spec[:] = [found]
        return leaves

    with ExitStack() as stack:
        stack.enter_context(mode)
        stack.enter_context(trail)
        stack.enter_context(_exporting())
        stack.enter_context(_without_checkpointing())
        stack.enter_context(_without_onednn())
        try:
            traced = make_fx(flat_step, tracing_mode="real", record_stack_traces=False)(*flat)
        except WaferError:  # says already what is wrong, and with which part
            raise
        except Exception as error:
            raise explain(error, trail) from error
    held = {id(value) for value in weights.values()}
    traced = clean(
        traced,
        flat,
        mode,
        weights={position for position, value in enumerate(flat) if id(value) in held},
        rng=next(position for position, value in enumerate(flat) if value is rng),
    )

    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    ends = torch.utils._pytree.tree_unflatten(placeholders, spec)
    returned: Any = traced.graph.output_node().args[0]
    result_nodes = torch.utils._pytree.tree_unflatten(list(returned), out_spec[0])
    graph = StepGraph(
        model=type(module).__name__,
        graph=traced.graph,
        samples=samples,
        weights=ends["weights"],
        buffers=ends["buffers"],
        inputs=ends["inputs"],
        sample_fraction=ends["fraction"],
        rng=ends["rng"],
        loss=result_nodes["loss"],
        metrics=result_nodes["metrics"],
        gradients=result_nodes.get("gradients", {}),
        new_buffers={
            name: node
            for name, node in result_nodes["new_buffers"].items()
            if _is_changed(node, ends["buffers"][name])
        },
        state={name: ends["state"][name] for name in result_nodes.get("gradients", {})},
        globals=ends["globals"],
        initial_globals={name: float(value) for name, value in global_values.items()},
        new_weights=result_nodes.get("new_weights", {}),
        new_state=result_nodes.get("new_state", {}),
        new_globals=result_nodes.get("new_globals", {}),
        logs=result_nodes.get("logs", {}),
        tied=aliases,
        parts=parts,
        initial_state={
            name: _initial_state(rule, name, trained[name])
            for name in result_nodes.get("gradients", {})
            if rule
        },
    )
    if rule and trained and not graph.gradients:
        raise CaptureError("the captured step has no backward: no trainable parameter received a gradient")
    if names_without_gradient:
        graph.notes.append(
            f"{len(names_without_gradient)} trainable weight(s) receive no gradient and stay as they are: "
            + ", ".join(names_without_gradient[:5])
        )
    _name_ends(graph)
    verify(graph)
    return graph


def shard_parts(name: str, weight: torch.Tensor, bounds: Sequence[int]) -> dict[str, Part]:
    """The row shards of a weight by their names, `weight[start:stop]`, and where each belongs.

    bounds: where shards begin, from 0, and last the number of rows. Raises CaptureError for others.
    """
    rows = weight.shape[0] if weight.ndim else 0
    if list(bounds) != sorted(set(bounds)) or len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != rows:
        raise CaptureError(
            f"{name} has {rows} rows and cannot be cut at {list(bounds)}; give rising row numbers from 0 to {rows}"
        )
    shape = tuple(int(size) for size in weight.shape)
    return {f"{name}[{start}:{stop}]": Part(name, shape, start) for start, stop in pairwise(bounds)}


def _name_ends(graph: StepGraph) -> None:
    """Give placeholders the names by which every other part knows them."""
    for name, node in {**graph.weights, **graph.buffers, **graph.inputs, **graph.globals}.items():
        node.meta["name"] = name
    for name, entry in graph.state.items():
        for key, node in entry.items():
            node.meta["name"] = f"{name}/{key}"
    graph.sample_fraction.meta["name"] = SAMPLE_FRACTION
    graph.rng.meta["name"] = RNG
    results = {
        "loss": graph.loss,
        **{f"metric/{label}": node for label, node in graph.metrics.items()},
        **{f"{name}/new": node for name, node in graph.new_buffers.items()},
    }
    for name, node in results.items():
        if node.op != "placeholder":
            node.meta.setdefault("name", name)


def _is_changed(node: fx.Node, placeholder: fx.Node) -> bool:
    return node is not placeholder


def _distinct(named: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by their first name, and the other names of tied ones."""
    first: dict[int, str] = {}
    tied = {}
    for name, value in named.items():
        if id(value) in first:
            tied[name] = first[id(value)]
        else:
            first[id(value)] = name
    return {name: named[name] for name in first.values()}, tied


def _fake(mode: FakeTensorMode, value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")


def _initial_state(rule: UpdateRule, name: str, weight: torch.Tensor) -> dict[str, float]:
    """State starts as one repeated value: read it from the state of a one-element stand-in of the same rank."""
    tiny = rule.state(name, torch.zeros([1] * weight.ndim, dtype=weight.dtype))
    return {key: float(value.reshape(-1)[0]) for key, value in tiny.items()}


def _cast(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


class _exporting:  # noqa: N801 - a context manager used like a function
    """Tell libraries that ask (transformers does) that this is a tracing run, so that they skip data-dependent checks."""

    def __enter__(self) -> None:
        self.before = torch.compiler._is_exporting_flag
        torch.compiler._is_exporting_flag = True

    def __exit__(self, *_: object) -> None:
        torch.compiler._is_exporting_flag = self.before


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Keep oneDNN's LSTM out of the graph: it hands its backward bytes of a size and meaning that only it knows.

    Which kernels compute the operators that are captured is decided where they run.
    """
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def _without_checkpointing() -> Iterator[None]:
    """Let `torch.utils.checkpoint` run its function and no more: what is recomputed is for the plan to decide.

    A traced checkpoint would hold each operator twice, and random operators with two different keys.
    """

    class Kept:
        @staticmethod
        def apply(function: Callable[..., Any], _preserve: bool, *args: Any) -> Any:
            return function(*args)

    def kept(*_: Any, **__: Any) -> Iterator[None]:
        yield

    names = ("CheckpointFunction", "_checkpoint_without_reentrant_generator")
    before = {name: getattr(checkpointing, name) for name in names}
    for name, value in zip(names, (Kept, kept), strict=True):
        setattr(checkpointing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(checkpointing, name, value)
