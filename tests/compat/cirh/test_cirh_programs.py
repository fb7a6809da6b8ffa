"""Programs that the client wrote train on the cluster as plain torch does, divided or not; what cannot be divided says why."""

from __future__ import annotations

import random
import re
import time

import pytest
import torch
from cirh_cluster import read_state, train, write_start
from cirh_plain import PlainRun, batch_of, first_state
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cirh_parser import golden

from openwafer.base import CirhError, PlanError, WaferError
from openwafer.compat.cirh import Program
from openwafer.graph import PlanOptions

STEPS = 2


def planned(program: Program, **options):
    return program.plan(PlanOptions(batch=program.batch, evaluate=False, **{"microbatch": None, **options}))


def both(tmp_path, name, classes=8, steps=STEPS, **options):
    """(what the cluster reported, its state), (what plain torch reported, its state)."""
    text = golden(name)
    program = Program.parse(text, name)
    state = first_state(text)
    batches = [batch_of(text, number, classes) for number in range(steps)]
    plan = planned(program, **options)
    start = write_start(tmp_path / "start", plan, program, state)
    done, found = train(tmp_path, program, plan, start, batches.__getitem__, steps)
    plain = PlainRun(text, state)
    reports = [plain.step(batch) for batch in batches]
    return (done, found), (reports, plain.state)


@pytest.mark.parametrize("name", ["mlp_float16", "mlp_bfloat16", "vit_bfloat16"])
def test_one_system_with_the_whole_batch_is_bitwise_plain_torch(tmp_path, name):
    """The same operators on the same values: AdamW with loss scaling and clipping, SGD with momentum and a schedule."""
    (done, found), (reports, state) = both(tmp_path, name)

    for event, report in zip(done, reports, strict=True):
        assert {**event.metrics, **event.logs} == report
        assert event.loss == report["output_loss"]
    assert found.keys() == state.keys()
    for tensor, value in state.items():
        assert torch.equal(found[tensor], value), tensor


DIVIDED = [
    ("mlp_float16", 8, {"systems": 2, "microbatch": 5}),
    ("gpt2_bfloat16_static", 8, {"systems": 2, "microbatch": 3}),
    ("gpt2_float16_rigl", 8, {"systems": 3, "microbatch": 2}),
    ("bert_float16", 2, {"systems": 2, "microbatch": 2}),
    ("vit_float16_gmp", 8, {"systems": 2, "execution": "pipelined", "microbatch": 2}),
    ("vit_bfloat16", 8, {"microbatch": 3, "recompute": True, "store": "disk", "memoryx_shards": 2}),
]


@pytest.mark.parametrize(
    ("name", "classes", "options"), DIVIDED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_divided_batch_adds_up_to_the_whole(tmp_path, name, classes, options):
    """Constants stay those of the whole batch, so gradients of microbatches and systems add up to its gradient.

    Half precision rounds each part's gradient: a loss may differ in its last bits, a weight by a small part of what a step
    moves it. Where a gradient is nothing but rounding (a key's bias, which softmax ignores), Adam makes it a whole move.
    """
    (done, found), (reports, state) = both(tmp_path, name, classes, **options)

    for event, report in zip(done, reports, strict=True):
        assert event.loss == pytest.approx(report["output_loss"], rel=1e-2, abs=2e-3)
        assert event.logs == pytest.approx({k: v for k, v in report.items() if k != "output_loss"}, rel=1e-5)
    for tensor, value in state.items():
        if value.dtype is torch.bool:
            assert (found[tensor] != value).float().mean() < 0.02, tensor
        elif tensor.endswith(("weight", "_power", "loss_scale", "last_epoch")):
            assert torch.allclose(found[tensor].double(), value.double(), rtol=1e-2, atol=2e-3), tensor


def test_dropout_and_masks_drawn_anew_repeat_after_a_checkpoint(tmp_path):
    """Random operations draw from the run's seed and the step: a run that goes on equals one that was never stopped.

    The second program draws masks of sparsity in its update, in MemoryX.
    """
    for name in ("gpt2_float16_dropout", "mlp_bfloat16_set"):
        folder = tmp_path / name
        text = golden(name)
        program = Program.parse(text, name)
        batches = [batch_of(text, number, 8) for number in range(3)]
        plan = planned(program)
        start = write_start(folder / "start", plan, program, first_state(text))

        whole, wanted = train(folder / "whole", program, plan, start, batches.__getitem__, 3)
        train(folder / "half", program, plan, start, batches.__getitem__, 2)
        middle = folder / "half" / "checkpoints"
        (checkpoint,) = middle.iterdir()
        rest, found = train(folder / "rest", program, plan, checkpoint, batches.__getitem__, 3, first=2)
        _, other = train(folder / "other", program, plan, start, batches.__getitem__, 3, seed=8)

        assert rest[0].loss == whole[2].loss
        assert all(torch.equal(found[tensor], value) for tensor, value in wanted.items())
        assert any(not torch.equal(other[tensor], value) for tensor, value in wanted.items())


def test_the_vendors_half_format_is_between_the_others(tmp_path):
    """cbfloat16 rounds coarser than float32 and finer than bfloat16; a loss scale of 2**31 does not overflow it."""
    text = golden("mlp_cbfloat16")
    program = Program.parse(text)
    assert {entry.name: (entry.dtype, entry.element) for entry in program.inputs} == {
        "input_0": ("float32", "f16"),
        "input_1": ("int32", "i32"),
    }
    state = first_state(text)
    plain_state = {name: value.clone() for name, value in state.items()}
    state["state.grad_scaler.0.loss_scale"] = torch.tensor(2.0**31)
    batches = []
    for number in range(STEPS):
        batch = batch_of(text, number, 8)
        batches.append({**batch, "input_0": batch["input_0"].float()})
    plan = planned(program)
    start = write_start(tmp_path / "start", plan, program, state)

    done, found = train(tmp_path, program, plan, start, batches.__getitem__, STEPS)

    plain = PlainRun(text, plain_state)  # in f16, with the scale that f16 can hold
    for event, number in zip(done, range(STEPS), strict=True):
        report = plain.step(batch_of(text, number, 8))
        assert event.loss == pytest.approx(report["output_loss"], rel=5e-3)
    weight = "state.model.fc2.weight"
    assert torch.allclose(found[weight], plain.state[weight], atol=5e-3)
    assert not torch.equal(found[weight], state[weight])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("gpt2_12_layers", [f"blocks.{index}" for index in range(12)]),
        ("bert_float16", ["layers.0", "layers.1"]),
        ("vit_bfloat16", ["layers.0", "layers.1"]),
    ],
)
def test_layers_are_found_in_the_graph(name, layers):
    """Blocks that repeat share one body forward and one backward, as those of native models do."""
    program = Program.parse(golden(name), name)
    started = time.monotonic()

    plan = planned(program)

    assert time.monotonic() - started < 60
    found = [layer.name for layer in plan.layers[program.batch]]
    for layer in layers:
        assert any(layer in each for each in found), found
    if name == "gpt2_12_layers":
        blocks = [layer for layer in plan.layers[program.batch] if "blocks" in layer.name]
        assert len({layer.forward.body for layer in blocks}) == 1
        assert len({layer.backward.body for layer in blocks}) <= 2  # the last one's ends otherwise


def test_a_program_says_what_it_reads_keeps_and_returns():
    """All that a server needs to feed it: names as the client gave them, whole shapes, what checkpoints call each tensor."""
    program = Program.parse(golden("mlp_float16"), "mlp")
    states = {entry.name: entry for entry in program.states}

    assert program.batch == 16
    assert program.trains
    assert program.whole_batch == ""
    assert (program.fp16_type, program.pol) == ("float16", 1)
    assert [(entry.name, entry.dtype, entry.shape) for entry in program.inputs] == [
        ("input_0", "float16", (16, 32)),
        ("input_1", "int32", (16,)),
    ]
    assert [(entry.name, entry.shape) for entry in program.outputs] == [("output_loss", ())]
    assert states["state.model.fc1.weight"].role == "weight"
    moments = [entry for entry in program.states if entry.tensor == "state.model.fc1.weight/exp_avg"]
    assert [entry.role for entry in moments] == ["state"]
    assert states["state.grad_scaler.0.loss_scale"].role == "global"


# --- small programs ---------------------------------------------------------------------------------------


def program_of(body: str, result: str, arguments: str = "", results: str = "") -> str:
    """A program with one input [4, 3] and one weight [3], whose loss is `result`."""
    return f"""
    func @graph(%x: tensor<4x3xf32> {{cs.input_name = "input_0"}},
        %w: tensor<3xf32> {{tf.aliasing_output = 0 : i64, tf.resource_name = "state.model.w"}}{arguments})
        -> (tensor<3xf32>, tensor<f32> {{cs.output_name = "loss"}}{results}) {{
    {body}
    return %new, %loss{result} : tensor<3xf32>, tensor<f32>
    }}"""


FORWARD = """
    %rate = cirh.Const dense<1.0e-1> : tensor<3xf32>
    %wide = cirh.BroadcastInDim %w {broadcast_dimensions = dense<1> : tensor<1xi64>} : (tensor<3xf32>) -> tensor<4x3xf32>
    %y = cirh.Mul %x, %wide : tensor<4x3xf32>
"""
LOSS = """
    %loss = cirh.Reduce %z {dimensions = dense<[0, 1]> : tensor<2xi64>, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "ADD"}
      : (tensor<4x3xf32>) -> tensor<f32>
    %p = cirh.Mul %x, %z : tensor<4x3xf32>
    %g = cirh.Reduce %p {dimensions = dense<0> : tensor<1xi64>, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "ADD"}
      : (tensor<4x3xf32>) -> tensor<3xf32>
    %d = cirh.Mul %g, %rate : tensor<3xf32>
    %new = cirh.Sub %w, %d : tensor<3xf32>
"""


def test_samples_that_are_measured_by_others_keep_the_batch_whole(tmp_path):
    """Dividing by a sum over the batch would give other numbers for part of it: the place is named, one system computes it."""
    text = program_of(
        FORWARD
        + """
    %sum = cirh.Reduce %y {dimensions = dense<0> : tensor<1xi64>, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "ADD"}
      : (tensor<4x3xf32>) -> tensor<3xf32>
    %each = cirh.BroadcastInDim %sum {broadcast_dimensions = dense<1> : tensor<1xi64>} : (tensor<3xf32>) -> tensor<4x3xf32>
      loc("norm.fwd/aten::div"("model.py":12:0))
    %z = cirh.Div %y, %each : tensor<4x3xf32>
    """
        + LOSS,
        "",
    )
    program = Program.parse(text, "measured")

    assert (
        "cirh.BroadcastInDim (norm.fwd/aten::div at model.py:12) uses a sum over the batch for each sample"
        in program.whole_batch
    )
    with pytest.raises(
        PlanError, match=r"cannot be divided into microbatches or over systems: measured:.*model.py:12"
    ):
        planned(program, systems=2)
    plan = planned(program)
    assert any("the whole batch is computed at once" in note for note in plan.notes)
    state = {"state.model.w": torch.tensor([1.0, -2.0, 3.0])}
    batch = {"input_0": torch.rand(4, 3) + 1}
    start = write_start(tmp_path / "start", plan, program, state)
    _, found = train(tmp_path, program, plan, start, lambda number: batch, 1)
    plain = PlainRun(text, state)
    plain.step(batch)
    assert torch.equal(found["state.model.w"], plain.state["state.model.w"])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "%z = cirh.CumSum %y {axis = 0 : i64} : (tensor<4x3xf32>) -> tensor<4x3xf32>",
            "computes one sample's values",
        ),
        (
            "%k = cirh.Const dense<[[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]> : tensor<4x3xf32>\n"
            "%z = cirh.Mul %y, %k : tensor<4x3xf32>",
            "is a constant that differs from sample to sample",
        ),
        ("%z = cirh.Softmax %y {axis = 0 : i64} : tensor<4x3xf32>", "computes one sample's values"),
    ],
    ids=["running sum", "constant", "softmax"],
)
def test_what_mixes_samples_keeps_the_batch_whole(line, why):
    """Each with the line that does it."""
    program = Program.parse(program_of(FORWARD + line + LOSS, ""), "mixed")

    assert why in program.whole_batch
    assert program.whole_batch.startswith("mixed:")


def test_an_operation_that_is_not_run_is_refused_at_its_place():
    """At compile time, with the line of the program, the module and the line of the client's source."""
    line = '%z = cirh.Composite %y : (tensor<4x3xf32>) -> tensor<4x3xf32> loc("block.fwd/aten::odd"("model.py":7:0))'

    with pytest.raises(
        CirhError,
        match=r"strange:\d+: cirh.Composite \(block.fwd/aten::odd at model.py:7\): what it computes is not published",
    ):
        Program.parse(program_of(FORWARD + line + LOSS, ""), "strange")
    with pytest.raises(CirhError, match=r"cirh.Nothing: this operation is not run here; docs/cirh.md lists"):
        Program.parse(
            program_of(FORWARD + line.replace("Composite", "Nothing").split(" loc")[0] + LOSS, ""), "strange"
        )


def test_operands_that_do_not_fit_are_refused_at_their_place():
    """A type that the operation cannot make is the program's mistake, not a traceback."""
    line = "%z = cirh.Concat %y, %y {axis = 1 : i64} : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>"
    program = Program.parse(program_of(FORWARD + line + LOSS, ""), "wrong")

    with pytest.raises(CirhError, match=r"wrong:\d+: cirh.Concat: it makes torch.float32 of shape \(4, 6\)"):
        planned(program)


def test_evaluation_is_a_step_without_gradients(tmp_path):
    """A program that updates nothing reports its loss and leaves every weight as it was."""
    text = (
        program_of(FORWARD + "%z = cirh.Tanh %y : tensor<4x3xf32>" + LOSS.partition("%p")[0], "")
        .replace("return %new, %loss : tensor<3xf32>, ", "return %loss : ")
        .replace("(tensor<3xf32>, tensor<f32> {", "(tensor<f32> {")
        .replace("tf.aliasing_output = 0 : i64, ", "")
    )
    program = Program.parse(text, "evaluation")
    assert not program.trains
    plan = planned(program, systems=2, microbatch=1)
    state = {"state.model.w": torch.tensor([1.0, -2.0, 3.0])}
    batch = {"input_0": torch.randn(4, 3)}
    start = write_start(tmp_path / "start", plan, program, state)

    done, found = train(tmp_path, program, plan, start, lambda number: batch, 2)

    wanted = torch.tanh(batch["input_0"] * state["state.model.w"]).sum().item()
    assert [event.loss for event in done] == pytest.approx([wanted, wanted], abs=1e-5)
    assert torch.equal(found["state.model.w"], state["state.model.w"])


def test_a_checkpoint_holds_the_state_by_the_clients_names(tmp_path):
    """What was written as the start is what is read back."""
    text = golden("mlp_float16")
    program = Program.parse(text)
    plan = planned(program)
    state = first_state(text)

    found = read_state(write_start(tmp_path, plan, program, state), plan, program)

    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_batch_statistics_are_replaced_by_the_forward(tmp_path):
    """Batch norm measures all samples, so the batch stays whole; its running statistics go home after each step."""
    small = "tensor<3xf32>"
    text = program_of(
        f"""
    %rate = cirh.Const dense<1.0e-1> : {small}
    %beta = cirh.Const dense<0.0> : {small}
    %wide = cirh.BroadcastInDim %w {{broadcast_dimensions = dense<1> : tensor<1xi64>}} : ({small}) -> tensor<4x3xf32>
    %u = cirh.Mul %x, %wide : tensor<4x3xf32>
    %z, %mean, %variance = cirh.FusedBatchNorm %u, %w, %beta, %m, %v {{data_format = "NCHW", epsilon = 1.0e-5 : f32,
      exponential_avg_factor = 1.0e-1 : f32, is_training = true}}
      : (tensor<4x3xf32>, {small}, {small}, {small}, {small}) -> (tensor<4x3xf32>, {small}, {small})"""
        + LOSS,
        ", %mean, %variance",
        "".join(
            f', %{key}: {small} {{tf.aliasing_output = {index} : i64, tf.resource_name = "state.model.running_{key}"}}'
            for index, key in ((2, "m"), (3, "v"))
        ),
        f", {small}, {small}",
    ).replace("tensor<f32>\n    }", f"tensor<f32>, {small}, {small}\n    }}")
    program = Program.parse(text, "statistics")
    assert "computes one sample's values from other samples" in program.whole_batch
    assert [entry.role for entry in program.states] == ["weight", "buffer", "buffer"]
    weight, mean, variance = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(3), torch.ones(3)
    state = {"state.model.w": weight, "state.model.running_m": mean, "state.model.running_v": variance}
    batch = {"input_0": torch.rand(4, 3) + 1}
    plan = planned(program)
    start = write_start(tmp_path / "start", plan, program, state)

    _, found = train(tmp_path, program, plan, start, lambda number: batch, 1)

    wanted = mean.clone(), variance.clone()
    z = torch.nn.functional.batch_norm(batch["input_0"] * weight, *wanted, weight, mean, True, 0.1, 1e-5)
    assert torch.allclose(found["state.model.running_m"], wanted[0])
    assert torch.allclose(found["state.model.running_v"], wanted[1])
    assert torch.allclose(found["state.model.w"], weight - 0.1 * (batch["input_0"] * z).sum(0), atol=1e-5)


# --- damage -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_a_changed_program_is_planned_or_refused(seed):
    """Words exchanged for others of the same program: it still means something, or an error says where it does not."""
    text = golden("mlp_float16").partition("#loc1 =")[0]
    chance = random.Random(seed)
    words = list(
        re.finditer(r"%[\w#]+|tensor<[^<>]*>|cirh\.\w+|\d+ : i64|\"\w+\"|dense<[^<>]*>|state[\w.]+", text)
    )
    for _ in range(chance.randint(1, 3)):
        one = chance.choice(words)
        other = chance.choice([word for word in words if word.group()[:3] == one.group()[:3]])
        text = (
            text.replace(one.group(), other.group())
            if chance.random() < 0.2
            else (text[: one.start()] + other.group() + text[one.end() :])
        )
    outcome = "planned"

    try:
        program = Program.parse(text, "changed")
        planned(program)
    except WaferError as error:
        outcome = str(error)

    assert outcome == "planned" or "changed" in outcome or "CIRH" in outcome or len(outcome) > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tf.aliasing_output = 0", "tf.aliasing_output = 7"), "the state state.model.w becomes result 7, but there are 2"),
        (("tf.aliasing_output = 0", "tf.aliasing_output = 1"), r"is tensor<3xf32> and would become tensor<f32>"),
        (("cs.input_name", "cs.other"), "is neither state"),
        (("%z = cirh.Tanh %y : tensor<4x3xf32>", "%z:99999999999 = cirh.Tanh %y : tensor<4x3xf32>"), "more results"),
        (("4x3xf32", "4000000000x3000000000xf32"), "has more elements than any memory"),
        (("%z = cirh.Tanh", "cirh.Tanh"), "cirh.Tanh has no name for its result"),
        (("%z = cirh.Tanh %y :", "%z = cirh.Tanh %y {a = " + "[" * 5000 + "} :"), "nested deeper|expected"),
        (("reduce_kind = \"ADD\"", "reduce_kind = \"SUB\""), "reduce_kind is 'SUB'; it must be one of ADD"),
    ],
)  # fmt: skip
def test_a_program_that_contradicts_itself_is_refused(change, message):
    """Whatever a client sends ends in a sentence."""
    text = program_of(FORWARD + "%z = cirh.Tanh %y : tensor<4x3xf32>" + LOSS, "").replace(*change)

    with pytest.raises(CirhError, match=message):
        planned(Program.parse(text, "contradiction"))
