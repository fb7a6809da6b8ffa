"""Vocabularies cut by rows: what is cut, what is left whole and why, and the peak that it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from graph_cases import FAMILIES, family
from plan_checks import check_plan
from torch import nn

from openwafer.artifact import TensorType, describe_plan
from openwafer.base import MIB, CaptureError
from openwafer.graph import PlanOptions, capture, plan_job
from openwafer.graph.passes import _shard_choice, is_worth_a_look
from openwafer.train._initial import build_empty
from openwafer.train.optim import Adafactor, AdamW, per_group

WORDS = 131_072
IDS = TensorType("int64", (16,))


class Gpt(nn.Module):
    """Two small layers between an embedding and a head."""

    def __init__(self, width: int, tied: bool, words: int = WORDS) -> None:
        super().__init__()
        self.wte = nn.Embedding(words, width)
        self.h = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh()) for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, ids):
        x = self.wte(ids)
        for block in self.h:
            x = x + block(x)
        return self.head(self.norm(x))


def next_token(module, call, inputs):
    return F.cross_entropy(call(inputs["ids"]).float().flatten(0, 1), inputs["labels"].flatten())


def with_accuracy(module, call, inputs):
    logits = call(inputs["ids"])
    loss = F.cross_entropy(logits.float().flatten(0, 1), inputs["labels"].flatten())
    return loss, {"accuracy": (logits.argmax(-1) == inputs["labels"]).float().mean()}


def planned(module, step=next_token, rule=AdamW(), batch=4, **options):  # noqa: B008 - frozen
    def capture_step(samples, train, shards=None):
        module.train(train)
        inputs = {"ids": IDS, "labels": IDS}
        return capture(module, step, inputs, samples, rule if train else None, shards=shards)

    divisible = {
        name: TensorType("float32", tuple(value.shape))
        for name, value in module.named_parameters()
        if rule.is_elementwise(name, value)
    }
    return plan_job("gpt", capture_step, PlanOptions(batch=batch, **options), divisible)


def on_meta(*args, **options):
    return build_empty(lambda: Gpt(*args, **options))


def peak(plan):
    return plan.systems[0].memory.peak + plan.memoryx.buffers


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("store", ["ram", "disk"])
def test_a_large_vocabulary_does_not_set_the_peak(width, tied, store):
    """Slots, rings and buffers have room for the largest record, so the peak of a system and of MemoryX's buffers is
    a few shards; whole, it is a few vocabularies."""
    whole = planned(on_meta(width, tied), store=store, shard_vocabulary=False)
    plan = planned(on_meta(width, tied), store=store)

    check_plan(plan)
    table = WORDS * width * 4
    shard = max(record.weight_bytes for record in plan.records)
    assert shard <= _shard_choice.MIN_SHARD_BYTES + MIB
    # A system holds weights and gradients of at most three layers and, while one is computed, chunks of its logits and
    # what the backward makes of its gradient; a disk store's buffers hold weight and both moments.
    held = 8 * shard + (len(plan.records[0].state) + 1) * shard * (plan.slots + 2) * (store == "disk")
    assert peak(plan) <= held
    assert peak(plan) < peak(whole) * (8 * shard / table)
    assert not any(f"[{WORDS}, " in text or f", {WORDS}]" in text for text in plan.bodies.values())


def test_equal_shards_share_their_bodies():
    """The first row is an input of the call, as salts are: nothing else tells equal shards apart."""
    plan = planned(on_meta(64, False))

    layers = plan.layers[4]
    shards = [layer for layer in layers if "[" in layer.name]
    assert len(shards) == 16
    lookups, heads = shards[:8], shards[8:]
    for run in (lookups[1:-1], heads[1:-1]):
        assert len({(layer.forward.body, layer.backward.body) for layer in run}) == 1
    assert all(len(layer.records) == 1 for layer in shards)


def test_the_plan_says_what_is_cut():
    """In its notes, which `wafer plan` prints."""
    plan = planned(on_meta(64, True))

    assert "note: wte.weight (float32[131072, 64], 32 MiB) is cut by rows into 8 shards of 16,384" in (
        describe_plan(plan)
    )


def is_cut(plan):
    return any(weight.part for record in plan.records for weight in record.weights)


def test_logits_that_something_else_reads_keep_the_weight_whole():
    """An accuracy needs all logits of a row at once; the plan says what that costs and why."""
    plan = planned(on_meta(64, True), with_accuracy)

    assert not is_cut(plan)
    assert (
        "wte.weight (32 MiB) is larger than any layer and sets the size of every slot, but it stays whole: "
        "more than the cross entropy reads its logits"
    ) in plan.notes


def test_an_update_that_looks_across_elements_keeps_the_weight_whole():
    """Adafactor needs the means of whole columns; where another weight makes planning look, the plan says so."""
    assert not is_cut(planned(on_meta(64, True), rule=Adafactor()))

    rule = per_group([(lambda name, w: name == "head.weight", Adafactor()), (lambda name, w: True, AdamW())])
    plan = planned(on_meta(64, False), rule=rule)

    assert "head.weight" in weight_names(plan)
    assert any(note.startswith("head.weight") and note.endswith("all elements alike") for note in plan.notes)


def test_a_forced_cut_of_nothing_is_told():
    """Whoever asks for shards should not have to find out from the records that there are none."""
    plan = planned(on_meta(64, True), rule=Adafactor(), shard_vocabulary=True)

    assert any(note.startswith("shard_vocabulary: nothing is cut by rows") for note in plan.notes)


def weight_names(plan):
    return [weight.name for record in plan.records for weight in record.weights]


def test_a_use_in_training_alone_keeps_the_weight_whole():
    """The forward in evaluation shows no such use; then the step is captured once more without shards."""

    def decayed(module, call, inputs):
        loss = next_token(module, call, inputs)
        return loss + module.wte.weight.square().mean() if module.training else loss

    plan = planned(on_meta(64, True), decayed)

    check_plan(plan)
    assert not is_cut(plan)
    assert any("stays whole" in note and "reads it" in note for note in plan.notes)


def test_a_small_vocabulary_is_left_alone():
    """Its record sets no peak worth the name, and its numbers stay bitwise those of eager PyTorch."""
    plan = planned(on_meta(64, True, words=1000))

    assert not is_cut(plan)
    assert not plan.notes


def test_a_vocabulary_smaller_than_a_layer_is_left_alone():
    """Cutting it would lower no peak: the layers set it."""
    module = build_empty(lambda: Gpt(2048, True, words=2000))

    assert not planned(module).notes


def test_planning_looks_for_vocabularies_only_where_one_may_set_the_peak():
    """A capture of a large model takes seconds. What is numbered together is no larger than a layer; names that are not
    numbered so cost a look, and change no plan."""
    table = TensorType("float32", (32_000, 4096))
    block = {f"blocks.{n}.{m}.weight": TensorType("float32", (11_008, 4096)) for n in range(2) for m in "abc"}

    assert not is_worth_a_look({"embedding.weight": table, **block}, forced=False)
    assert is_worth_a_look(
        {"embedding.weight": table, "blocks.0.a.weight": block["blocks.0.a.weight"]}, False
    )
    assert is_worth_a_look({"0.weight": table}, forced=False)
    assert not is_worth_a_look({"wte": TensorType("float32", (64, 8))}, forced=False)
    assert is_worth_a_look({"wte": TensorType("float32", (64, 8))}, forced=True)
    assert not is_worth_a_look({"bias": TensorType("float32", (1 << 30,))}, forced=True)


@pytest.mark.parametrize("execution", ["weight_streaming", "pipelined"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("mnist", "vit")])
def test_plans_of_cut_models_hold_together(name, execution, monkeypatch):
    """Whatever the family: programs, streams, gradients and updates agree about every shard."""
    monkeypatch.setattr(_shard_choice, "MIN_SHARD_BYTES", 1)
    found = family(name)
    module = build_empty(found.make)

    def capture_step(samples, train, shards=None):
        module.train(train)
        return capture(
            module, found.step(module), found.inputs, samples, AdamW() if train else None, shards=shards
        )

    divisible = {n: TensorType("float32", tuple(v.shape)) for n, v in module.named_parameters()}
    options = PlanOptions(batch=8, systems=3, microbatch=2, execution=execution, shard_vocabulary=True)
    plan = plan_job(name, capture_step, options, divisible)

    check_plan(plan)
    assert is_cut(plan)
    again = plan_job(name, capture_step, replace(options, shard_vocabulary=False), divisible)
    assert sum(_trained_elements(plan)) == sum(_trained_elements(again))


def _trained_elements(plan):
    return [torch.Size(w.shape).numel() for record in plan.records for w in record.trained]


@pytest.mark.parametrize("bounds", [(0, 10), (0, 10, 5, 20), (1, 20), (0, 0, 20)])
def test_bounds_that_do_not_cover_a_weight_are_refused(bounds):
    """A row in no shard would have no home."""
    module = build_empty(lambda: Gpt(8, True, words=20))

    with pytest.raises(CaptureError, match=r"wte.weight has 20 rows and cannot be cut at"):
        capture(module, next_token, {"ids": IDS, "labels": IDS}, 2, AdamW(), shards={"wte.weight": bounds})
