"""What a program keeps count of on the device, and the tensors that its steps return whole."""

from __future__ import annotations

import pytest
import torch
from cirh_cluster import train, write_start
from cirh_plain import PlainRun, batch_of, first_state
from test_cirh_parser import golden
from test_cirh_programs import FORWARD, LOSS, program_of

from openwafer.base import CirhError
from openwafer.compat.cirh import Program
from openwafer.graph import PlanOptions

STEPS = 3


def run(tmp_path, text, classes=64, **options):
    """(what the cluster reported, its state), (what plain torch reported, its state)."""
    program = Program.parse(text, "counted")
    state = first_state(text)
    batches = [batch_of(text, number, classes) for number in range(STEPS)]
    plan = program.plan(PlanOptions(batch=program.batch, evaluate=False, **options))
    start = write_start(tmp_path / "start", plan, program, state)
    device = "copying" if plan.own_memory else "cpu"
    done, found = train(tmp_path, program, plan, start, batches.__getitem__, STEPS, device=device)
    plain = PlainRun(text, state)
    reports = [plain.step(batch) for batch in batches]
    tensors = done[-1].outputs
    assert tensors.keys() == plain.tensors.keys()
    for name, value in plain.tensors.items():
        assert tensors[name].shape == value.shape
        assert torch.allclose(tensors[name].double(), value.double(), rtol=2e-2, atol=2e-2), name
    return ([{**event.metrics, **event.logs} for event in done], found), (reports, plain.state)


HOW = pytest.mark.parametrize(
    "options",
    [
        {"microbatch": None},
        {"microbatch": 3, "systems": 2},
        {"microbatch": 2, "systems": 2, "execution": "pipelined"},
        {"microbatch": 3, "store": "disk", "memoryx_shards": 2},
    ],
    ids=["whole", "divided", "pipelined", "shards"],
)


@HOW
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_metrics_that_are_kept_on_the_device_count_every_sample_once(tmp_path, mode, options):
    """Accuracy and perplexity of a GPT-2: their counts lie in MemoryX, whatever parts the batch comes in.

    Counts are exact; a loss in half precision is rounded where a part ends.
    """
    (reports, found), (wanted, state) = run(tmp_path, golden(f"gpt2_float16_metrics_{mode}"), **options)

    for ours, theirs in zip(reports, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=5e-3, abs=2e-3)
    for name, value in state.items():
        if "metrics" in name:
            exact = "num_tokens" in name
            assert found[name].item() == pytest.approx(
                value.item(), rel=0 if exact else 5e-3, abs=0 if exact else 2e-2
            )
            assert value.item() != 0


SMALL, WIDE = "tensor<3xf32>", "tensor<4x3xf32>"
TENSORS = f"""
    %z = cirh.Tanh %y : {WIDE}
    %flat = cirh.Reshape %z : ({WIDE}) -> tensor<12xf32>
    %turned = cirh.Transpose %z, %order : ({WIDE}, tensor<2xi64>) -> tensor<3x4xf32>
    %positive = cirh.Compare %z, %y {{comparison_direction = "GT"}} : {WIDE} -> tensor<4x3xi1>
    %sums = cirh.Reduce %z {{dimensions = dense<0> : tensor<1xi64>, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "ADD"}}
      : ({WIDE}) -> {SMALL}
    %counted = cirh.Add %c, %sums : {SMALL}
    %share = cirh.Div %sums, %counted : {SMALL}
"""
RETURNED = {
    "flat": "tensor<12xf32>", "turned": "tensor<3x4xf32>", "positive": "tensor<4x3xi1>", "x": WIDE, "sums": SMALL,
    "share": SMALL, "g": SMALL, "w": SMALL, "new": SMALL,
}  # fmt: skip


def program_with_tensors(body=TENSORS, returned=RETURNED):
    """Samples in several layouts, sums, a count and what comes of it, a gradient, a weight before and after."""
    results = "".join(f', {kind} {{cs.output_name = "{name}"}}' for name, kind in returned.items())
    text = program_of(
        "%order = cirh.Const dense<[1, 0]> : tensor<2xi64>" + FORWARD + body + LOSS,
        ", %counted" + "".join(f", %{name}" for name in returned),
        f', %c: {SMALL} {{tf.aliasing_output = 2 : i64, tf.resource_name = "state.metrics.count"}}',
        f", {SMALL}" + results,
    )
    kinds = ", ".join((SMALL, "tensor<f32>", SMALL, *returned.values()))
    return text.replace(f": {SMALL}, tensor<f32>\n    }}", f": {kinds}\n    }}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"microbatch": 3, "systems": 2, "store": "disk"},
        {"microbatch": 1, "memoryx_shards": 2},
        {"own_memory": True},
    ],
)
def test_tensors_come_back_whole_and_in_the_order_of_the_samples(tmp_path, options):
    """Each part of a batch makes its rows, wherever the batch's dim lies; sums and weights come from MemoryX."""
    (_, found), (_, state) = run(tmp_path, program_with_tensors(), **options)

    for name, value in state.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5), name
    assert not torch.equal(state["state.metrics.count"], torch.zeros(3))


def test_a_step_may_return_nothing_but_tensors(tmp_path):
    """Predictions: there is no loss to report, and nothing to train."""
    text = f"""
    func @graph(%x: {WIDE} {{cs.input_name = "input_0"}}, %w: {SMALL} {{tf.resource_name = "state.model.w"}})
        -> ({WIDE} {{cs.output_name = "predictions"}}) {{ {FORWARD} return %y : {WIDE} }}"""

    run(tmp_path, text, systems=2, microbatch=1)


def test_a_constant_of_the_samples_is_no_output():
    """Nobody computes it, so nobody hands it out."""
    rows = ", ".join(["[1.0, 2.0, 3.0]"] * 4)
    body = f"%fixed = cirh.Const dense<[{rows}]> : {WIDE} %both = cirh.Add %z, %fixed : {WIDE}"
    text = program_with_tensors(TENSORS + body, {"both": WIDE, "fixed": WIDE})

    with pytest.raises(CirhError, match="the output fixed is a constant"):
        Program.parse(text).plan(PlanOptions(batch=4, evaluate=False))


@pytest.mark.parametrize(
    ("name", "counters"),
    [
        ("vit_bfloat16", ("state.schedulers.0.last_epoch",)),
        (
            "gpt2_float16_dropout",
            ("state.schedulers.0._schedulers.0.last_epoch", "state.grad_scaler.0.num_skipped_steps"),
        ),
        ("mlp_float16", ()),
    ],
)
def test_steps_are_counted_by_the_states_that_count_them(name, counters):
    """A program that is resumed in another job draws the numbers that it would have drawn; skipped steps count as well."""
    assert Program.parse(golden(name)).counters == counters
