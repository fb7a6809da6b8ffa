"""A compiled body is its operators, run one by one; a layer's calls are its part of the captured graph."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from system_cases import ADAMW, small
from torch import fx

from openwafer.artifact import Body, Instr, Ref, Symbol, TensorType
from openwafer.base import PlanError
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import FUSED, Kernels, constant, mix, overload, seeded
from openwafer.graph.passes import BodyTable, assemble
from openwafer.graph.passes._bodies import value_name
from openwafer.graph.passes._clean import CONSTANT, SEEDED

F32 = TensorType("float32", (4,))
CPU = Kernels(torch.device("cpu"))


class Interpreted(fx.Interpreter):
    """The captured graph, node by node; our two operators are those of the roles."""

    def call_function(self, target, args, kwargs):
        if target is SEEDED:
            return seeded(*args, **kwargs)
        if target is CONSTANT:
            return constant(*args, **kwargs)
        if target is torch.ops.aten.view.default:  # see test_a_view_of_a_result_that_lies_otherwise_is_a_copy
            return args[0].reshape(args[1])
        return super().call_function(target, args, kwargs)


def interpreted(step, values) -> dict[str, torch.Tensor]:
    """Value name -> value of every node above the update."""
    above = {*step.gradients.values(), step.loss, *step.new_buffers.values()}
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in step.graph.nodes:
        if node.op == "output":
            graph.output(tuple(copied[n] for n in step.graph.nodes if n in copied))
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    names = {new: value_name(old) for old, new in copied.items()}
    state = {f"{w}/{key}": 0.0 for w, entry in step.state.items() for key in entry}
    inputs = []
    for node in graph.nodes:
        if node.op != "placeholder":
            continue
        name = names[node]
        kind = node.meta["val"]
        given = values.get(name, state.get(name))
        if isinstance(given, float) or given is None:
            given = torch.zeros(kind.shape, dtype=kind.dtype)
        inputs.append(given.clone() if isinstance(given, torch.Tensor) else given)
    found = Interpreted(fx.GraphModule({}, graph)).run(*inputs)
    assert above <= set(copied)
    return dict(zip([names[new] for new in copied.values()], found, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_compute_what_the_captured_graph_computes(recompute):
    """Forward from first to last, backward from last to first: every value that crosses layers, and every gradient.

    Bitwise: attention, dropout, batch statistics and a tied weight among them.
    """
    step = small().capture(ADAMW)
    table = BodyTable()
    made = assemble(step, table, lambda index, count: recompute and index < count - 1)
    expected = interpreted(step, small().values)
    values = dict(small().values)

    def run(call):
        inputs = [name if isinstance(name, int) else values[name] for name in call.inputs]
        outputs = compile_body(table.bodies[call.body], CPU)(inputs)
        for name, value in zip(call.outputs, outputs, strict=True):
            assert torch.equal(value, expected[name]), name
            values[name] = value

    with torch.inference_mode():
        for call in [
            *([made.constants] if made.constants else []),
            *(layer.forward for layer in made.layers),
            *(layer.backward for layer in reversed(made.layers)),
        ]:
            run(call)

    sums = {}
    for layer in reversed(made.layers):
        for gradient in layer.gradients:
            value = values[gradient.value]
            sums[gradient.weight] = sums[gradient.weight] + value if gradient.weight in sums else value
    assert set(sums) == set(step.gradients)
    for name, node in step.gradients.items():
        assert torch.equal(sums[name], expected[value_name(node)]), name
    assert torch.equal(values[made.loss], expected[value_name(step.loss)])
    assert {name for name, _ in made.buffers} == {
        f"norm.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_the_captured_step_is_eager_pytorch(monkeypatch):
    """The interpreted graph itself has the loss and the gradients of the module, run with a dropout that keeps all."""
    module = small().module
    step = small().capture(ADAMW)
    for node in list(step.graph.nodes):
        if node.target is SEEDED:  # what dropout multiplies with, when nothing is dropped
            node.args = (node.args[0], node.args[1], node.args[2], node.args[3], 1.0)
    expected = interpreted(step, small().values)
    before = {name: value.clone() for name, value in module.named_buffers()}
    keep_all = lambda x, p, training, inplace: x * torch.ones_like(x).div_(1 - p)  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "dropout", keep_all)
    logits = module(small().values["input0"])
    found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), small().values["input1"].flatten())
    names = dict(module.named_parameters())
    grads = torch.autograd.grad(found, list(names.values()), torch.tensor(0.5))
    module.load_state_dict({**module.state_dict(), **before})

    assert torch.equal(found, expected[value_name(step.loss)])
    for name, grad in zip(names, grads, strict=True):
        assert torch.equal(grad, expected[value_name(step.gradients[name])]), name


# --- one body ---------------------------------------------------------------------------------------------


def _relu_add() -> Body:
    return Body(
        (F32, F32),
        (
            Instr("aten.relu.default", (Ref(0),), (), (F32,)),
            Instr("aten.add.Tensor", (Ref(2), Ref(1)), (("alpha", 2),), (F32,)),
            Instr("aten.neg.default", (Ref(3),), (), (F32,)),
        ),
        (3, 4),
    )


def test_a_body_returns_its_outputs_in_order():
    """Keyword arguments included."""
    x, y = torch.tensor([-1.0, 2, -3, 4]), torch.arange(4.0)

    first, second = compile_body(_relu_add(), CPU)([x, y])

    assert torch.equal(first, x.relu() + 2 * y)
    assert torch.equal(second, -first)


def test_inputs_die_inside_the_body():
    """The list is emptied at once, so a value whose last use is here takes no memory afterwards, nor on the way."""
    alive = []

    def watch(value):
        alive.append([ref() is not None for ref in refs])
        return torch.ops.aten.neg.default(value)

    kernels = Kernels(torch.device("cpu"))
    body = _relu_add()
    original = kernels.find
    kernels.find = lambda body, position, in_place: (  # type: ignore[method-assign]
        (watch, {}) if body.instrs[position].op == "aten.neg.default" else original(body, position, in_place)
    )
    values = [torch.randn(4), torch.randn(4)]
    refs = [weakref.ref(value) for value in values]

    compile_body(body, kernels)(values)
    gc.collect()

    assert values == []
    assert alive == [[False, False]]


def test_symbols_tuples_and_infinities_reach_the_operator():
    """What stands in the text is what the operator gets."""
    body = Body(
        (F32,),
        (
            Instr("aten.full.default", ((4,), float("-inf")), (("dtype", Symbol("torch.float32")),), (F32,)),
            Instr("aten.maximum.default", (Ref(0), Ref(1)), (), (F32,)),
            Instr("aten.split_with_sizes.default", (Ref(2), (1, 3)), (), (F32, F32)),
            Instr("getitem", (Ref(3), 1), (), (F32,)),
        ),
        (1, 4),
    )
    x = torch.randn(4)

    filled, part = compile_body(body, CPU)([x])

    assert torch.equal(filled, torch.full((4,), -torch.inf))
    assert torch.equal(part, x[1:])


def test_an_operator_that_this_torch_lacks_is_named():
    """A plan from another torch: the message says which operator and what to do."""
    body = Body((F32,), (Instr("aten.relu_of_tomorrow.default", (Ref(0),), (), (F32,)),), (1,))

    with pytest.raises(
        PlanError, match=r"the operator aten.relu_of_tomorrow.default, which torch .* plan the job again"
    ):
        compile_body(body, CPU)
    with pytest.raises(PlanError, match="the operator nonsense"):
        overload("nonsense")


def test_a_view_of_a_result_that_lies_otherwise_is_a_copy():
    """Tracing takes a kernel's word for the strides of its result, and not all kernels keep it.

    Batch normalisation of a transposed tensor gives a contiguous one; what is traced next views it as if it did not.
    """
    cube, square = TensorType("float32", (4, 2, 3)), TensorType("float32", (12, 2))
    body = Body(
        (cube,),
        (
            Instr("aten.transpose.int", (Ref(0), 1, 2), (), (TensorType("float32", (4, 3, 2)),), view_of=0),
            Instr("aten.view.default", (Ref(1), (12, 2)), (), (square,), view_of=1),
            Instr("aten.view.default", (Ref(0), (8, 3)), (), (TensorType("float32", (8, 3)),), view_of=0),
        ),
        (2, 3),
    )
    x = torch.randn(4, 2, 3)

    copied, viewed = compile_body(body, CPU)([x])

    assert torch.equal(copied, x.transpose(1, 2).reshape(12, 2))
    assert viewed.data_ptr() == x.data_ptr()


def test_an_empty_body_is_a_body():
    """A layer may pass a value through."""
    assert compile_body(Body((F32,), (), (0, 0)), CPU)([torch.ones(4)])[1].sum() == 4
    assert compile_body(Body((), (), ()), CPU)([]) == ()


# --- randomness -------------------------------------------------------------------------------------------


def test_seeded_operators_depend_on_key_and_salt_alone():
    """Neither the global generator nor what ran before matters, and it is left as it was."""
    x = torch.zeros(1000)
    before = torch.get_rng_state()

    first = seeded("aten.bernoulli.p", 5, 0, x, 0.5)
    torch.manual_seed(3)
    again = seeded("aten.bernoulli.p", torch.tensor(5), 0, x, 0.5)
    others = [seeded("aten.bernoulli.p", 5, 1, x, 0.5), seeded("aten.bernoulli.p", 6, 0, x, 0.5)]

    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)
    torch.set_rng_state(before)


def test_operators_without_a_generator_are_seeded_too():
    """native_dropout takes none: it draws from the global one, which is put back."""
    x = torch.ones(1000)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    first = seeded("aten.native_dropout.default", 5, 0, x, 0.5, True)[0]
    second = seeded("aten.native_dropout.default", 5, 0, x, 0.5, True)[0]

    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected)


def test_mix_is_the_same_everywhere_and_for_ever():
    """Resuming a run on another machine, or with another version, must draw the same numbers."""
    assert mix() == 2177342782468422677
    assert mix(0) == 6367277893379345895
    assert mix(0, 0, 0) == 3001605182240938060
    assert mix(1, 2, 3) == 2950723391392921564
    assert mix(3, 2, 1) == 3591382282163036416
    assert mix(2**63) == 2687521788190985031
    assert mix(-1) == mix(2**64 - 1) == 8658983634636877031
    assert mix(11, 9, 7, 5) == 7220383959734421715


def test_mix_spreads_neighbouring_keys():
    """Steps, rows and salts are small numbers in a row; their keys must not collide, and all bits must move."""
    keys = [mix(seed, step, row) for seed in range(4) for step in range(64) for row in range(16)]

    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)
    for bit in range(63):
        share = sum(key >> bit & 1 for key in keys) / len(keys)
        assert 0.45 < share < 0.55  # of 4096 fair bits, 6.4 standard deviations


# --- fused updates ----------------------------------------------------------------------------------------


def _fused_body(extra: tuple[Instr, ...], outputs: tuple[int, ...]) -> Body:
    """AdamW on one weight: weight, gradient, moments, step and lr are the inputs."""
    scalar = TensorType("float32", ())
    fused = Instr(
        "aten._fused_adamw.tensor_lr",
        ((Ref(0),), (Ref(1),), (Ref(2),), (Ref(3),), (), (Ref(4),)),
        (
            ("lr", Ref(5)),
            ("beta1", 0.9),
            ("beta2", 0.999),
            ("weight_decay", 0.1),
            ("eps", 1e-8),
            ("amsgrad", False),
            ("maximize", False),
        ),
        (F32, F32, F32, F32),
    )
    parts = [
        Instr("getitem", (Ref(6), 0), (), (F32,)),
        Instr("getitem", (Ref(7), 0), (), (F32,)),
        Instr("getitem", (Ref(6), 2), (), (F32,)),
        Instr("getitem", (Ref(9), 0), (), (F32,)),
        Instr("getitem", (Ref(6), 3), (), (F32,)),
        Instr("getitem", (Ref(11), 0), (), (F32,)),
    ]
    return Body((F32, F32, F32, F32, scalar, scalar), (fused, *parts, *extra), outputs)


def _fused_values() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    weight, grad, first, second = (torch.rand(4, generator=generator) for _ in range(4))
    return [weight, grad, first, second, torch.tensor(3.0), torch.tensor(0.01)]


def test_a_fused_update_runs_in_place_with_the_functional_bits():
    """A record is updated where it lies: no second copy of weights and moments, the same numbers."""
    body = _fused_body((), (8, 10, 12))
    assert body.instrs[0].op in FUSED
    values = _fused_values()
    kept = list(values)
    functional = torch.ops.aten._fused_adamw.tensor_lr(
        [kept[0].clone()], [kept[1]], [kept[2].clone()], [kept[3].clone()], [], [kept[4]],
        lr=kept[5], beta1=0.9, beta2=0.999, weight_decay=0.1, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip

    found = compile_body(body, CPU)(values)

    for at, value in zip((0, 2, 3), found, strict=True):
        original, expected = kept[at], functional[at]
        assert value.data_ptr() == original.data_ptr()
        assert torch.equal(value, expected[0])


def test_a_fused_update_leaves_what_is_read_later():
    """Loss scaling keeps the old weight when a gradient was not finite: then the update must not overwrite it."""
    choose = Instr("aten.maximum.default", (Ref(0), Ref(8)), (), (F32,))
    values = _fused_values()
    weight = values[0]
    before = weight.clone()

    (found,) = compile_body(_fused_body((choose,), (13,)), CPU)(values)

    assert torch.equal(weight, before)
    assert torch.all(found >= before)
