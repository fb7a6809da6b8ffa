"""What every update rule promises to the capture, whatever its formula."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from openwafer.base import InputError
from openwafer.train import optim

LR = optim.WarmupCosine(peak=1e-2, warmup_steps=2, steps=6)
DECAY = optim.Linear(0.1, 0.0, 4)

RULES = {
    "sgd": lambda: optim.SGD(0.1),
    "sgd momentum": lambda: optim.SGD(LR, momentum=0.9, dampening=0.5, weight_decay=DECAY),
    "sgd nesterov": lambda: optim.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda: optim.Adam(1e-2, weight_decay=0.1),
    "adam scheduled": lambda: optim.Adam(LR, weight_decay=DECAY),
    "adamw": lambda: optim.AdamW(1e-2),
    "adamw scheduled": lambda: optim.AdamW(LR, weight_decay=DECAY, decay="matrices"),
    "adafactor": lambda: optim.Adafactor(LR, weight_decay=0.1),
    "lion": lambda: optim.Lion(LR, weight_decay=0.1),
    "clipped": lambda: optim.clip_by_global_norm(optim.AdamW(LR), 0.5),
    "clipped by value": lambda: optim.clip_by_value(optim.SGD(0.1), 0.5),
    "static scale": lambda: optim.StaticLossScale(optim.AdamW(1e-2), 128.0),
    "dynamic scale": lambda: optim.DynamicLossScale(
        optim.clip_by_global_norm(optim.AdamW(1e-2), 1.0), growth_interval=2
    ),
    "groups": lambda: optim.per_group(
        [(lambda name, w: w.ndim >= 2, optim.Lion(LR)), (lambda name, w: True, optim.AdamW(1e-2))]
    ),
    "torch adagrad": lambda: optim.from_torch(torch.optim.Adagrad, lr=1e-2, lr_decay=0.1),
    "torch nadam": lambda: optim.from_torch(torch.optim.NAdam, lr=LR),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


def tensors(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (7, 5), "vector": (9,), "scalar": (), "cube": (2, 3, 4)}
    return {name: torch.randn(s, generator=generator).to(dtype) for name, s in shapes.items()}


def start(rule, weights):
    return {name: rule.state(name, w) for name, w in weights.items()}, rule.globals()


def as_dicts(rule):
    def step(weights, grads, state, globals):
        new = rule.update(weights, grads, state, globals)
        return {"weights": new.weights, "state": new.state, "globals": new.globals, "logs": new.logs}

    return step


def fakes(rule, dtype=torch.float32):
    mode = FakeTensorMode()

    def fake(tree):
        return pytree.tree_map(mode.from_tensor, tree)

    weights, grads = fake(tensors(dtype=dtype)), fake(tensors(seed=1, dtype=dtype))
    return weights, grads, {n: rule.state(n, w) for n, w in weights.items()}, fake(rule.globals())


def leaves_equal(a, b):
    a, b = pytree.tree_leaves_with_path(a), pytree.tree_leaves_with_path(b)
    assert [path for path, _ in a] == [path for path, _ in b]
    return all(x.dtype == y.dtype and torch.equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_traced_graph_equals_the_direct_call_bit_for_bit(rule, dtype):
    """The graph, traced once without values, is what every later step runs: it must not hold a value."""
    graph = make_fx(as_dicts(rule))(*fakes(rule, dtype))
    weights = tensors(dtype=dtype)
    state, globals = start(rule, weights)

    for i in range(4):
        grads = tensors(seed=10 + i, dtype=dtype)
        direct = as_dicts(rule)(weights, grads, state, globals)
        traced = graph(weights, grads, state, globals)
        assert leaves_equal(direct, traced)
        assert not torch.equal(direct["weights"]["matrix"], weights["matrix"]) or i == 0  # warmup from 0
        weights, state, globals = direct["weights"], direct["state"], direct["globals"]


def test_the_graph_holds_no_op_that_writes_in_place(rule):
    """The graph is split between machines: a write in one part would not be seen by another."""
    graph = make_fx(as_dicts(rule))(*fakes(rule))

    ops = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    schemas = [op._schema for op in ops if hasattr(op, "_schema")]
    assert schemas
    assert [str(schema) for schema in schemas if schema.is_mutable] == []


@pytest.mark.parametrize(
    "functionalize", [partial(torch.func.functionalize, remove="mutations"), dispatch_functionalize]
)
def test_tracing_also_works_inside_the_captures_own_modes(rule, functionalize):
    """A capture may trace under a fake mode and functionalize, by functorch or as AOTAutograd does."""
    weights, grads, state, globals = fakes(rule)
    mode = weights["matrix"].fake_mode
    with mode:
        graph = make_fx(functionalize(as_dicts(rule)))(weights, grads, state, globals)

    real = tensors()
    state, globals = start(rule, real)
    args = (real, tensors(seed=3), state, globals)
    assert leaves_equal(graph(*args), as_dicts(rule)(*args))


def test_an_update_leaves_its_arguments_as_they_were(rule):
    """Out of place: a failed step can be run again from the same tensors."""
    weights, grads = tensors(), tensors(seed=1)
    state, globals = start(rule, weights)
    args = (weights, grads, state, globals)
    before = pytree.tree_map(torch.clone, args)

    rule.update(*args)

    assert leaves_equal(before, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fake_state_has_the_shapes_and_dtypes_of_real_state(rule, dtype):
    """The capture sees fake weights, MemoryX allocates real ones: both must get the same state."""
    _, _, state, _ = fakes(rule, dtype)
    real, globals = start(rule, tensors(dtype=dtype))

    assert all(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves(state))
    assert pytree.tree_map(lambda t: (t.shape, t.dtype), state) == pytree.tree_map(
        lambda t: (t.shape, t.dtype), real
    )
    assert all(v.ndim == 0 and not isinstance(v, FakeTensor) for v in globals.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_dtypes_never_change(rule, dtype):
    """A step's outputs are the next step's inputs in the same buffers."""
    weights = tensors(dtype=dtype)
    state, globals = start(rule, weights)

    new = rule.update(weights, tensors(seed=1, dtype=dtype), state, globals)

    before, after = (weights, state, globals), (new.weights, new.state, new.globals)
    spec = [pytree.tree_map(lambda t: (t.shape, t.dtype), tree) for tree in (before, after)]
    assert spec[0] == spec[1]
    assert all(log.ndim == 0 for log in new.logs.values())


def test_a_weight_without_a_gradient_stays_as_it_is(rule):
    """As in torch.optim, where such a parameter has grad None: no decay, no change of its state."""
    weights, grads = tensors(), tensors(seed=1)
    state, globals = start(rule, weights)
    del grads["vector"]

    new = rule.update(weights, grads, state, globals)

    assert torch.equal(new.weights["vector"], weights["vector"])
    assert leaves_equal(new.state["vector"], state["vector"])
    assert list(new.weights) == list(weights)


def test_a_gradient_of_no_weight_is_refused(rule):
    """A misspelt name would otherwise be a weight that silently never trains."""
    weights, grads = tensors(), tensors(seed=1)
    state, globals = start(rule, weights)
    grads["vektor"] = grads.pop("vector")

    with pytest.raises(InputError, match="vektor"):
        rule.update(weights, grads, state, globals)


def test_parameters_that_require_grad_are_fine(rule):
    """Weights may come straight from a module; the update itself is never differentiated."""
    weights = {name: torch.nn.Parameter(w) for name, w in tensors().items()}
    state, globals = start(rule, weights)

    new = rule.update(weights, tensors(seed=1), state, globals)

    assert not any(leaf.requires_grad for leaf in pytree.tree_leaves((new.weights, new.state)))


@pytest.mark.parametrize(("name", "op"), [("adam", "_fused_adam"), ("adamw", "_fused_adamw")])
def test_adam_is_one_fused_op_per_weight(name, op):
    """The per-weight parts are split to where the weights live, so one op must not hold two weights."""
    rule = RULES[name]()
    graph = make_fx(as_dicts(rule))(*fakes(rule))

    target = getattr(torch.ops.aten, op).tensor_lr
    fused = [node for node in graph.graph.nodes if node.target is target]
    assert len(fused) == len(tensors())
    assert all(len(node.args[0]) == 1 for node in fused)
