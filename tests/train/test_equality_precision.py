"""Mixed precision: bfloat16, autocast and scaled float16 equal the plain loops that people write for them."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from equality_cases import (
    BATCH,
    TIED,
    Case,
    as_captured,
    case_of,
    numbers,
    plain,
    quick,
    same_bits,
    spread_of,
    streamed,
)
from torch import nn
from torch.func import functional_call

from openwafer.train.optim import AdamW, DynamicLossScale

CLUSTERS = [
    ("weight_streaming", 1, "ram", None, ((BATCH,),)),
    ("weight_streaming", 2, "disk", 2, ((2, 2), (2, 2))),
    ("pipelined", 3, "ram", 2, ((2, 2, 2, 2),)),
]
MODELS = ["mnist", "gpt", "vit", "bert", "hf_gpt2", "hf_llama"]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


class Cast(nn.Module):
    """A module that computes in another dtype with float32 master weights: casts weights and inputs at each call."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *args, **kwargs):
        weights = {
            name: value.to(self.dtype)
            for name, value in self.inner.named_parameters(remove_duplicate=False)
            if name not in self._tied()
        }
        weights.update({other: weights[name] for other, name in self._tied().items()})
        return functional_call(self.inner, weights, self._cast(args), self._cast(kwargs), tie_weights=False)

    def _cast(self, values):
        if isinstance(values, dict):
            return {name: self._cast((value,))[0] for name, value in values.items()}
        return tuple(value.to(self.dtype) if value.is_floating_point() else value for value in values)

    def _tied(self):
        first: dict[int, str] = {}
        tied = {}
        for name, value in self.inner.named_parameters(remove_duplicate=False):
            if id(value) in first:
                tied[name] = first[id(value)]
            first.setdefault(id(value), name)
        return tied


class CastCase(Case):
    """A case whose plain loop computes in `dtype`; the streamed run takes the case that it wraps."""

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.name, self.module, self.data, self.loss, self.initial = (
            case.name,
            case.module,
            case.data,
            case.loss,
            case.initial,
        )
        self.cast = Cast(case.module, dtype)

    def loss_of(self, batch):
        whole, self.module = self.module, self.cast
        self.module.train()
        try:
            if isinstance(batch, dict):
                if self.loss is None:
                    return self.module(**batch).loss
                return self.loss(self.module(batch["input_ids"]), batch)
            target = batch[-1]
            target = target.to(self.cast.dtype) if target.is_floating_point() else target
            return self.loss(self.module(*batch[:-1]), target)
        finally:
            self.module = whole


@pytest.mark.parametrize(("execution", "systems", "store", "microbatch", "replicas"), CLUSTERS)
@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_with_float32_masters_is_the_plain_loop(
    model, execution, systems, store, microbatch, replicas, tmp_path
):
    """Weights are cast once per step on their way to the systems; gradients add up in float32.

    Bitwise, but for tied weights: there a plain loop adds the uses of one microbatch in bfloat16, a cluster in float32.
    Half a spacing of bfloat16 in some gradients is more than any order of float32 additions explains, so those are
    compared with the spread of plain bfloat16 runs over the orders of ORDERS.
    """
    case = case_of(model)
    options = {"systems": systems, "execution": execution, "store": store, "microbatch": microbatch}

    found = streamed(case, tmp_path, precision="bf16", **options)

    if model in TIED:
        assert not spread_of(CastCase(case, torch.bfloat16), forward=as_captured).outside(found)
    else:
        same_bits(found, plain(CastCase(case, torch.bfloat16), replicas, forward=as_captured))
    assert {weight.dtype for record in found.plan.records for weight in record.weights if weight.trained} == {
        "float32"
    }


@pytest.mark.parametrize(("execution", "systems", "store", "microbatch", "replicas"), CLUSTERS)
@pytest.mark.parametrize("model", MODELS)
def test_autocast_is_the_plain_loop_under_torch_autocast(
    model, execution, systems, store, microbatch, replicas, tmp_path
):
    """The usual loop: `with torch.autocast("cpu", torch.bfloat16): loss = ...; loss.backward()`."""

    @contextmanager
    def autocast():
        with as_captured(), torch.autocast("cpu", torch.bfloat16):
            yield

    case = case_of(model)

    found = streamed(
        case,
        tmp_path,
        systems=systems,
        execution=execution,
        store=store,
        microbatch=microbatch,
        precision="bf16-autocast",
    )

    if model in TIED:
        assert not spread_of(case, forward=autocast).outside(found)
    else:
        same_bits(found, plain(case, replicas, forward=autocast))


def test_bfloat16_halves_what_is_streamed(tmp_path):
    """MemoryX casts; half the bytes travel."""
    full = streamed(case_of("gpt"), tmp_path / "full", steps=1).plan
    half = streamed(case_of("gpt"), tmp_path / "half", steps=1, precision="bf16").plan

    for one, other in zip(full.records, half.records, strict=True):
        for wide, narrow in zip(one.weights, other.weights, strict=True):
            assert (wide.stream_dtype, narrow.stream_dtype) == ("float32", "bfloat16")
            assert (wide.stream_type.nbytes, narrow.stream_type.nbytes) == (wide.nbytes, wide.nbytes // 2)


# --- float16 ----------------------------------------------------------------------------------------------


class Exploding(nn.Module):
    """Overflows float16 in its gradients while the loss scale is large."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        return self.head(torch.relu(self.first(x)) * 8.0)


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_float16_is_the_plain_loop_with_a_grad_scaler(store, tmp_path):
    """Steps whose gradients overflow change nothing and halve the scale; three good ones in a row double it."""
    torch.manual_seed(0)
    case = Case("exploding", Exploding(), numbers(16, 8), F.cross_entropy)

    scales: list[float] = []

    rule = DynamicLossScale(AdamW(lr=3e-3, weight_decay=0.1), initial=2.0**21, growth_interval=3)
    found = streamed(case, tmp_path, precision="fp16", optimizer=rule, store=store)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**21, growth_interval=3)
    expected = plain(
        CastCase(case, torch.float16),
        scaler=lambda: scaler,
        before_update=lambda *_: scales.append(scaler.get_scale()),
    )
    same_bits(found, expected)
    assert [entry["loss_scale"] for entry in found.logs] == scales
    assert len(set(scales)) > 2
    assert {entry["found_inf"] for entry in found.logs} == {0.0, 1.0}
    assert found.plan.update.waits


@pytest.mark.parametrize(("execution", "systems", "store", "microbatch", "replicas"), CLUSTERS)
@pytest.mark.parametrize("model", ["gpt", "vit", "hf_gpt2"])
def test_float16_scales_the_loss_of_its_own_accord(
    model, execution, systems, store, microbatch, replicas, tmp_path
):
    """Without a loss scale small gradients would vanish, so fp16 wraps the rule in DynamicLossScale.

    Its first value and growth are GradScaler's own, so the bits are those of the usual loop.
    """
    case = case_of(model)
    options = {"systems": systems, "execution": execution, "store": store, "microbatch": microbatch}

    found = streamed(case, tmp_path, precision="fp16", **options)

    expected = {"scaler": lambda: torch.amp.GradScaler("cpu"), "forward": as_captured}
    if model in TIED:
        assert not spread_of(CastCase(case, torch.float16), **expected).outside(found)
    else:
        same_bits(found, plain(CastCase(case, torch.float16), replicas, **expected))
    assert all(math.isfinite(loss) for loss in found.losses)
    assert {entry["loss_scale"] for entry in found.logs} == {2.0**16}
    assert found.checkpoint.globals["loss_scale"] == 2.0**16
