"""The StepGraph: one training step as a flat `torch.fx` graph of ATen operators, its ends named.

It is what every front end hands over. Its fields are data about the graph, no Python beside it:

    placeholders   weights (trained or not), buffers, per-weight state, globals, inputs, the two scalars below
    outputs        loss, metrics, gradients, new buffers, new weights, new state, new globals, logs

`gradients` is the cut between the two halves: what lies above runs on systems, once per microbatch; what
lies below is the update and runs in MemoryX, once per step. Two scalars belong to a microbatch: `sample_fraction`,
its share of the global batch (the tangent of the loss, so that microbatch gradients add up to the batch's),
and `rng`, the key from which all its random operators draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx

from openwafer.artifact import Part, TensorType

SAMPLE_FRACTION = "sample_fraction"
RNG = "rng"


@dataclass(frozen=True, slots=True)
class SampleTensor:
    """A tensor to hand out whose dim `dim` has before * samples * after entries; -1: it needs the batch whole."""

    node: fx.Node
    dim: int = -1
    before: int = 1
    after: int = 1


@dataclass
class StepGraph:
    """One step, for `samples` samples. Dicts map the user's names to nodes of `graph`."""

    model: str
    graph: fx.Graph
    samples: int
    weights: dict[str, fx.Node]
    """Parameters, tied ones once, under their first name."""
    buffers: dict[str, fx.Node]
    inputs: dict[str, fx.Node]
    sample_fraction: fx.Node
    rng: fx.Node
    loss: fx.Node
    metrics: dict[str, fx.Node] = field(default_factory=dict)
    gradients: dict[str, fx.Node] = field(default_factory=dict)
    new_buffers: dict[str, fx.Node] = field(default_factory=dict)
    state: dict[str, dict[str, fx.Node]] = field(default_factory=dict)
    """weight -> key -> placeholder, e.g. `exp_avg`."""
    globals: dict[str, fx.Node] = field(default_factory=dict)
    initial_globals: dict[str, float] = field(default_factory=dict)
    new_weights: dict[str, fx.Node] = field(default_factory=dict)
    new_state: dict[str, dict[str, fx.Node]] = field(default_factory=dict)
    new_globals: dict[str, fx.Node] = field(default_factory=dict)
    logs: dict[str, fx.Node] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    """Other names of a tied weight -> the name that it goes by here."""
    initial_state: dict[str, dict[str, float]] = field(default_factory=dict)
    """weight -> key -> the one value that fills the state at the start."""
    streamed: dict[str, fx.Node] = field(default_factory=dict)
    """Weights that systems read in a narrower dtype: the placeholder of that dtype (see passes.narrow_streams)."""
    notes: list[str] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    """Row shards among the weights -> what they are of the module's own weight."""
    companions: dict[str, str] = field(default_factory=dict)
    """Weights without gradients that the update of another writes or reads (masks of sparsity) -> that other."""
    outputs: dict[str, SampleTensor] = field(default_factory=dict)
    """Tensors that the forward makes and each step hands out whole."""
    update_outputs: dict[str, fx.Node] = field(default_factory=dict)
    """Tensors that the update makes and each step hands out."""
    sums: tuple[str, ...] = ()
    """Weights that nothing reads: the `gradient` of each is a sum over the batch that the forward makes and the update wants."""
    prepared: bool = False
    """Whether the rewrites that come before cutting have run."""

    @property
    def reported(self) -> list[fx.Node]:
        """All that the forward is for."""
        sums = [self.gradients[name] for name in self.sums]
        outputs = [output.node for output in self.outputs.values()]
        return [self.loss, *self.metrics.values(), *self.new_buffers.values(), *outputs, *sums]

    @property
    def read_weights(self) -> dict[str, fx.Node]:
        """The placeholders through which systems read the weights."""
        return {**self.weights, **self.streamed}

    def type_of(self, node: fx.Node) -> TensorType:
        """Dtype and static shape of a node that makes one tensor."""
        return tensor_type(node.meta["val"])


def tensor_type(value: torch.Tensor) -> TensorType:
    """The type of a (fake) tensor."""
    return TensorType(str(value.dtype).removeprefix("torch."), tuple(int(size) for size in value.shape))


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node reads."""
    return node.all_input_nodes


def op_name(node: fx.Node) -> str:
    """`aten.mm.default` or `getitem`; empty for a placeholder."""
    if node.op != "call_function":
        return ""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return str(getattr(target, "__name__", target))


def is_view(node: fx.Node) -> bool:
    """Whether the node's result shares storage with its first input, by the operator's schema."""
    if op_name(node) == "getitem":
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return is_view(source)
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if target._schema.name in ("aten::_unsafe_view", "aten::reshape", "aten::_reshape_alias"):
        return True
    arguments = target._schema.arguments
    return bool(
        arguments
        and arguments[0].alias_info is not None
        and not arguments[0].alias_info.is_write
        and target.is_view
    )


def verify(step: StepGraph) -> None:
    """Check what every consumer relies on; a failure is our bug, not the caller's."""
    step.graph.lint()
    for node in step.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, f"{node.format_node()} writes in place"
    assert step.loss.meta["val"].numel() == 1
    assert set(step.new_weights) - set(step.companions) == set(step.gradients) or not step.new_weights
