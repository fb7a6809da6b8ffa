"""Bodies are captured on the CPU and run anywhere: compiled for a device, they make every value there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openwafer.artifact import Body, Call, Instr, Plan, Ref, Symbol, TensorType
from openwafer.cluster import _kernels
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import Kernels, seeded
from openwafer.cluster._losses import linear_loss, linear_loss_backward
from openwafer.train import load_recipe
from openwafer.train._trainer import plan_config

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.py"))
META = torch.device("meta")
"""Tensors without numbers: a device on which nothing can be computed with a tensor of the CPU."""


def calls_of(plan: Plan) -> list[Call]:
    """All that a system runs."""
    layers = [
        layer for table in (plan.layers, plan.evaluation) for entries in table.values() for layer in entries
    ]
    constants = [*plan.constants.values(), *plan.evaluation_constants.values()]
    found = [*constants, *(call for layer in layers for call in (layer.forward, layer.backward))]
    return [call for call in found if call is not None]


def made_up(kind: TensorType) -> torch.Tensor | int:
    """An input without numbers; the random key and salts are numbers of the host everywhere."""
    if kind == TensorType("int64", ()):
        return 3
    return torch.empty(kind.shape, dtype=getattr(torch, kind.dtype), device=META)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_value_of_a_recipe_is_made_on_the_device(recipe):
    """Masks, positions and constants included: one tensor left behind would fail in the middle of a run on a GPU."""
    config = load_recipe(Path(__file__).parents[2] / "recipes" / f"{recipe}.py", size="tiny")
    plan = plan_config(config, evaluate=True)
    kernels = Kernels(META)
    random = 0
    for key in {call.body for call in calls_of(plan)}:
        body = plan.body[key]
        if any(instr.op == "wafer.seeded" for instr in body.instrs):
            random += 1  # there is no generator without numbers; see the test of seeded operators
            continue

        outputs = compile_body(body, kernels)([made_up(kind) for kind in body.inputs])

        assert {value.device for value in outputs if isinstance(value, torch.Tensor)} <= {META}
    assert random < len(plan.bodies) / 2


def test_constants_and_new_tensors_are_made_on_the_device():
    """A constant is copied there once, and is the same tensor afterwards: a copy would hold the program up each time."""
    kind = TensorType("float32", (2,))
    body = Body(
        (),
        (
            Instr("wafer.constant", ((1.0, 2.0), (2,), Symbol("torch.float32")), (), (kind,)),
            Instr("aten.full.default", ((2,), 3.0), (), (kind,)),
            Instr("aten.add.Tensor", (Ref(0), Ref(1)), (), (kind,)),
        ),
        (0, 2),
    )
    run = compile_body(body, Kernels(META))

    first, total = run([])
    again, _ = run([])

    assert first is again
    assert {first.device, total.device} == {META}
    assert torch.equal(compile_body(body, Kernels(torch.device("cpu")))([])[1], torch.tensor([4.0, 5.0]))


def test_random_tensors_made_from_nothing_are_drawn_where_the_system_computes(monkeypatch):
    """Such an operator has no argument that lies anywhere; it, too, draws from the key alone."""
    drawn: list[dict] = []
    devices: list[torch.device] = []
    generator = torch.Generator()

    def noted(name):
        def op(*args, **kwargs):
            drawn.append(kwargs)
            return torch.rand(args[0], generator=kwargs["generator"])

        op._schema = torch.ops.aten.rand.generator._schema
        return op

    monkeypatch.setattr(_kernels, "overload", noted)
    monkeypatch.setattr(torch, "Generator", lambda device: devices.append(device) or generator)

    first = seeded("aten.rand.generator", 5, 0, [4], on=torch.device("cuda", 1))
    again = seeded("aten.rand.generator", 5, 0, [4], on=torch.device("cuda", 1))

    assert devices == [torch.device("cuda", 1)] * 2
    assert [entry["device"] for entry in drawn] == devices
    assert torch.equal(first, again)


def test_losses_in_chunks_make_their_sums_on_the_device():
    """A large vocabulary's loss is an operator of ours, which makes tensors of its own."""
    h, weight = torch.empty(6, 4, device=META), torch.empty(9, 4, device=META)
    target = torch.empty(6, dtype=torch.int64, device=META)

    loss, count = linear_loss(h, weight, None, target, 1, -100, 2, torch.float32)
    grads = linear_loss_backward(loss, h, weight, None, target, count, 1, -100, 2, torch.float32)

    assert {value.device for value in (loss, count, *grads)} == {META}
