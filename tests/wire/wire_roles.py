"""What the spawned processes of the wire tests run. As a script: a coordinator that comes to a bad end."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from openwafer.base import RoleError
from openwafer.wire import Endpoints, SharedTransport

spawn = multiprocessing.get_context("spawn")


def start(role: Callable[..., None], *args: Any) -> SpawnProcess:
    """Run a role in a process of its own."""
    process = spawn.Process(target=role, args=args)
    process.start()
    return process


def settle(transport: object) -> None:
    """Wait until what was done is seen at both ends; only between hosts that takes time."""
    getattr(transport, "settle", lambda: None)()


def pattern(ticket: int, nbytes: int) -> bytes:
    """Bytes that differ from message to message."""
    return bytes([1 + ticket * 37 % 251]) * nbytes


def read_stream(endpoints: Endpoints, messages: int) -> None:
    """Check every message of the ring against its token, hold two at a time, then report."""
    reader, state = endpoints.reader("weights"), endpoints.segment("state")
    held = []
    for _ in range(messages):
        message = reader.receive(timeout_s=10)
        kind, nbytes = message.token
        data = state.buffer[:nbytes] if kind == "reference" else message.data
        held.append((message.ticket, data, pattern(message.ticket, nbytes)))
        if len(held) > 1:
            ticket, data, expected = held.pop()
            assert bytes(data) == expected
            reader.release(ticket)
    for ticket, data, expected in held:
        assert bytes(data) == expected
        reader.release(ticket)
    endpoints.outbox("results").send([endpoints.role, reader.stats.messages, reader.stats.moved_bytes])


def release_references(endpoints: Endpoints, messages: int) -> None:
    """Receive and release at once, as a system does with weights that it reads in place."""
    with endpoints as ends:
        reader = ends.reader("weights")
        for _ in range(messages):
            reader.release(reader.receive(timeout_s=10).ticket)


def hold_one_message(endpoints: Endpoints) -> None:
    """Receive one message, say so, and never release it."""
    endpoints.reader("weights").receive(timeout_s=10)
    endpoints.outbox("results").send("holding")
    time.sleep(60)


def report_the_end_of_a_link(endpoints: Endpoints) -> None:
    """Wait for a peer that never sends, and report which error ended that."""
    try:
        endpoints.inbox("gossip").receive(timeout_s=20)
    except RoleError as error:
        endpoints.outbox("results").send([type(error).__name__, str(error)])


def fork_and_wait(endpoints: Endpoints) -> None:
    """Fork a worker, as data loaders do, tell its process id and wait for ever."""
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    endpoints.outbox("results").send(worker)
    endpoints.inbox("commands").receive()


def block_in_ring(endpoints: Endpoints) -> None:
    """Wait for a message that never comes."""
    endpoints.reader("weights").receive()


def block_in_acquire(endpoints: Endpoints) -> None:
    """Fill the ring, which nobody reads, and wait for a slot."""
    writer = endpoints.writer("gradients")
    writer.acquire()
    writer.commit("the only slot")
    writer.acquire()


def coordinate_until_killed(ending: str) -> None:
    """Start two roles that wait for ever, print their process ids, then raise or sleep."""
    transport = SharedTransport()
    transport.ring("weights", slots=1, slot_bytes=8 << 20, writer="coordinator", readers=["system0"])
    transport.ring("gradients", slots=1, slot_bytes=8 << 20, writer="system1", readers=["coordinator"])
    roles = [start(block_in_ring, transport.endpoints("system0"))]
    roles.append(start(block_in_acquire, transport.endpoints("system1")))
    transport.started()
    transport.endpoints("coordinator").reader("gradients").receive(timeout_s=20)
    print(*[role.pid for role in roles], flush=True)
    if ending == "raise":
        raise RuntimeError("the coordinator's own failure")
    time.sleep(60)


if __name__ == "__main__":
    coordinate_until_killed(sys.argv[1])
