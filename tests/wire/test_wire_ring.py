"""Rings: every message once, in order, and no slot changes while a reader holds it."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_hosts import TwoHosts
from wire_roles import pattern, settle

from openwafer.base import InputError, RoleError, RoleLost, StallError
from openwafer.wire import LocalTransport, RingReader, RingWriter, SharedTransport, Transport

SLOT_BYTES = 5000


def weights(transport: Transport, slots: int = 2, readers: int = 1) -> tuple[RingWriter, list[RingReader]]:
    """A ring, its writer and its readers."""
    names = [f"system{index}" for index in range(readers)]
    transport.ring("weights", slots=slots, slot_bytes=SLOT_BYTES, writer="memoryx", readers=names)
    return (
        transport.endpoints("memoryx").writer("weights"),
        [transport.endpoints(name).reader("weights") for name in names],
    )


@pytest.mark.parametrize("kind", [LocalTransport, SharedTransport, TwoHosts])
@given(
    slots=st.integers(1, 3),
    messages=st.lists(st.one_of(st.none(), st.integers(0, SLOT_BYTES)), max_size=25),
    seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=3),
    ahead=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_every_reader_gets_every_message_once_in_order_and_no_held_slot_changes(
    kind: type[Transport], slots: int, messages: list[int | None], seeds: list[int], ahead: int
) -> None:
    """Whatever the interleaving: the writer fills slots ahead, each reader holds some and releases at will.

    A message of None is a reference. Readers look at a slot once more just before its release.
    """

    def write(writer: RingWriter) -> None:
        filled: list[int] = []

        def commit_all() -> None:
            while filled:
                ticket = writer.commit(["slot", filled[0]], filled[0], timeout_s=10)
                assert ticket == tickets.pop(0)
                filled.pop(0)

        tickets: list[int] = []
        for ticket, nbytes in enumerate(messages):
            if nbytes is None:
                commit_all()
                assert writer.commit_reference(["reference", 0]) == ticket
                continue
            view = writer.acquire(timeout_s=10)
            view[:] = pattern(ticket, SLOT_BYTES)
            filled.append(nbytes)
            tickets.append(ticket)
            if len(filled) >= min(ahead, slots):
                commit_all()
        commit_all()
        writer.drain(timeout_s=10)

    def read(reader: RingReader, seed: int) -> None:
        choose = random.Random(seed)
        held: dict[int, tuple[memoryview, bytes]] = {}

        def release_one() -> None:
            ticket = choose.choice(list(held))
            data, expected = held.pop(ticket)
            assert bytes(data) == expected, f"message {ticket} changed while it was held"
            reader.release(ticket)

        received = 0
        while received < len(messages):
            try:
                message = reader.receive(timeout_s=choose.choice([0, 0.001]))
            except StallError:
                if held:  # the writer may be waiting for a slot that is held here
                    release_one()
                continue
            nbytes = messages[received]
            assert message.ticket == received
            assert message.token == (["reference", 0] if nbytes is None else ["slot", nbytes])
            held[message.ticket] = (message.data, pattern(received, nbytes or 0))
            received += 1
            while held and choose.random() < 0.4:
                release_one()
        while held:
            release_one()
        with pytest.raises(StallError):
            reader.receive(timeout_s=0)

    with ThreadPoolExecutor(4) as threads, kind() as transport:  # a failure aborts, which frees the threads
        writer, readers = weights(transport, slots, len(seeds))
        jobs = [threads.submit(write, writer)]
        jobs += [threads.submit(read, reader, seed) for reader, seed in zip(readers, seeds, strict=True)]
        for job in wait(jobs, timeout=30, return_when="FIRST_EXCEPTION").done:
            job.result()
        assert all(job.done() for job in jobs)

    total = sum(nbytes or 0 for nbytes in messages)
    for end in (writer, *readers):
        assert (end.stats.messages, end.stats.moved_bytes) == (len(messages), total)


def test_slots_start_on_pages_and_do_not_overlap(transport: Transport) -> None:
    """Direct I/O reads whole pages: into a slot, never into its neighbour."""
    writer, _ = weights(transport, slots=3)

    views = [np.frombuffer(writer.acquire(timeout_s=0), np.uint8) for _ in range(3)]

    starts = sorted(view.ctypes.data for view in views)
    assert all(start % 4096 == 0 for start in starts)
    assert starts[1] - starts[0] == starts[2] - starts[1] == 8192


def test_a_writer_waits_until_the_slowest_reader_releases(transport: Transport) -> None:
    """Backpressure: MemoryX must not run ahead of the slowest system by more than the slots."""
    writer, (fast, slow) = weights(transport, slots=2, readers=2)
    for _ in range(2):
        writer.acquire(timeout_s=0)
        writer.commit("layer")
        fast.receive(timeout_s=10)
        fast.release()
    settle(transport)

    with pytest.raises(
        StallError,
        match=r"memoryx waited .*'weights' .*2 slots of 4\.88 KiB.*system0 \(0 held\), system1 \(2 held\)",
    ):
        writer.acquire(timeout_s=0.05)

    slow.receive(timeout_s=10)
    threading.Timer(0.1, slow.release).start()
    writer.acquire(timeout_s=20)
    assert writer.stats.wait_s > 0.1


def test_waiting_for_a_release_needs_every_reader(transport: Transport) -> None:
    """A resident tensor may change only when no system reads it any more."""
    writer, readers = weights(transport, slots=0, readers=2)
    ticket = writer.commit_reference({"segment": "state", "offset": 0}, nbytes=64)
    for reader in readers:
        assert reader.receive(timeout_s=10).token == {"segment": "state", "offset": 0}

    readers[0].release(ticket)
    settle(transport)
    with pytest.raises(StallError, match=r"release message 0; readers: system1 \(1 held\)"):
        writer.wait_released(ticket, timeout_s=0.02)
    readers[1].release(ticket)
    writer.wait_released(ticket, timeout_s=10)

    assert writer.stats.moved_bytes == readers[0].stats.moved_bytes == 64
    assert writer.stats.release_wait_s > 0.01
    with pytest.raises(InputError, match="tickets 0 to 0, not 1"):
        writer.wait_released(1)


def test_a_reader_sees_only_the_bytes_that_were_committed(transport: Transport) -> None:
    """What lies behind them belongs to an older message."""
    writer, (reader,) = weights(transport)
    writer.acquire()[:3] = b"abc"
    writer.commit(None, 3)

    assert bytes(reader.receive(timeout_s=10).data) == b"abc"


def test_misuse_of_a_ring_is_refused_before_it_does_harm(transport: Transport) -> None:
    """Each of these would overwrite a slot in use or wait for ever."""
    writer, (reader,) = weights(transport, slots=1)
    with pytest.raises(InputError, match="no acquired slot"):
        writer.commit("nothing")
    writer.acquire()
    with pytest.raises(InputError, match="acquired all 1 slots"):
        writer.acquire(timeout_s=10)
    with pytest.raises(InputError, match=r"5001 bytes .* holds 5000"):
        writer.commit("too much", 5001)
    with pytest.raises(InputError, match="cannot send"):
        writer.commit(object())
    writer.commit("fine")
    with pytest.raises(InputError, match="it holds none"):
        reader.release()
    reader.receive(timeout_s=10)
    reader.release(0)
    with pytest.raises(InputError, match=r"released message 0 .* does not hold"):
        reader.release(0)
    for slots, slot_bytes, readers in ((-1, 1, ["a"]), (1, 0, ["a"]), (1, 1, []), (1, 1, ["a", "a"])):
        with pytest.raises(InputError, match="ring 'bad'"):
            transport.ring("bad", slots=slots, slot_bytes=slot_bytes, writer="memoryx", readers=readers)


def test_a_token_of_another_type_is_an_error_of_the_role_that_sent_it(transport: Transport) -> None:
    """Tokens are commands, too, and are checked where they come in."""
    writer, (reader,) = weights(transport)
    writer.commit_reference("text")

    with pytest.raises(RoleError, match="memoryx sent system0 a message on ring 'weights' that is no int"):
        reader.receive(timeout_s=10, type=int)


def test_a_reader_that_left_after_its_work_does_not_disturb_waiting_for_releases(
    transport: Transport,
) -> None:
    """At the end of a job the readers leave first; the writer must still learn that all is read."""
    writer, (first, second) = weights(transport, slots=2, readers=2)
    writer.acquire()
    ticket = writer.commit("last layer")
    first.receive(timeout_s=10)
    first.release()
    transport.endpoints("system0").close()
    settle(transport)

    with pytest.raises(StallError):
        writer.wait_released(ticket, timeout_s=0.02)
    second.receive(timeout_s=10)
    second.release()
    writer.drain(timeout_s=10)

    with pytest.raises(RoleLost, match="memoryx lost system0 on ring 'weights'"):
        writer.acquire()


def test_a_reader_that_leaves_holding_a_message_is_lost(transport: Transport) -> None:
    """Nobody will ever release that slot; waiting for it would be for ever."""
    writer, (reader,) = weights(transport, slots=1)
    writer.acquire()
    ticket = writer.commit("layer")
    reader.receive(timeout_s=10)
    threading.Timer(0.05, transport.endpoints("system0").close).start()

    with pytest.raises(RoleLost, match="memoryx lost system0"):
        writer.wait_released(ticket, timeout_s=20)
    with pytest.raises(RoleLost, match="memoryx lost system0"):
        writer.commit_reference("anybody there?")


def test_a_reader_may_release_after_the_writer_left(transport: Transport) -> None:
    """The last message of a stream is read after its writer has gone home: no error in that."""
    writer, (reader,) = weights(transport)
    writer.acquire()
    writer.commit("last layer")
    transport.endpoints("memoryx").close()

    assert reader.receive().token == "last layer"
    reader.release()
    with pytest.raises(RoleLost, match="system0 lost memoryx"):
        reader.receive()
