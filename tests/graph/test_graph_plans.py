"""Plans hold together: replayed over names, nothing is missing, sent twice, dropped early or waited for in vain."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import torch
import torch.nn.functional as F
from graph_cases import ADAMW, FAMILIES, SEQ, Family, captured, family, planned
from plan_checks import check_plan
from torch import nn

from openwafer.artifact import Mode, Plan, TensorType, parse_body, plan_from_json, plan_to_json, print_body
from openwafer.base import PlanError
from openwafer.graph import PlanOptions, StepGraph, plan_job
from openwafer.train.optim import AdamW, DynamicLossScale, Lion, clip_by_global_norm

OPTIONS = [
    {},
    {"microbatch": 3, "recompute": True},
    {"systems": 2, "microbatch": 2, "store": "disk"},
    {"systems": 3, "microbatch": 2, "recompute": True},
    {"systems": 2, "execution": "pipelined", "microbatch": 2},
    {"systems": 3, "execution": "pipelined", "microbatch": 1, "store": "disk"},
    {"systems": 3, "execution": "pipelined", "microbatch": 3, "recompute": True},
]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(f"{k[:4]}{v}" for k, v in o.items()) or "plain"
)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_replays_over_names(name, options):
    """Every input of every call is there, each gradient leaves once, loads match, drops come after the last use."""
    check_plan(planned(name, **options))


@pytest.mark.parametrize("name", ["gpt", "hf_gpt2"])
@pytest.mark.parametrize("systems", [4, 5])
def test_deep_pipelines_replay_over_names(name, systems):
    """More stages than blocks in some of them: values skip stages, tied weights join the first and the last."""
    for microbatch in (1, 2, 4, 8):
        check_plan(planned(name, systems=systems, execution="pipelined", microbatch=microbatch))


@pytest.mark.parametrize("precision", ["bf16", "bf16-autocast", "fp16"])
@pytest.mark.parametrize("name", ["gpt", "bert", "hf_llama"])
def test_plans_of_mixed_precision_replay_over_names(name, precision):
    """Narrow streams are other placeholders with the same names."""
    from openwafer.train._trainer import PRECISIONS

    def capture_step(samples, train):
        rule = DynamicLossScale(AdamW()) if precision == "fp16" else AdamW()
        return family(name).capture(samples, rule if train else None, train, precision=PRECISIONS[precision])

    plan = plan_job(name, capture_step, PlanOptions(batch=8, systems=2, microbatch=2))

    check_plan(plan)
    narrow = {"bf16": "bfloat16", "bf16-autocast": "bfloat16", "fp16": "float16"}[precision]
    streamed = [weight.stream_dtype for record in plan.records for weight in record.weights if weight.trained]
    assert narrow in streamed
    assert plan.update.waits == (precision == "fp16")


@pytest.mark.parametrize("rule", [Lion(lr=1e-3), clip_by_global_norm(AdamW(), 1.0)], ids=["lion", "clipped"])
def test_plans_of_other_rules_replay_over_names(rule):
    """Rules with other state, and one that waits."""
    plan = plan_job(
        "gpt",
        lambda samples, train: family("gpt").capture(samples, rule if train else None, train),
        PlanOptions(batch=8, systems=2, execution="pipelined", microbatch=2),
    )

    check_plan(plan)


# --- the checker checks -----------------------------------------------------------------------------------


def _edited(plan: Plan, edit) -> Plan:
    data = msgspec.to_builtins(plan)
    edit(data)
    return msgspec.convert(data, Plan, strict=False)


def _drop_action(kind):
    def edit(data):
        program = data["systems"][0]["program"]
        data["systems"][0]["program"] = list(program)
        at = next(i for i, action in enumerate(program) if action["type"] == kind)
        del data["systems"][0]["program"][at]

    return edit


def _send_twice(data):
    program = list(data["systems"][0]["program"])
    at = next(i for i, action in enumerate(program) if action["type"] == "gradients")
    data["systems"][0]["program"] = [*program[: at + 1], program[at], *program[at + 1 :]]


def _forget_gradient(data):
    key = next(iter(data["layers"]))
    layers = list(data["layers"][key])
    layers[1] = {**layers[1], "gradients": layers[1]["gradients"][1:]}
    data["layers"][key] = layers


@pytest.mark.parametrize(
    "edit",
    [
        *(_drop_action(kind) for kind in ("load", "unload", "forward", "backward", "gradients")),
        _send_twice,
        _forget_gradient,
    ],
    ids=["load", "unload", "forward", "backward", "gradients", "twice", "forgotten"],
)
def test_the_replay_finds_a_broken_plan(edit):
    """A checker that lets everything pass would be worth nothing."""
    plan = _edited(planned("gpt"), edit)

    with pytest.raises((AssertionError, KeyError)):
        check_plan(plan)


# --- plans as data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_survives_its_json(name):
    """A plan is data: another process, or another day, reads the same one."""
    for options in OPTIONS[1], OPTIONS[4] if name != "mnist" else OPTIONS[2]:
        plan = planned(name, **options)

        assert plan_from_json(plan_to_json(plan)) == plan


def test_a_changed_body_is_refused():
    """Keys are hashes of bodies: a plan that was edited by hand says so instead of computing something else."""
    text = plan_to_json(planned("mnist")).decode()
    assert "aten.relu.default" in text

    with pytest.raises(PlanError, match="was changed after it was written; plan the job again"):
        plan_from_json(text.replace("aten.relu.default", "aten.sigmoid.default", 1).encode())


def test_what_is_no_plan_says_where():
    """The message names the place, for a file that was truncated or is something else."""
    with pytest.raises(PlanError, match="this is no plan"):
        plan_from_json(b"{}")
    with pytest.raises(PlanError, match="this is no plan"):
        plan_from_json(plan_to_json(planned("mnist"))[:-20])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_body_of_a_model_survives_its_text(name):
    """What a real model needs: tuples, views, symbols, infinities, salts."""
    plan = planned(name, systems=2, microbatch=2, recompute=True)
    assert len(plan.bodies) > 5

    for key, text in plan.bodies.items():
        body = parse_body(text)
        assert body.key == key
        assert print_body(body) == text
        assert parse_body(print_body(body)) == body


# --- choices ----------------------------------------------------------------------------------------------


def test_auto_takes_pipelined_when_the_model_fits_and_streams_when_not():
    """With room for the weights there is nothing to stream; without, one layer at a time must do.

    Sixteen blocks on two systems: eight blocks with their gradients, or two slots of each.
    """
    kind = family("gpt").make().__class__
    deep = replace(family("gpt"), make=lambda: kind(16, 64, 2, SEQ))
    step = deep.capture(1)

    def plan(**options):
        chosen = PlanOptions(batch=2, systems=2, microbatch=1, recompute=False, evaluate=False, **options)
        return plan_job("deep", lambda samples, train: step, chosen)

    need = [
        max(system.memory.peak for system in plan(execution=execution).systems)
        for execution in ("pipelined", "weight_streaming")
    ]
    assert need[1] < need[0]
    assert plan(system_memory=need[0]).mode is Mode.PIPELINED
    assert plan(system_memory=need[0] - 1).mode is Mode.WEIGHT_STREAMING
    assert plan().mode is Mode.WEIGHT_STREAMING


def test_a_budget_too_small_says_what_would_fit():
    """The message gives the smallest plan found, its parts, and what to change."""
    with pytest.raises(
        PlanError,
        match=r"gpt does not fit 64 KiB per system: the smallest plan found .* needs .*give each system",
    ):
        planned("gpt", system_memory=64 * 1024)


def test_auto_halves_the_microbatch_before_it_recomputes_and_both_before_it_gives_up():
    """Recomputation costs a third more arithmetic, a smaller microbatch next to nothing."""
    whole = planned("gpt")
    half = planned("gpt", microbatch=4)
    assert half.systems[0].memory.peak < whole.systems[0].memory.peak

    chosen = planned("gpt", system_memory=whole.systems[0].memory.peak - 1)

    assert max(system.memory.peak for system in chosen.systems) < whole.systems[0].memory.peak
    assert chosen.systems[0].rows != whole.systems[0].rows or any(
        layer.recompute for layer in chosen.layers[8]
    )


def test_more_systems_than_samples_are_refused():
    """A system without a sample would have nothing to do."""
    with pytest.raises(PlanError, match="a batch of 8 samples cannot be shared by 9 systems; use at most 8"):
        planned("mnist", systems=9)


def test_the_captures_are_reused():
    """These tests plan one capture many times, which must not change it."""
    before = [node.name for node in captured("gpt").graph.nodes]
    planned("gpt", recompute=True)

    assert [node.name for node in captured("gpt").graph.nodes] == before


class Crossing(nn.Module):
    """A decoder whose every layer reads the encoder's result, and normalises what came before the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(16, 16)
        self.encoder = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.decoder = nn.ModuleList(nn.Bilinear(16, 16, 16) for _ in range(3))
        self.head = nn.Linear(16, 16)

    def forward(self, x):
        x = self.before(x)
        memory = x
        for layer in self.encoder:
            memory = memory + torch.tanh(layer(memory))
        y = self.norm(x)
        for layer in self.decoder:
            y = y + torch.tanh(layer(y, memory))
        return self.head(y + self.norm(y))


class Mixture(nn.Module):
    """Branches that read one value each and meet at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 16)

    def forward(self, x):
        x = self.first(x)
        shares = self.gate(x).softmax(-1)
        return self.head(x + sum(shares[:, i : i + 1] * torch.relu(e(x)) for i, e in enumerate(self.experts)))


class Recurring(nn.Module):
    """A cell used at every step of a sequence, unrolled by torch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 16)

    def forward(self, x):
        return self.head(self.lstm(x.view(-1, 4, 4))[0][:, -1])


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(f"{k[:4]}{v}" for k, v in o.items()) or "plain"
)
@pytest.mark.parametrize("make", [Crossing, Mixture, Recurring])
def test_plans_of_models_that_are_no_chains_replay_over_names(make, options):
    """A weight's gradient is made where the weight is loaded, and its update begins after its last use."""
    kind = TensorType("float32", (16,))
    shape = Family(make.__name__, make, {"input0": kind, "input1": kind}, F.mse_loss)
    made = _unchained(make, shape)

    # 12 samples: a microbatch of one alone is captured with other layers, and refused
    check_plan(plan_job(shape.name, made, PlanOptions(**{"batch": 12, **options})))


_made: dict[tuple, StepGraph] = {}


def _unchained(make, shape):
    def capture_step(samples, train):
        key = (make, samples, train)
        if key not in _made:
            _made[key] = shape.capture(samples, ADAMW if train else None, train)
        return _made[key]

    return capture_step
