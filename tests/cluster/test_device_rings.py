"""Rings as a device with memory of its own uses them: what may be released, committed and filled again, and when."""

from __future__ import annotations

import pytest
import torch

from openwafer.base import InputError, StallError
from openwafer.cluster._device import HostDevice
from openwafer.cluster._device_engine import POISON, CopyingEngine
from openwafer.cluster._device_rings import OwnMemory
from openwafer.wire import LocalTransport

SLOT = 4096


@pytest.fixture
def ends():
    """(writer of a ring of two slots, its reader)."""
    with LocalTransport() as transport:
        transport.ring("r", slots=2, slot_bytes=SLOT, writer="a", readers=["b"])
        yield transport.endpoints("a").writer("r"), transport.endpoints("b").reader("r")


@pytest.fixture
def device():
    with OwnMemory(CopyingEngine()) as device:
        yield device


def put(writer, value: int, nbytes: int = SLOT) -> int:
    slot = writer.acquire(1)
    slot[:nbytes] = bytes([value]) * nbytes
    return writer.commit({"value": value}, nbytes, 1)


def free_slots(writer) -> int:
    """How many slots the ring would give out now."""
    before = len(writer._acquired)
    try:
        while True:
            writer.acquire(0)
    except (InputError, StallError):
        return len(writer._acquired) - before
    finally:
        del writer._acquired[before:]


# --- receiving --------------------------------------------------------------------------------------------


def test_a_slot_goes_back_when_its_copy_is_complete_and_not_before(ends, device):
    """The upload reads the slot: whoever fills it again while it does so changes what is computed with."""
    writer, ring = ends
    reader = device.reader(ring, [SLOT, SLOT])
    ticket = put(writer, 7)

    message = reader.receive(1)
    with pytest.raises(StallError, match="release message 0"):
        writer.wait_released(ticket, 0)
    device.join()
    assert torch.all(message.data == 7)
    device.settle()

    writer.wait_released(ticket, 0)


def test_a_message_is_there_after_join(ends, device):
    """Before, the copy may not have begun; a device's arithmetic waits for it, here it would find NaN."""
    writer, ring = ends
    put(writer, 7, 64)

    message = device.reader(ring, [SLOT]).receive(1)

    assert message.data.shape == (64,)
    assert torch.all(message.data == POISON)
    device.join()
    assert torch.all(message.data == 7)


def test_what_was_released_is_gone(ends, device):
    """A tensor over a released message would read the next one's bytes; on the device for tests it reads NaN at once."""
    writer, ring = ends
    put(writer, 0)
    reader = device.reader(ring, [SLOT])
    message = reader.receive(1)
    device.join()

    reader.release(message.ticket)

    assert torch.all(message.data.view(torch.float32).isnan())


def test_the_program_runs_ahead_of_its_copies_without_a_deadlock(ends, device):
    """The peer fills a slot only when one came back: whoever waits for the peer gives complete ones back first."""
    writer, ring = ends
    reader = device.reader(ring, [SLOT] * 3)
    put(writer, 1)
    put(writer, 2)
    first, second = reader.receive(1), reader.receive(1)
    assert free_slots(writer) == 0

    sent = []
    poll = ring.poll

    def peer() -> bool:
        """The peer's turn whenever the reader looks: it sends when it may."""
        if not sent and free_slots(writer):
            sent.append(put(writer, 3))
        return poll()

    ring.poll = peer
    third = reader.receive(1)

    device.join()
    assert [int(m.data[0]) for m in (first, second, third)] == [1, 2, 3]


def test_a_reference_is_copied_from_where_it_lies(ends, device):
    """With the RAM store no slot holds the record; the message is released when its copy is complete all the same."""
    writer, ring = ends
    store = memoryview(bytearray(b"\x05" * 128))
    ticket = writer.commit_reference({}, 128)

    message = device.reader(ring, [SLOT], lambda message: store).receive(1)
    device.settle()

    assert torch.equal(message.data, torch.full((128,), 5, dtype=torch.uint8))
    writer.wait_released(ticket, 0)


def test_buffers_of_any_sizes_are_found_again_in_any_order(ends, device):
    """Pipelined systems load records in another order for evaluation: the smallest buffer that fits always leaves enough."""
    sizes = [256, 64, 128, 64]
    writer, ring = ends
    reader = device.reader(ring, sizes)
    for order in (sizes, sorted(sizes), sorted(sizes, reverse=True)):
        held = []
        for nbytes in order:
            put(writer, 1, nbytes)
            held.append(reader.receive(1))
            device.settle()
        for message in held:
            reader.release(message.ticket)


# --- sending ----------------------------------------------------------------------------------------------


def test_a_message_is_committed_when_its_copy_is_complete(ends, device):
    """A commit shows the slot to the peer; it must not find half a gradient there."""
    ring, reader = ends
    writer = device.writer(ring, 2)
    writer.acquire(1).fill_(9)

    writer.commit({"n": 1}, 64)
    assert not reader.poll()
    device.settle()

    message = reader.receive(1)
    assert bytes(message.data) == b"\x09" * 64
    assert message.token == {"n": 1}


def test_messages_keep_the_order_in_which_they_were_acquired(ends, device):
    """As the ring promises; the first may be committed last in time, never in order."""
    ring, reader = ends
    writer = device.writer(ring, 2)
    first, second = writer.acquire(1), writer.acquire(1)
    second.fill_(2)
    first.fill_(1)

    writer.commit("one", SLOT)
    writer.commit("two", SLOT)
    device.settle()

    assert [(m.token, m.data[0]) for m in (reader.receive(1), reader.receive(1))] == [("one", 1), ("two", 2)]


def test_memory_is_filled_again_only_after_its_copy(ends, device):
    """With one buffer the second message waits for the first one's copy, not for the peer to take it."""
    ring, reader = ends
    writer = device.writer(ring, 1)
    for value in (1, 2):
        writer.acquire(1).fill_(value)
        writer.commit(value, SLOT)
    device.settle()

    assert [reader.receive(1).data[0], reader.receive(1).data[0]] == [1, 2]


def test_a_full_ring_is_waited_for_as_long_as_was_allowed(ends, device):
    """The peer that takes nothing is named, as by the ring itself."""
    ring, _ = ends
    writer = device.writer(ring, 1)

    for value in range(3):
        writer.acquire(0.01)
        if value < 2:
            writer.commit(value, SLOT)

    with pytest.raises(StallError, match=r"a waited 0.0 s for ring 'r' to free one of its 2 slots"):
        writer.commit(2, SLOT)


# --- numbers ----------------------------------------------------------------------------------------------


def test_numbers_come_in_the_order_of_the_reads_and_late(device):
    """Losses are added in the order of the microbatches, without a wait for each."""
    found = []
    for value in (1.5, 2.5):
        device.read(torch.tensor(value), found.append)
    assert found == []

    device.settle()

    assert found == [1.5, 2.5]


def test_the_host_hands_out_the_rings_themselves(ends):
    """On the CPU nothing stands between the program and the slots: no copy, and no cost."""
    writer, ring = ends
    host = HostDevice()
    found = []

    assert host.reader(ring, [SLOT]) is ring
    assert host.writer(writer, 2) is writer
    host.read(torch.tensor(2.0), found.append)
    assert found == [2.0]
    assert host.advance() is False


def test_scalars_are_the_same_bits_on_every_device(device):
    """Loss scales and fractions of samples enter the arithmetic: 1/3 must round alike."""
    for dtype in (torch.float32, torch.float64, torch.int64):
        for value in (1 / 3, 65536.0, -0.0):
            own, host = device.scalar(value, dtype), HostDevice().scalar(value, dtype)
            assert own.dtype == host.dtype
            assert own.shape == ()
            assert torch.equal(own, host)
