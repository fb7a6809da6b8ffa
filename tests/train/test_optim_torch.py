"""Any torch optimizer as a rule, groups, and resolving what a user has."""

from __future__ import annotations

import math

import pytest
import torch
import torch.utils._pytree as pytree
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from openwafer.base import InputError
from openwafer.train.optim import (
    SGD,
    Adam,
    AdamW,
    Exponential,
    Lion,
    from_torch,
    per_group,
    resolve,
)

SHAPES = {"matrix": (17, 13), "vector": (9,), "scalar": ()}
STEPS = 8  # RAdam turns adaptive at its sixth


def tensors(seed, names=tuple(SHAPES)):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(SHAPES[n], generator=generator) for n in names}


def traced(rule, names=tuple(SHAPES)):
    """The rule's update as a graph captured from fake tensors, as the capture makes it."""
    mode = FakeTensorMode()

    def step(weights, grads, state, globals):
        new = rule.update(weights, grads, state, globals)
        return new.weights, new.state, new.globals

    weights, grads, globals = (
        pytree.tree_map(mode.from_tensor, t) for t in (tensors(0, names), tensors(1, names), rule.globals())
    )
    state = {n: rule.state(n, w) for n, w in weights.items()}
    return make_fx(step)(weights, grads, state, globals), step


def distance(rule, build, names=tuple(SHAPES), lr=None):
    """The largest difference of a weight over a run; also checks the graph against the direct call."""
    graph, step = traced(rule, names)
    weights, globals = tensors(0, names), rule.globals()
    state = {n: rule.state(n, w) for n, w in weights.items()}
    params = {n: nn.Parameter(w.clone()) for n, w in weights.items()}
    optimizer = build(list(params.values()))
    worst = 0.0
    for i in range(STEPS):
        grads = tensors(1 + i, names)
        for n, p in params.items():
            p.grad = grads[n].clone()
        if lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = float(lr(torch.tensor(float(i))))
        optimizer.step()
        direct = step(weights, grads, state, globals)
        weights, state, globals = graph(weights, grads, state, globals)
        leaves = zip(pytree.tree_leaves(direct), pytree.tree_leaves((weights, state, globals)), strict=True)
        assert all(torch.equal(a, b) for a, b in leaves)
        worst = max(worst, *(float((weights[n] - p.detach()).abs().max()) for n, p in params.items()))
    moved = max(float((weights[n] - w).abs().max()) for n, w in tensors(0, names).items())
    assert moved > 1e-3
    return worst


# Exact where eager torch itself multiplies by Python numbers at the places where the traced path
# multiplies by 0-dim tensors; else a few roundings of weights of size about 4 (spacing 2.4e-7, 4.8e-7).
EXACT, CLOSE = 0.0, 2e-6
TORCH = {
    "Adadelta": (torch.optim.Adadelta, {"lr": 0.5, "weight_decay": 0.1}, EXACT),
    "Adagrad": (torch.optim.Adagrad, {"lr": 1e-2, "lr_decay": 0.1, "weight_decay": 0.1}, EXACT),
    "Adagrad filled": (torch.optim.Adagrad, {"lr": 1e-2, "initial_accumulator_value": 0.5}, EXACT),
    "Adamax": (torch.optim.Adamax, {"lr": 1e-2, "weight_decay": 0.1}, CLOSE),
    "ASGD": (torch.optim.ASGD, {"lr": 1e-2, "lambd": 1e-2, "t0": 3}, CLOSE),
    "NAdam": (torch.optim.NAdam, {"lr": 1e-2, "weight_decay": 0.1}, CLOSE),
    "RAdam": (torch.optim.RAdam, {"lr": 1e-2, "weight_decay": 0.1}, CLOSE),
    "RMSprop": (torch.optim.RMSprop, {"lr": 1e-2}, EXACT),
    "RMSprop centered": (torch.optim.RMSprop, {"lr": 1e-2, "momentum": 0.9, "centered": True}, EXACT),
    "Rprop": (torch.optim.Rprop, {"lr": 1e-2}, EXACT),
    "SGD": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}, EXACT),
    "SGD nesterov": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "nesterov": True}, EXACT),
    "Adam": (torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1}, CLOSE),
    "Adam amsgrad": (torch.optim.Adam, {"lr": 1e-2, "amsgrad": True, "maximize": True}, CLOSE),
    "AdamW": (torch.optim.AdamW, {"lr": 1e-2}, CLOSE),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_traced_torch_optimizer_equals_the_eager_one(name):
    """Its own step is traced on clones, so the formula is torch's; only scalar roundings may differ."""
    cls, options, tolerance = TORCH[name]
    worst = distance(from_torch(cls, **options), lambda params: cls(params, foreach=False, **options))
    assert worst <= tolerance


@pytest.mark.parametrize("name", [n for n in TORCH if n != "Rprop"])
def test_a_torch_optimizer_takes_an_lr_schedule(name):
    """The schedule's tensor becomes group["lr"], also where torch wants a number (alpha=, value=)."""
    cls, options, _ = TORCH[name]
    lr = Exponential(options["lr"], 0.8)
    worst = distance(
        from_torch(cls, **{**options, "lr": lr}),
        lambda params: cls(params, foreach=False, **options),
        lr=lr,
    )
    assert worst <= CLOSE


def test_muon_takes_matrices_and_leaves_the_rest_to_another_rule():
    """It refuses vectors by itself; the message must say where they can go."""
    muon = from_torch(torch.optim.Muon, lr=1e-2)
    assert distance(muon, lambda params: torch.optim.Muon(params, lr=1e-2), names=("matrix",)) == 0.0

    with pytest.raises(InputError, match=r"weight 'vector'.*2D.*per_group"):
        muon.state("vector", torch.zeros(9))
    rule = per_group([(lambda name, w: w.ndim == 2, muon), (lambda name, w: True, AdamW(1e-3))])
    assert set(rule.state("vector", torch.zeros(9))) == {"exp_avg", "exp_avg_sq"}


def test_a_factory_may_be_a_function_of_the_parameters():
    """The form that takes any arguments, and with lr= a schedule besides."""
    lr = Exponential(1e-2, 0.8)
    rule = from_torch(lambda params: torch.optim.NAdam(params, lr=1.0), lr=lr)
    assert distance(rule, lambda params: torch.optim.NAdam(params, lr=1.0), lr=lr) <= CLOSE


def test_an_lr_given_as_a_tensor_is_a_constant():
    """torch takes one for its own capture; here a constant is a number and a schedule a Schedule."""
    rule = from_torch(torch.optim.NAdam, lr=torch.tensor(1e-2))
    assert distance(rule, lambda params: torch.optim.NAdam(params, lr=1e-2)) <= CLOSE

    model = module()
    resolved = resolve(torch.optim.NAdam(model.parameters(), lr=torch.tensor(0.5)), model.named_parameters())
    graph, _ = traced(resolved)
    assert not [n for n in graph.graph.nodes if "_local_scalar" in str(n.target)]


class PythonAdam(torch.optim.Optimizer):
    """An Adam as people write it: the step is a Python int, and so is what it leads to."""

    def __init__(self, params, lr=1e-2, root=lambda x: x**0.5):
        super().__init__(params, {"lr": lr, "root": root})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["m"] = torch.zeros_like(p)
                    state["v"] = torch.zeros_like(p)
                    state["origin"] = p.clone()
                state["step"] += 1
                state["m"].mul_(0.9).add_(p.grad, alpha=0.1)
                state["v"].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
                size = group["lr"] * group["root"](1 - 0.99 ** state["step"]) / (1 - 0.9 ** state["step"])
                p.addcdiv_(state["m"], state["v"].sqrt() + 1e-8, value=-size)
                p.lerp_(state["origin"], 0.01)


def test_state_kept_as_python_numbers_becomes_tensors():
    """A step count baked into the graph as 1 would never count; here it is a float64 global of the weight."""
    rule = from_torch(PythonAdam)
    weight = torch.randn(17, 13, generator=torch.Generator().manual_seed(0))

    state = rule.state("matrix", weight)

    assert state["step"].dtype == torch.float64
    assert torch.equal(state["origin"], weight)
    assert distance(rule, PythonAdam) <= CLOSE


class Langevin(torch.optim.SGD):
    """Adds noise: not a function of its inputs."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for p in self.param_groups[0]["params"]:
            p.add_(torch.randn_like(p))


class Normalized(torch.optim.SGD):
    """Divides by the norm of all gradients: couples the weights."""

    @torch.no_grad()
    def step(self, closure=None):
        params = self.param_groups[0]["params"]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        for p in params:
            p.sub_(self.param_groups[0]["lr"] * p.grad / norm)


@pytest.mark.parametrize(
    ("factory", "options", "text"),
    [
        (torch.optim.LBFGS, {}, "LBFGS.*needs a closure"),
        (torch.optim.SparseAdam, {}, "SparseAdam.*gradients are dense"),
        (torch.optim.Adafactor, {}, "Adafactor.*reading values on the host.*Adafactor or Lion of openwafer"),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, "SGD.*first step differs"),
        (torch.optim.Rprop, {"lr": Exponential(1e-2, 0.9)}, "Rprop.*ignores lr"),
        (torch.optim.Adam, {"differentiable": True}, "differentiable"),
        (PythonAdam, {"root": math.sqrt}, "PythonAdam.*reading values on the host"),
        (Langevin, {"lr": 0.1}, "Langevin.*two runs on equal gradients differ"),
        (Normalized, {"lr": 0.1}, "Normalized.*depends on other weights"),
        (torch.optim.Adam, {"lr": -1.0}, "Invalid learning rate"),
        (lambda params: "adam", {}, "returned str"),
    ],
)
def test_an_optimizer_that_cannot_be_traced_is_refused_with_the_reason(factory, options, text):
    """The alternative is a graph that trains, but something else than the user wrote."""
    with pytest.raises(InputError, match=text):
        from_torch(factory, **options).state("matrix", torch.zeros(17, 13))


def test_tracing_leaves_torchs_switches_and_random_state_alone():
    """The compile flag and the profiler hook are set only inside the traced call, also if it fails."""
    record = torch.autograd.profiler.record_function
    seed = torch.random.get_rng_state()
    for cls in (torch.optim.NAdam, torch.optim.Adafactor):
        try:
            distance(from_torch(cls, lr=1e-2), lambda params: torch.optim.NAdam(params, lr=1e-2))
        except InputError:
            assert cls is torch.optim.Adafactor
    assert torch.compiler.is_compiling() is False
    assert torch.autograd.profiler.record_function is record
    assert torch.equal(torch.random.get_rng_state(), seed)


def test_a_rule_is_examined_even_if_tracing_comes_first():
    """A capture may trace `update` with a state it loaded, never having asked for an initial one."""
    state = from_torch(torch.optim.NAdam).state("matrix", torch.zeros(17, 13))
    mode = FakeTensorMode()
    fresh = from_torch(torch.optim.NAdam)
    with mode:
        weight, grad = (mode.from_tensor(torch.zeros(17, 13)) for _ in range(2))
        fake = pytree.tree_map(mode.from_tensor, (state, fresh.globals()))
        graph = make_fx(lambda w, g, s, gl: fresh.update({"m": w}, {"m": g}, {"m": s}, gl).weights)(
            weight, grad, *fake
        )
    w, g = tensors(0)["matrix"], tensors(1)["matrix"]
    expected = fresh.update({"m": w}, {"m": g}, {"m": state}, fresh.globals()).weights["m"]
    assert torch.equal(graph(w, g, state, fresh.globals())["m"], expected)


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def train(model, optimizer, rule, steps=6):
    """Run the torch optimizer on a module and the rule on copies; yield both sets of weights."""
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    state, globals = {n: rule.state(n, w) for n, w in weights.items()}, rule.globals()
    for i in range(steps):
        generator = torch.Generator().manual_seed(i)
        grads = {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
        for n, p in model.named_parameters():
            p.grad = grads[n].clone()
        optimizer.step()
        new = rule.update(weights, grads, state, globals)
        weights, state, globals = new.weights, new.state, new.globals
        yield weights, {n: p.detach() for n, p in model.named_parameters()}


def two_groups(model):
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0, "lr": 3e-3}]


@pytest.mark.parametrize(
    "build",
    [
        lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
        lambda groups: torch.optim.Adam(groups, lr=1e-2, fused=True),
        lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, dampening=0.2, foreach=False),
    ],
)
def test_groups_keep_their_own_settings_bit_for_bit(build):
    """AdamW with decayed matrices and undecayed vectors is how most models are trained."""
    model = module()
    optimizer = build(two_groups(model))
    rule = resolve(optimizer, model.named_parameters())
    for ours, theirs in train(model, optimizer, rule):
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


@pytest.mark.parametrize(
    "build",
    [
        lambda groups: torch.optim.RMSprop(groups, lr=1e-2, momentum=0.9),
        lambda groups: torch.optim.Adagrad(groups, lr=1e-2, initial_accumulator_value=0.3),
        lambda groups: torch.optim.AdamW(groups, lr=1e-2, amsgrad=True),
        lambda groups: torch.optim.NAdam(groups, lr=1e-2, foreach=True),
    ],
)
def test_other_optimizers_resolve_to_their_traced_step(build):
    """Also their groups, and the state that Adagrad fills when it is built."""
    model = module()
    optimizer = build(two_groups(model))
    rule = resolve(optimizer, model.named_parameters())
    for ours, theirs in train(model, optimizer, rule):
        for n in theirs:
            torch.testing.assert_close(ours[n], theirs[n], rtol=0, atol=CLOSE)


def test_plain_instances_become_our_rules():
    """One group of plain settings is one rule, which prints as such."""
    model = module()
    named = list(model.named_parameters())
    assert resolve(torch.optim.AdamW(model.parameters(), lr=2e-3), named) == AdamW(2e-3)
    assert resolve(torch.optim.Adam(model.parameters(), lr=torch.tensor(0.5)), named) == Adam(0.5)
    assert resolve(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), named) == SGD(0.1, 0.9)
    lr = Exponential(1.0, 0.5)
    assert resolve(torch.optim.AdamW(model.parameters()), named, lr=lr) == AdamW(lr)
    rule = Lion()
    assert resolve(rule) is rule


def test_groups_share_one_step_and_keep_other_globals_apart():
    """A checkpoint holds one step count; logs of later groups carry their number."""
    rule = per_group([(lambda n, w: n == "matrix", SGD(0.5)), (lambda n, w: True, Lion(0.25))])
    weights = tensors(0)
    state = {n: rule.state(n, w) for n, w in weights.items()}

    new = rule.update(weights, tensors(1), state, rule.globals())

    assert {k: float(v) for k, v in new.globals.items()} == {"step": 1.0}
    assert {k: float(v) for k, v in new.logs.items()} == {"lr": 0.5, "lr/1": 0.25}


def test_a_weight_of_no_group_is_refused():
    """It would otherwise stay at its initial value without a word."""
    rule = per_group([(lambda n, w: n == "matrix", SGD(0.5))])
    with pytest.raises(InputError, match=r"'vector'.*in none of the 1 optimizer groups"):
        rule.state("vector", torch.zeros(9))


def stepped(model):
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def scheduled(model):
    optimizer = torch.optim.AdamW(model.parameters())
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return optimizer


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (stepped, "already made steps"),
        (scheduled, "lr_scheduler is attached to AdamW"),
        (lambda m: torch.optim.SGD(list(m.parameters())[:2]), "does not hold the trainable parameters"),
        (lambda m: torch.optim.SGD([*m.parameters(), nn.Parameter(torch.zeros(2))]), "the module lacks"),
        (lambda m: torch.optim.AdamW, "from_torch"),
        (lambda m: torch.optim.LBFGS(m.parameters()), "closure"),
    ],
)
def test_an_optimizer_that_would_train_something_else_is_refused(build, text):
    """Lost moments, a schedule that never runs, a forgotten parameter: all silent in a captured graph."""
    model = module()
    with pytest.raises(InputError, match=text):
        resolve(build(model), model.named_parameters())


def test_a_frozen_parameter_need_not_be_in_the_optimizer():
    """Fine-tuning part of a model is common."""
    model = module()
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    assert resolve(optimizer, model.named_parameters()) == AdamW()


def test_a_resolved_torch_optimizer_needs_the_names():
    """Weights are known by name in the graph, by identity in the optimizer."""
    with pytest.raises(InputError, match="named_parameters"):
        resolve(torch.optim.AdamW(module().parameters()))
