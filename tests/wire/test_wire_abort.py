"""Whoever waits can be woken: by an abort, by the end of the transport, by Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wire_hosts import TwoHosts

from openwafer.base import InputError
from openwafer.wire import (
    Aborted,
    LocalTransport,
    RingReader,
    RingWriter,
    SharedTransport,
    Transport,
    wait_any,
)


def job(transport: Transport) -> tuple[RingWriter, RingReader]:
    """A full ring of one slot, and links in both directions."""
    transport.ring("weights", slots=1, slot_bytes=8, writer="memoryx", readers=["system0"])
    transport.link("commands", source="memoryx", target="system0")
    transport.link("results", source="system0", target="memoryx")
    transport.link("bulk", source="memoryx", target="system0")
    writer = transport.endpoints("memoryx").writer("weights")
    reader = transport.endpoints("system0").reader("weights")
    writer.acquire()
    writer.commit("held")
    reader.receive(timeout_s=10)
    return writer, reader


def waiting_calls(transport: Transport) -> dict[str, Callable[[], object]]:
    """Every call that can block, each blocked for ever."""
    writer, reader = job(transport)
    memoryx, system0 = transport.endpoints("memoryx"), transport.endpoints("system0")
    calls: dict[str, Callable[[], object]] = {
        "acquire": writer.acquire,
        "receive from a ring": reader.receive,
        "receive from a link": system0.inbox("commands").receive,
        "wait for any": lambda: wait_any([memoryx.inbox("results")]),
    }
    if isinstance(transport, SharedTransport):  # links between threads are never full
        calls["send into a full link"] = lambda: memoryx.outbox("bulk").send_bytes(b"x" * 10**6)
    return calls


@pytest.mark.parametrize("end", ["abort", "close"])
def test_an_abort_wakes_every_blocked_call_with_its_reason(transport: Transport, end: str) -> None:
    """One failed role must not leave the others waiting for it; 0.2 s is the most this may take."""
    calls = waiting_calls(transport)
    reason = "system1 ran out of memory" if end == "abort" else "the transport was closed"

    def block(call: Callable[[], object]) -> None:
        with pytest.raises(Aborted, match=reason):
            call()

    with ThreadPoolExecutor(len(calls)) as threads:
        jobs = [threads.submit(block, call) for call in calls.values()]
        time.sleep(0.1)
        blocked_before = not any(job.done() for job in jobs)
        if end == "abort":
            transport.abort(reason)
        else:
            transport.close()
        for blocked in jobs:
            blocked.result(timeout=20)

    assert blocked_before


def test_every_call_after_an_abort_raises_the_first_reason(transport: Transport) -> None:
    """The first failure is the cause; those that follow are its consequences."""
    writer, reader = job(transport)
    reader.release()
    memoryx = transport.endpoints("memoryx")
    transport.endpoints("memoryx").outbox("commands").send("unread")
    transport.abort("the disk is full")
    transport.abort("system0 was lost")
    transport.endpoints("system0").close()

    for call in (
        writer.acquire,
        lambda: writer.commit_reference("next"),
        lambda: writer.wait_released(0),
        memoryx.check,
        memoryx.inbox("results").receive,
        memoryx.inbox("results").poll,
        lambda: memoryx.outbox("commands").send("more"),
    ):
        with pytest.raises(Aborted, match="the disk is full"):
            call()


def test_a_loss_that_an_abort_explains_is_reported_as_the_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a coordinator is killed, its links may end a moment before its abort pipe: it is one event."""
    monkeypatch.setattr("openwafer.wire._channel.CAUSE_S", 5.0)
    with SharedTransport() as transport:
        job(transport)

        def end_like_a_killed_process() -> None:
            transport.endpoints("memoryx").close()
            time.sleep(0.05)
            transport.abort("the coordinator ended")

        threading.Timer(0.05, end_like_a_killed_process).start()
        with pytest.raises(Aborted, match="the coordinator ended"):
            transport.endpoints("system0").inbox("commands").receive()


@pytest.mark.parametrize("kind", [LocalTransport, SharedTransport, TwoHosts])
def test_leaving_the_transport_by_an_exception_tells_the_roles_which(kind: type[Transport]) -> None:
    """The log of every role then says what ended the job."""
    transport = kind()
    _, reader = job(transport)

    with pytest.raises(ValueError, match="no such recipe"), transport:
        raise ValueError("no such recipe")

    with pytest.raises(Aborted, match="the coordinator failed: ValueError: no such recipe"):
        reader.receive()
    with pytest.raises(InputError, match="was closed"):
        transport.link("late", source="memoryx", target="system0")


def test_a_reason_longer_than_a_page_is_cut_and_not_lost() -> None:
    """It may hold a traceback; it travels in one page of shared memory."""
    with SharedTransport() as transport:
        _, reader = job(transport)
        transport.abort("€" * 3000)

        with pytest.raises(Aborted, match=r"^€{1364}$"):
            reader.receive()


def test_ctrl_c_in_a_waiting_call_leaves_the_ring_usable(transport: Transport) -> None:
    """A person stops a run; what follows (a last checkpoint) still uses the same ring and links."""
    for call in waiting_calls(transport).values():
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        timer.join()

    memoryx, system0 = transport.endpoints("memoryx"), transport.endpoints("system0")
    writer, reader = memoryx.writer("weights"), system0.reader("weights")
    reader.release()
    writer.acquire(timeout_s=10)[:4] = b"next"
    writer.commit("after the interruption", 4)
    message = reader.receive(timeout_s=10)
    assert (message.token, bytes(message.data), message.ticket) == ("after the interruption", b"next", 1)

    with ThreadPoolExecutor(1) as threads:  # what was interrupted goes out whole, before the next
        sent = threads.submit(memoryx.outbox("bulk").send_bytes, b"last", 5)
        bulk = system0.inbox("bulk")
        if isinstance(transport, SharedTransport):
            assert bulk.receive_bytes(timeout_s=20) == b"x" * 10**6
        assert bulk.receive_bytes(timeout_s=20) == b"last"
        sent.result(timeout=20)


def test_interruptions_at_any_moment_neither_tear_nor_repeat_a_message() -> None:
    """A signal that falls between a write and the note of what was written must not garble the stream."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    received: list[bytes] = []
    interruptions = 0
    with SharedTransport() as transport:
        transport.link("bulk", source="memoryx", target="system0")
        outbox = transport.endpoints("memoryx").outbox("bulk")
        inbox = transport.endpoints("system0").inbox("bulk")

        def read() -> None:
            while not received or received[-1] != b"end":
                received.append(inbox.receive_bytes(timeout_s=20))

        thread = threading.Thread(target=read)
        thread.start()
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for index in range(1, 200):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 20e-6 * (1 + index % 25))
                    outbox.send_bytes(index.to_bytes(1, "little") * 100_000)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interruptions += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        outbox.send_bytes(b"end")
        thread.join(20)

    assert interruptions > 10
    assert {len(frame) for frame in received[:-1]} == {100_000}
    indices = [frame[0] for frame in received[:-1]]
    assert indices == sorted(set(indices))
    assert all(frame.count(frame[:1]) == 100_000 for frame in received[:-1])


def test_an_interrupted_commit_goes_out_before_the_writer_waits_for_its_release() -> None:
    """The reader cannot release what it never saw: the wait would be for ever."""
    with SharedTransport() as transport:
        transport.ring("weights", slots=0, slot_bytes=0, writer="memoryx", readers=["system0"])
        writer = transport.endpoints("memoryx").writer("weights")
        reader = transport.endpoints("system0").reader("weights")
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            writer.commit_reference("x" * 200_000)
        timer.join()

        def read() -> int:
            token = reader.receive(timeout_s=20).token
            reader.release()
            return len(token)

        with ThreadPoolExecutor(1) as threads:
            length = threads.submit(read)
            writer.wait_released(0, timeout_s=20)
            assert length.result() == 200_000


def test_a_closed_transport_leaves_no_descriptor_and_no_file() -> None:
    """A service makes a transport for every job; what one leaves behind adds up."""

    def footprint() -> tuple[int, list[str]]:
        return len(os.listdir("/proc/self/fd")), sorted(Path("/dev/shm").glob("openwafer*"))

    def run() -> None:
        with SharedTransport() as transport:
            transport.segment("state", 1 << 20, roles=["memoryx", "system0"])
            job(transport)
            transport.endpoints("memoryx").segment("state").buffer[0] = 1

    run()
    before = footprint()
    for _ in range(3):
        run()

    assert footprint() == before
