"""The lines that only a GPU runs, against a GPU that notes what it is told: which stream waits for which."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from openwafer.base import GIB, MIB, InputError, PlanError
from openwafer.cluster import _device_claims as claims
from openwafer.cluster import _device_open
from openwafer.cluster._device_claims import Claim, PinnedRegions
from openwafer.cluster._device_cuda import CudaEngine
from openwafer.cluster._device_open import check_device, device_memory, has_own_memory, open_device
from openwafer.cluster._device_rings import OwnMemory
from openwafer.train import LocalCluster, Trainer
from openwafer.train.optim import AdamW
from openwafer.wire import LocalTransport

SLOT = 4096


class NotedGpu:
    """Stands in for `torch.cuda`: its streams run nothing late, and note their order."""

    def __init__(self, count: int = 2, free: int = 6 * GIB, total: int = 8 * GIB) -> None:
        self.notes: list[str] = []
        self.names = itertools.cycle(("compute", "up", "down"))
        self.patience: int | None = None
        self.stack = ["none"]
        self.fractions: list[float] = []
        self.registered: dict[int, int] = {}
        self.count, self.free, self.total = count, free, total
        self.register_result = 0
        self.events = 0

    # What the code under test calls, by its names in torch.cuda.

    def init(self) -> None: ...
    def reset_peak_memory_stats(self, device) -> None: ...

    def device_count(self) -> int:
        return self.count

    def is_available(self) -> bool:
        return self.count > 0

    def mem_get_info(self, index) -> tuple[int, int]:
        return self.free, self.total

    def memory_reserved(self, index) -> int:
        return 0

    def get_device_name(self, index) -> str:
        return "Noted"

    def get_device_properties(self, index):
        return SimpleNamespace(total_memory=self.total)

    def max_memory_allocated(self, device) -> int:
        return 123

    def set_per_process_memory_fraction(self, fraction, index) -> None:
        self.fractions.append(fraction)

    @contextmanager
    def device(self, device):
        yield

    @contextmanager
    def stream(self, stream):
        self.stack.append(stream.name)
        yield
        self.stack.pop()

    def Stream(self):  # noqa: N802 - torch's name
        return NotedStream(self, next(self.names))

    def Event(self, enable_timing=False):  # noqa: N802 - torch's name
        return NotedEvent(self, "timing")

    def cudart(self):
        return self

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802 - the driver's name
        if not self.register_result:
            self.registered[address] = nbytes
        return self.register_result

    def cudaHostUnregister(self, address):  # noqa: N802 - the driver's name
        del self.registered[address]
        return 0


class NotedEvent:
    def __init__(self, gpu: NotedGpu, where: str) -> None:
        gpu.events += 1
        self.gpu, self.where, self.number, self.complete = gpu, where, gpu.events, False
        self.asked = 0

    def record(self, stream) -> None: ...

    def query(self) -> bool:
        self.asked += 1
        return self.complete or (self.gpu.patience is not None and self.asked > self.gpu.patience)

    def elapsed_time(self, other) -> float:
        return 1500.0


class NotedStream:
    def __init__(self, gpu: NotedGpu, name: str) -> None:
        self.gpu, self.name, self.last = gpu, name, None

    def record_event(self):
        self.last = NotedEvent(self.gpu, self.name)
        return self.last

    def wait_event(self, event) -> None:
        self.gpu.notes.append(f"{self.name} waits for {event.where} {event.number}")

    def wait_stream(self, other) -> None:
        self.gpu.notes.append(f"{self.name} waits for all of {other.name}")

    def synchronize(self) -> None:
        self.gpu.notes.append(f"host waits for {self.name}")
        if self.last is not None:
            self.last.complete = True


@pytest.fixture
def gpu(monkeypatch) -> NotedGpu:
    gpu = NotedGpu()
    for name in dir(gpu):
        if not name.startswith("__") and hasattr(torch.cuda, name):
            monkeypatch.setattr(torch.cuda, name, getattr(gpu, name))
    return gpu


@pytest.fixture
def device(gpu):
    """One system's device, its tensors in the CPU's memory."""
    engine = CudaEngine(1, Claim(1, "system0", MIB, None))
    engine.device = torch.device("cpu")
    with OwnMemory(engine) as device:
        gpu.notes.clear()
        yield device


@pytest.fixture
def ring():
    with LocalTransport() as transport:
        transport.ring("r", slots=2, slot_bytes=SLOT, writer="a", readers=["b"])
        yield transport.endpoints("a").writer("r"), transport.endpoints("b").reader("r")


def complete(stream) -> None:
    stream.last.complete = True


def test_an_upload_waits_for_the_arithmetic_that_last_used_the_buffer(gpu, device, ring):
    """And nothing else: the copy of the next layer runs while this one computes."""
    writer, ring_reader = ring
    reader = device.reader(ring_reader, [SLOT])
    retired = device.engine._compute.last.number
    writer.acquire(1)[:] = b"\x01" * SLOT
    writer.commit({}, SLOT)

    message = reader.receive(1)
    device.join()
    device.join()
    reader.release(message.ticket)

    copied = device.engine._up.last.number
    assert gpu.notes == [f"up waits for compute {retired}", f"compute waits for up {copied}"]
    assert device.engine._compute.last.number > copied  # what the next upload to this buffer waits for
    assert torch.all(message.data == 1)


def test_a_slot_is_released_and_committed_by_the_event_behind_its_copy(gpu, device, ring):
    """The host looks at events and waits for none of them while there is something else to do."""
    ring_writer, ring_reader = ring
    writer = device.writer(ring_writer, 1)
    writer.acquire(1).fill_(3)
    writer.commit({}, SLOT)
    assert gpu.notes == ["down waits for all of compute"]
    assert not device.advance()
    assert not ring_reader.poll()

    complete(device.engine._down)
    assert device.advance()

    reader = device.reader(ring_reader, [SLOT])
    message = reader.receive(1)
    assert not device.advance()
    assert ring_reader._held
    complete(device.engine._up)
    assert device.advance()
    assert not ring_reader._held
    assert message.data[0] == 3


def test_copies_are_issued_on_their_own_streams(gpu, device, monkeypatch):
    """A copy on the arithmetic's stream would hold the arithmetic up."""
    streams = []
    copy = torch.Tensor.copy_

    def noted(self, source, non_blocking=False):
        streams.append((gpu.stack[-1], non_blocking))
        return copy(self, source)

    monkeypatch.setattr(torch.Tensor, "copy_", noted)
    a, b = torch.zeros(4, dtype=torch.uint8), torch.ones(4, dtype=torch.uint8)

    device.engine.upload(a, b, None)
    device.engine.download(b, a)

    assert streams == [("up", True), ("down", True)]
    assert gpu.stack[-1] == "compute"


def test_times_are_on_the_hosts_clock(gpu, device):
    """Spans of several systems and of MemoryX go into one timeline."""
    mark = device.mark()

    assert device.seconds(mark) == mark.base_s + 1.5
    device.settle()
    assert device.mark().base_s >= mark.base_s
    assert device.peak_bytes == 123


def test_slots_are_pinned_once_whole_and_for_as_long_as_someone_uses_them(gpu, ring):
    """A later message in the same slot may be longer; systems that are threads of one process share the driver."""
    first, second = PinnedRegions(), PinnedRegions()
    first.add(8192, 5000)
    first.add(8192, 5000)
    second.add(8192, 5000)
    assert gpu.registered == {8192: 8192}

    first.release()
    assert gpu.registered == {8192: 8192}
    second.release()
    assert gpu.registered == {}


def test_a_device_pins_the_whole_slot_and_lets_go_when_it_is_left(gpu, ring):
    """Its first message may fill a part of it only."""
    writer, ring_reader = ring
    engine = CudaEngine(0, Claim(0, "system0", MIB, None))
    engine.device = torch.device("cpu")
    with OwnMemory(engine) as device:
        writer.acquire(1)[:64] = b"\x01" * 64
        writer.commit({}, 64)
        device.reader(ring_reader, [SLOT]).receive(1)
        assert list(gpu.registered.values()) == [SLOT]

    assert gpu.registered == {}


def test_memory_that_cannot_be_pinned_is_copied_all_the_same(gpu):
    """Slower, with a warning, and without asking again for every slot."""
    gpu.register_result = 2
    regions = PinnedRegions()

    regions.add(4096, 10)
    gpu.register_result = 0
    regions.add(8192, 10)
    regions.release()

    assert gpu.registered == {}


def test_the_budget_is_enforced_for_all_systems_of_a_process_together(gpu):
    """PyTorch has one allocator for each GPU and process; the last to leave takes the limit away."""
    first, second = (Claim(0, name, 2 * GIB, 2 * GIB) for name in ("system0", "system1"))
    first.take()
    second.take()
    first.release()
    second.release()

    assert gpu.fractions == [0.25, 0.5, 0.25, 1.0]
    assert not claims._caps[0]
    assert not claims._needs[0]


def test_a_device_with_less_memory_than_the_plan_needs_is_refused_with_both_numbers(gpu):
    """Before the first step, and not by the allocator in the middle of one. What was refused claims nothing."""
    first, second = (Claim(1, name, 4 * GIB, None) for name in ("system0", "system1"))
    first.take()

    message = (
        r"system1 needs 8.00 GiB on cuda:1 \(Noted\), .* but only 6.00 GiB of its 8.00 GiB are free; end what"
    )
    with pytest.raises(PlanError, match=message):
        second.take()
    first.release()
    second.take()
    second.release()

    assert gpu.fractions == []
    assert not claims._needs[1]


@pytest.mark.parametrize("execution", ["weight_streaming", "pipelined"])
def test_a_whole_run_through_these_lines_has_the_same_bits(execution, gpu, monkeypatch, tmp_path):
    """Two systems, whose tensors lie in the CPU's memory; all else is what a GPU is told."""

    class OnTheCpu(CudaEngine):
        def __init__(self, index, claim) -> None:
            super().__init__(index, claim)
            self.device = torch.device("cpu")

        def host_scalar(self, dtype):
            return torch.zeros((), dtype=dtype)

    def losses(device: str) -> tuple[float, ...]:
        torch.manual_seed(0)
        trainer = Trainer(
            lambda: nn.Sequential(
                nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)
            ),
            optimizer=AdamW(lr=1e-2),
            loss=nn.functional.mse_loss,
            cluster=LocalCluster(
                systems=2, processes=False, device=device, execution=execution, threads=1, matmul="torch"
            ),
            folder=tmp_path / device,
        )
        data = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
        result = trainer.fit([(x, x.flip(1)) for x in data], steps=3)
        assert set(result.peak_device.values()) == ({123} if device == "cuda" else set())
        return result.losses

    monkeypatch.setattr(_device_open, "CudaEngine", OnTheCpu)
    gpu.patience = 3

    assert losses("cuda") == losses("cpu")
    assert not gpu.registered


# --- which device -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "meta"])
def test_a_word_that_names_no_device_is_refused(word):
    """With the words that would do."""
    with pytest.raises(InputError, match=r"write cpu, cuda .* or cuda:N"):
        has_own_memory(word)


def test_a_plan_for_gpus_needs_none():
    """Runs are planned on machines that have no GPU."""
    assert not has_own_memory("cpu")
    assert all(has_own_memory(word) for word in ("cuda", "cuda:3", "copying"))


def test_systems_take_the_gpus_in_turn(gpu):
    """Or all the one that is named; the memory of each is shared by those on it."""
    memory = SimpleNamespace(memory=SimpleNamespace(peak=GIB))
    plan = SimpleNamespace(systems=[memory] * 3)

    opened = [open_device("cuda", plan, index, None) for index in range(3)]
    named = open_device("cuda:1", plan, 0, None)

    assert [device.operators for device in opened] == [torch.device("cuda", index) for index in (0, 1, 0)]
    assert opened[1].engine._claim.need_bytes == GIB
    assert named.operators == torch.device("cuda", 1)
    assert device_memory("cuda", 2) == 8 * GIB - claims.CONTEXT_BYTES
    assert device_memory("cuda", 3) == (8 * GIB - claims.CONTEXT_BYTES) // 2
    assert device_memory("cpu", 3) is None


def test_a_gpu_that_is_not_there_is_refused(gpu):
    """In words, before a run folder is made."""
    with pytest.raises(
        InputError, match=r"device is 'cuda:2', but this machine has 2 GPU\(s\), cuda:0 to cuda:1"
    ):
        check_device("cuda:2")
    assert device_memory("cuda:2", 1) is None
    gpu.count = 0
    with pytest.raises(
        InputError, match=r"device is 'cuda', but PyTorch .* on this machine; write cpu, or run where"
    ):
        check_device("cuda")
    check_device("cpu")
