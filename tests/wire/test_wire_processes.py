"""Roles as processes of one host, and what their peers see when one is killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wire_roles
from wire_roles import pattern, start

from openwafer.base import MIB, InputError, RoleLost
from openwafer.wire import Aborted, LocalTransport, SharedTransport


def alive(pid: int) -> bool:
    """True while the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(*pids: int, timeout_s: float) -> None:
    """Return when all of them have ended; fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while any(map(alive, pids)):
        assert time.monotonic() < end, f"still running after {timeout_s} s: {list(filter(alive, pids))}"
        time.sleep(0.02)


def test_two_processes_get_the_same_stream_without_a_copy() -> None:
    """Slots and references in one order, at two systems, with the data that the writer put there."""
    systems = ["system0", "system1"]
    messages = 40
    with SharedTransport() as transport:
        transport.ring("weights", slots=3, slot_bytes=MIB, writer="memoryx", readers=systems)
        transport.segment("state", MIB, roles=["memoryx", *systems])
        for system in systems:
            transport.link("results", source=system, target="memoryx")
        roles = [start(wire_roles.read_stream, transport.endpoints(system), messages) for system in systems]
        transport.started()
        memoryx = transport.endpoints("memoryx")
        writer, state = memoryx.writer("weights"), memoryx.segment("state")
        state.buffer[:] = pattern(20, MIB)

        for ticket in range(messages):
            nbytes = MIB - 1000 * ticket
            if ticket == 20:
                writer.commit_reference(["reference", nbytes], nbytes)
                writer.wait_released(ticket, timeout_s=20)
                state.buffer[:] = bytes(MIB)  # nobody reads it any more
            else:
                writer.acquire(timeout_s=20)[:nbytes] = pattern(ticket, nbytes)
                writer.commit(["slot", nbytes], nbytes)
        writer.drain(timeout_s=20)

        total = sum(MIB - 1000 * ticket for ticket in range(messages))
        for system in systems:
            assert memoryx.inbox("results", system).receive(timeout_s=20) == [system, messages, total]
        for role in roles:
            role.join(10)
            assert role.exitcode == 0
        with pytest.raises(InputError, match="went to a child process"):
            transport.endpoints("system0").reader("weights")
        with pytest.raises(InputError, match="before it starts"):
            transport.link("late", source="memoryx", target="system0")


def test_a_killed_process_is_lost_to_all_its_peers() -> None:
    """The kernel's out-of-memory killer says nothing to anybody; the ends of the streams do."""
    with SharedTransport() as transport:
        transport.ring("weights", slots=1, slot_bytes=4096, writer="memoryx", readers=["system0"])
        transport.link("gossip", source="system0", target="system1")
        for system in ("system0", "system1"):
            transport.link("results", source=system, target="memoryx")
        memoryx = transport.endpoints("memoryx")
        victim = start(wire_roles.hold_one_message, transport.endpoints("system0"))
        witness = start(wire_roles.report_the_end_of_a_link, transport.endpoints("system1"))
        transport.started()
        writer = memoryx.writer("weights")
        writer.acquire()
        writer.commit("layer")
        assert memoryx.inbox("results", "system0").receive(timeout_s=20) == "holding"

        os.kill(victim.pid or 0, signal.SIGKILL)

        begin = time.monotonic()
        with pytest.raises(RoleLost, match="memoryx lost system0 on ring 'weights'"):
            writer.acquire(timeout_s=60)
        with pytest.raises(RoleLost, match="memoryx lost system0 on link 'results'"):
            memoryx.inbox("results", "system0").receive(timeout_s=60)
        assert time.monotonic() - begin < 30
        error, text = memoryx.inbox("results", "system1").receive(timeout_s=20)
        assert error == "RoleLost"
        assert "system1 lost system0 on link 'gossip'" in text
        victim.join()
        witness.join(10)
        assert witness.exitcode == 0


def test_an_abort_reaches_a_process_with_its_reason() -> None:
    """The reason travels in shared memory, because the process that knows it may be busy elsewhere."""
    with SharedTransport() as transport:
        transport.link("gossip", source="system1", target="system0")
        transport.link("results", source="system0", target="coordinator")
        inbox = transport.endpoints("coordinator").inbox("results")
        role = start(wire_roles.report_the_end_of_a_link, transport.endpoints("system0"))
        transport.started()

        transport.abort("the loss is NaN at step 7")

        role.join(20)
        assert role.exitcode == 1  # the report itself is refused: Aborted once more
        with pytest.raises(Aborted, match="the loss is NaN at step 7"):
            inbox.receive()


def test_a_forked_worker_does_not_hide_the_death_of_its_parent() -> None:
    """Data loaders fork; a worker that kept the pipes open would keep every peer waiting."""
    with SharedTransport() as transport:
        transport.link("commands", source="coordinator", target="input0")
        transport.link("results", source="input0", target="coordinator")
        coordinator = transport.endpoints("coordinator")
        role = start(wire_roles.fork_and_wait, transport.endpoints("input0"))
        transport.started()
        worker = coordinator.inbox("results").receive(timeout_s=20)
        try:
            os.kill(role.pid or 0, signal.SIGKILL)

            with pytest.raises(RoleLost, match="coordinator lost input0"):
                coordinator.inbox("results").receive(timeout_s=20)
            assert alive(worker)
        finally:
            os.kill(worker, signal.SIGKILL)
            role.join()


@pytest.mark.parametrize("ending", ["kill", "raise"])
def test_roles_end_with_their_coordinator_and_nothing_stays_behind(ending: str) -> None:
    """Blocked in a receive or in an acquire, no child outlives the process that would join it.

    After an exception the interpreter joins its children before it closes anything: it must
    abort them first, or both wait for ever.
    """
    files = set(os.listdir("/dev/shm"))
    coordinator = subprocess.Popen(
        [sys.executable, wire_roles.__file__, ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert coordinator.stdout is not None
    pids = [int(word) for word in coordinator.stdout.readline().split()]
    assert len(pids) == 2

    if ending == "kill":
        assert all(map(alive, pids))
        coordinator.kill()

    wait_for_end(*pids, timeout_s=20)
    _, log = coordinator.communicate(timeout=10)
    assert coordinator.returncode == (-signal.SIGKILL if ending == "kill" else 1)
    why = "ended without saying why" if ending == "kill" else "exited"
    assert log.count(f"Aborted: the process that owns the transport {why}") == 2
    assert "resource_tracker" not in log
    assert set(os.listdir("/dev/shm")) <= files


@pytest.mark.parametrize("kind", [LocalTransport, SharedTransport])
def test_endpoints_travel_only_to_a_spawned_process_and_stay_usable_if_refused(
    kind: type[LocalTransport] | type[SharedTransport],
) -> None:
    """A pickle elsewhere would be a second owner of the same ends, or of nothing at all."""
    with kind() as transport:
        transport.link("commands", source="coordinator", target="system0")
        with pytest.raises(InputError, match=r"SharedTransport|spawn start method"):
            pickle.dumps(transport.endpoints("system0"))

        transport.endpoints("coordinator").outbox("commands").send("still here")
        assert transport.endpoints("system0").inbox("commands").receive(timeout_s=10) == "still here"
        with pytest.raises(InputError, match="already in use in this process"):
            pickle.dumps(transport.endpoints("system0"))


def test_references_alone_never_fill_the_way_back() -> None:
    """A run in RAM sends references only and never waits for a slot: its releases must be read all the same.

    A pipe holds 64 KiB, some 5,400 releases; a training run that sent more came to a stop.
    """
    messages = 10_000
    with SharedTransport() as transport:
        transport.ring("weights", slots=0, slot_bytes=1, writer="memoryx", readers=["system0"])
        start(wire_roles.release_references, transport.endpoints("system0"), messages)
        transport.started()
        writer = transport.endpoints("memoryx").writer("weights")
        for number in range(messages):
            writer.commit_reference(number, timeout_s=10)
        writer.drain(timeout_s=10)

    assert writer.stats.messages == messages
