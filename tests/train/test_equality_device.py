"""A system with memory of its own computes what a system in the host's memory computes.

On a machine without a GPU the device is `copying`: the CPU, to and from which everything is copied as late as it may be,
with NaN in every buffer that nobody should read (see cluster/_device_engine.py). A GPU runs the same code above its few
lines of streams and events.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from equality_cases import (
    BATCH,
    STEPS,
    TIED,
    Case,
    Run,
    adamw,
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

from openwafer.base import MIB, NumericsError
from openwafer.cluster import _device_engine, _device_open
from openwafer.train import LocalCluster, Trainer
from openwafer.train.optim import AdamW

GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU, which PyTorch does not find here"
)

CLUSTERS = [
    (execution, systems, store)
    for execution in ("weight_streaming", "pipelined")
    for systems in (1, 2)
    for store in ("ram", "disk")
]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    """The copying devices that a run opens."""
    opened = []

    class Noted(_device_engine.CopyingEngine):
        def open(self) -> None:
            opened.append(self)

    monkeypatch.setattr(_device_open, "CopyingEngine", Noted)
    return opened


@cache
def _reference(model: str, replicas: tuple[tuple[int, ...], ...]) -> Run:
    return plain(case_of(model), replicas, forward=as_captured)


@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
@pytest.mark.parametrize("model", ["mnist", "gpt", "hf_gpt2"])
def test_a_device_with_memory_of_its_own_computes_the_same_bits(
    model, execution, systems, store, tmp_path, engines
):
    """Copies move bytes and change none, and nothing is read before it has come or after it was given back."""
    microbatch = None if systems == 1 else 2
    replicas = systems if execution == "weight_streaming" else 1
    sizes = ((BATCH,),) if systems == 1 else ((2,) * (BATCH // replicas // 2),) * replicas
    options = {"systems": systems, "execution": execution, "store": store, "microbatch": microbatch}

    found = streamed(case_of(model), tmp_path / "own", device="copying", **options)

    if model not in TIED or systems == 1:
        same_bits(found, _reference(model, sizes))
    else:
        same_bits(found, streamed(case_of(model), tmp_path / "host", **options))
    assert len(engines) == systems
    # What the rings of each system took is what the plan predicts, but for activations, which are no buffers.
    memories = [system.memory for system in found.plan.systems]
    predicted = sorted(memory.weights + memory.gradients + memory.inputs for memory in memories)
    taken = sorted(engine.peak_bytes for engine in engines)  # threads open their devices in any order
    assert all(0 < own <= most for own, most in zip(taken, predicted, strict=True))


def test_batch_statistics_and_metrics_come_back_from_the_device(tmp_path):
    """Buffers that a forward replaces and numbers that it reports are the other ways out of a device."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    normed = Case("normed", model, numbers(12, 4), nn.functional.cross_entropy)

    def correct(logits, target):
        return (logits.argmax(-1) == target).float().mean()

    found = streamed(normed, tmp_path / "own", device="copying", microbatch=4, metrics={"correct": correct})
    expected = streamed(normed, tmp_path / "host", microbatch=4, metrics={"correct": correct})

    same_bits(found, expected)
    assert found.metrics == expected.metrics
    assert not torch.equal(found.weights["1.running_mean"], torch.zeros(16))


def test_numbers_that_are_not_finite_are_found_on_the_device_too(tmp_path):
    """The loss comes late there; what is alive by then still tells where it began."""
    case = case_of("gpt")

    def spoilt(logits, batch):
        return case.loss(logits, batch) / 0.0

    other = Case("spoilt", copy.deepcopy(case.fresh()), case.data, spoilt)
    with pytest.raises(NumericsError, match="the loss is inf at step 1; what first ceased to be finite is"):
        streamed(other, tmp_path, device="copying")


@pytest.mark.slow
@pytest.mark.parametrize("store", ["ram", "disk"])
def test_processes_with_devices_compute_what_threads_compute(store, tmp_path):
    """Slots in shared memory are copied from and to as those of one process."""
    options = {"systems": 2, "microbatch": 2, "store": store, "device": "copying"}

    apart = streamed(case_of("gpt"), tmp_path / "apart", processes=True, **options)

    same_bits(apart, streamed(case_of("gpt"), tmp_path / "together", **options))


# --- on a GPU ---------------------------------------------------------------------------------------------


def plain_on_gpu(case: Case) -> Run:
    """The plain loop over whole batches, all of it on the GPU."""
    module = copy.deepcopy(case.fresh()).cuda()
    optimizer = adamw(module.parameters())
    moved = Case(case.name, module, case.data, case.loss)
    losses = []
    with as_captured():
        for step in range(STEPS):
            batch = case.data.batch(step)
            here = (
                {name: value.cuda() for name, value in batch.items()}
                if isinstance(batch, dict)
                else tuple(value.cuda() for value in batch)
            )
            optimizer.zero_grad(set_to_none=True)
            loss = moved.loss_of(here)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    return Run(tuple(losses), {name: value.cpu() for name, value in moved.weights.items()})


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize(("execution", "systems", "store"), CLUSTERS)
@pytest.mark.parametrize("model", ["mnist", "gpt", "hf_gpt2"])
def test_a_gpu_computes_what_plain_pytorch_computes(model, execution, systems, store, tmp_path):
    """As plain PyTorch on that GPU does, within the spread of plain runs that differ in the order of additions."""
    options = {"systems": systems, "execution": execution, "store": store}
    spread = spread_of(case_of(model))

    found = streamed(
        case_of(model), tmp_path, device="cuda", microbatch=None if systems == 1 else 2, **options
    )

    assert not spread.outside(plain_on_gpu(case_of(model)))
    assert not spread.outside(found)
    assert all(peak > 0 for peak in found.result.peak_device.values())


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("store", ["ram", "disk"])
def test_a_model_four_times_larger_than_its_gpu_memory_trains_there(store, tmp_path):
    """The cap is enforced by PyTorch's allocator: one allocation of the model's size would end the run."""
    layers, width, cap = 48, 2048, 640 * MIB
    assert layers * width * width * 3 * 4 > 3.5 * cap
    torch.manual_seed(0)

    trainer = Trainer(
        lambda: nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))),
        optimizer=AdamW(lr=1e-5),
        loss=nn.functional.mse_loss,
        cluster=LocalCluster(device="cuda", system_memory=cap, memoryx=store, execution="weight_streaming"),
        folder=tmp_path,
    )
    result = trainer.fit([(x, 0.5 * x) for x in torch.randn(3, 64, width)], steps=3, keep_checkpoints=1)

    assert 0 < result.peak_device["system0"] <= cap
    assert len(set(result.losses)) == 3
