"""Streamed and pipelined training equals plain PyTorch: every model, mode, number of systems and store."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from equality_cases import (
    BATCH,
    MODELS,
    TIED,
    Run,
    Spread,
    as_captured,
    case_of,
    plain,
    quick,
    same_bits,
    spread_of,
    streamed,
)

from openwafer.base import PlanError

CLUSTERS = [
    (execution, systems, store)
    for execution in ("weight_streaming", "pipelined")
    for systems in (1, 2, 4)
    for store in ("ram", "disk")
]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


@cache
def _reference(model: str, replicas: tuple[tuple[int, ...], ...]) -> Run:
    return plain(case_of(model), replicas, forward=as_captured)


@cache
def _spread(model: str) -> Spread:
    return spread_of(case_of(model))


def _shape(model: str, execution: str, systems: int) -> tuple[int, int | None, tuple[tuple[int, ...], ...]]:
    """(systems, microbatch, sizes of the microbatches by replica) of one entry of the matrix."""
    if execution == "pipelined" and model == "mnist":
        systems = min(systems, 3)  # it has three layers
    if systems == 1:
        return 1, None, ((BATCH,),)
    replicas = systems if execution == "weight_streaming" else 1
    return systems, 2, ((2,) * (BATCH // replicas // 2),) * replicas


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_cluster_computes_what_plain_pytorch_computes(model, execution, systems, store, tmp_path):
    """Ten steps, every loss and every weight.

    Bitwise against a plain loop that adds in the same order: the same operators run, each system adds its microbatches
    as `.grad` does, and SwarmX adds neighbours. Tied weights of several microbatches are the exception: a plain loop
    adds the two uses of one microbatch first, a cluster all microbatches of one use. They, and all models against the
    plain loop over the whole batch at once, are compared within the spread of plain runs (see Spread).
    """
    systems, microbatch, replicas = _shape(model, execution, systems)

    found = streamed(
        case_of(model), tmp_path, systems=systems, execution=execution, store=store, microbatch=microbatch
    )

    if model not in TIED or replicas == ((BATCH,),):
        same_bits(found, _reference(model, replicas))
    assert not _spread(model).outside(found)


@pytest.mark.parametrize("model", MODELS)
def test_the_tolerance_finds_a_wrong_fraction(model):
    """Microbatches of 3, 3 and 2 samples that each count for a third: a mistake of 4 to 8 % that AdamW mostly hides."""
    wrong = plain(case_of(model), ((3, 3, 2),), fraction=lambda rows, batch: 1 / 3)

    weights = len(_spread(model).weights)
    assert len([name for name in _spread(model).outside(wrong) if "loss of step" not in name]) > weights / 2


@pytest.mark.parametrize("model", ["gpt", "hf_gpt2"])
def test_the_optimizer_state_in_the_checkpoint_is_torchs_own(model, tmp_path):
    """The moments lie beside the weights under torch's names, with torch's bits: a run can move there and back."""
    found = streamed(case_of(model), tmp_path)

    expected = _reference(model, ((BATCH,),)).state
    checkpoint = found.checkpoint
    moments = [name for name in expected if not name.endswith("/step")]
    assert len(moments) == 2 * len(list(case_of(model).module.parameters()))
    assert all(torch.equal(checkpoint.tensor(name), expected[name]) for name in moments)
    assert checkpoint.globals["step"] == 10


def test_more_stages_than_layers_are_refused(tmp_path):
    """A stage without a layer would have nothing to do; the message says how many systems the model can use."""
    with pytest.raises(
        PlanError, match="4 pipeline stages were asked for, but the model has 3 layers; use at most 3"
    ):
        streamed(case_of("mnist"), tmp_path, systems=4, execution="pipelined", microbatch=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "execution", "systems", "store"),
    [
        ("gpt", "weight_streaming", 2, "ram"),
        ("gpt", "pipelined", 2, "disk"),
        ("hf_gpt2", "weight_streaming", 2, "disk"),
        ("hf_llama", "pipelined", 3, "ram"),
        ("mnist", "weight_streaming", 1, "ram"),
    ],
)
def test_processes_compute_what_threads_compute(model, execution, systems, store, tmp_path):
    """A role cannot tell whether its peers are threads or processes: the bits are those of threads."""
    options = {"systems": systems, "execution": execution, "store": store, "microbatch": 2}

    apart = streamed(case_of(model), tmp_path / "apart", processes=True, **options)

    same_bits(apart, streamed(case_of(model), tmp_path / "together", **options))
