"""Between hosts: who is let in, what travels once, and what a host that goes leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from wire_hosts import PLACEMENT, SECRET, TwoHosts, connections, join
from wire_roles import pattern

from openwafer.base import MIB, InputError, RoleError, RoleLost, StallError
from openwafer.wire import HostsTransport, TcpMover, _handshake, _hub, accept, connect, listen


class CountingMover(TcpMover):
    """Counts what it sends."""

    sent = 0

    def send(self, data: memoryview) -> None:
        self.sent += len(data)
        super().send(data)


def meet(secret: bytes, purpose: object = "test", kind: type = str) -> tuple[object, object]:
    """What the joining and the accepting end get of one handshake: a connection or an error."""
    with listen("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as threads:
        joining = threads.submit(connect, "127.0.0.1", listener.getsockname()[1], secret, purpose)
        accepted: object
        try:
            accepted, _ = accept(listener.accept()[0], SECRET, kind)
        except RoleError as error:
            accepted = error
        except InputError as error:
            accepted = error
        return joining.exception() or joining.result(), accepted


# --- who is let in ----------------------------------------------------------------------------------------


def test_a_wrong_secret_is_refused_and_both_ends_are_told() -> None:
    """Whoever reaches the port could otherwise read weights and send gradients."""
    joining, accepting = meet(b"another secret")

    assert isinstance(joining, InputError)
    assert "refused the connection: its token is wrong" in str(joining)
    assert isinstance(accepting, InputError)


def test_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of two versions differ, and a run that fails somewhere inside says nothing of that."""
    main = threading.current_thread()
    monkeypatch.setattr(_handshake, "version", lambda: "1.0" if threading.current_thread() is main else "0.9")

    joining, _ = meet(SECRET)

    assert isinstance(joining, InputError)
    assert "it is openwafer 0.9, and here is 1.0" in str(joining)


def test_a_coordinator_that_does_not_know_the_secret_is_found_out() -> None:
    """A host that ran the jobs of whoever listens at the port would run a stranger's."""
    with listen("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as threads:
        joining = threads.submit(connect, "127.0.0.1", listener.getsockname()[1], SECRET, "test")
        sock, _ = listener.accept()
        impostor = _handshake.Connection(sock, "here")
        impostor.send(_handshake._Challenge("openwafer", _handshake.version(), b"n" * 32))
        impostor.receive(_handshake._Answer, 5)
        impostor.send(_handshake._Verdict("", b"p" * 32))

        with pytest.raises(InputError, match="does not know the token"):
            joining.result(timeout=5)
        impostor.close()


def test_what_is_not_openwafer_is_named_instead_of_understood() -> None:
    """A wrong port often has a web server behind it, or nothing."""
    with listen("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as threads:
        port = listener.getsockname()[1]
        joining = threads.submit(connect, "127.0.0.1", port, SECRET, "test")
        listener.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} is not openwafer"):
            joining.result(timeout=5)

        visitor = socket.create_connection(("127.0.0.1", port))
        visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(RoleError, match="not openwafer's"):
            accept(listener.accept()[0], SECRET, str)
        visitor.close()
    with pytest.raises(RoleLost, match=f"nobody answers at .*:{port}"):
        connect("127.0.0.1", port, SECRET, "test")


def test_a_visitor_that_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that never speak would add up."""
    monkeypatch.setattr(_handshake, "HANDSHAKE_S", 0.1)
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        pytest.raises(StallError),
    ):
        accept(listener.accept()[0], SECRET, str)


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    """Two runs on one host: the second needs another port."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} of 127\.0\.0\.1: .*in use"):
            listen("127.0.0.1", port)


def test_a_message_to_an_end_that_takes_none_is_given_up() -> None:
    """A stopped agent acknowledges bytes until its buffers are full; then a send would wait for ever."""
    ((joined, accepted),) = connections()
    joined.limit_sends(1)
    begin = time.monotonic()

    with pytest.raises(RoleLost, match=r"the connection to .* ended"):
        joined.send(bytes(100 * MIB))

    assert time.monotonic() - begin < 20
    joined.close()
    accepted.close()


def test_a_forked_worker_keeps_no_connection_open() -> None:
    """Data loaders fork; a copy of the connection in a worker would hide the death of its parent."""
    ((joined, accepted),) = connections()
    worker = os.fork()
    if worker == 0:
        time.sleep(30)
        os._exit(0)
    try:
        os.close(joined.socket.detach())  # as a killed process does; close() would end the worker's copy, too
        with pytest.raises(RoleLost):
            accepted.receive(str, timeout_s=20)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        accepted.close()


# --- what travels -----------------------------------------------------------------------------------------


def counted(readers: list[str]) -> tuple[list[HostsTransport], CountingMover]:
    """Two hosts with a ring from the first to readers, and the mover of the first."""
    hosts = [HostsTransport(here, PLACEMENT) for here in ("host0", "host1")]
    for host in hosts:
        host.ring("weights", slots=2, slot_bytes=MIB, writer="memoryx", readers=readers)
    control, data = connections(2)
    mover = CountingMover(data[0].socket)
    hosts[0].connect("host1", control[0].socket, mover)
    hosts[1].connect("host0", control[1].socket, TcpMover(data[1].socket))
    return hosts, mover


def test_a_slot_travels_to_a_host_once_however_many_read_it_there() -> None:
    """SwarmX broadcasts over the network once per host: its systems share the memory that the bytes arrive in."""
    systems = ["system0", "system1", "system2"]
    hosts, mover = counted(systems)
    with hosts[0], hosts[1]:
        writer = hosts[0].endpoints("memoryx").writer("weights")
        readers = [hosts[1].endpoints(system).reader("weights") for system in systems]
        assert writer.shape.far == tuple(systems)

        for ticket in range(5):
            writer.acquire(timeout_s=20)[:] = pattern(ticket, MIB)
            writer.commit(ticket, MIB - ticket)
            for reader in readers:
                message = reader.receive(timeout_s=20)
                assert (message.token, bytes(message.data)) == (ticket, pattern(ticket, MIB - ticket))
                reader.release()
        writer.drain(timeout_s=20)

        assert mover.sent == sum(MIB - ticket for ticket in range(5))


def test_readers_here_and_elsewhere_get_the_same_stream() -> None:
    """MemoryX's own host may compute, too; a slot is free when the last reader of all hosts released it."""
    hosts, _ = counted(["coordinator", "system0"])
    with hosts[0], hosts[1]:
        writer = hosts[0].endpoints("memoryx").writer("weights")
        near = hosts[0].endpoints("coordinator").reader("weights")
        far = hosts[1].endpoints("system0").reader("weights")
        for ticket in range(2):
            writer.acquire(timeout_s=20)[:] = pattern(ticket, MIB)
            writer.commit(ticket)
        for reader in (near, far):
            for ticket in range(2):
                assert bytes(reader.receive(timeout_s=20).data) == pattern(ticket, MIB)
        near.release()
        with pytest.raises(StallError, match=r"coordinator \(1 held\), system0 \(2 held\)"):
            writer.acquire(timeout_s=0.05)
        far.release()
        writer.acquire(timeout_s=20)


def test_memory_is_not_shared_between_hosts() -> None:
    """Who asks for it must learn so when the job is declared, and not read zeros later."""
    with HostsTransport("host0", PLACEMENT) as transport:
        with pytest.raises(InputError, match="cannot be shared by roles on host0, host1"):
            transport.segment("store", 4096, ["memoryx", "system0"])
        with pytest.raises(InputError, match="system0 runs on host1, and this is host0"):
            transport.endpoints("system0")


# --- what goes wrong --------------------------------------------------------------------------------------


def blocked(hosts: TwoHosts) -> list[threading.Thread]:
    """Calls on both hosts that wait for the other for ever; each thread ends when its call raises RoleLost."""
    hosts.ring("weights", slots=1, slot_bytes=8 * MIB, writer="memoryx", readers=["system0"])
    hosts.ring("gradients", slots=1, slot_bytes=8, writer="system0", readers=["memoryx"])
    hosts.link("commands", source="coordinator", target="system1")
    writer = hosts.endpoints("memoryx").writer("weights")
    writer.acquire()
    writer.commit("held")
    hosts.endpoints("system0").reader("weights").receive(timeout_s=20)
    calls = [
        writer.acquire,
        hosts.endpoints("memoryx").reader("gradients").receive,
        hosts.endpoints("system0").reader("weights").receive,
        hosts.endpoints("system1").inbox("commands").receive,
    ]

    def wait(call) -> None:
        with pytest.raises(RoleLost):
            call()

    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def all_ended(threads: list[threading.Thread], within_s: float) -> bool:
    """Whether they all end in time."""
    end = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def test_a_cut_connection_is_the_loss_of_every_role_behind_it() -> None:
    """A switched-off host or a pulled cable must not leave anybody waiting, on either side."""
    with TwoHosts() as hosts:
        threads = blocked(hosts)

        hosts.sockets[0].shutdown(socket.SHUT_RDWR)

        assert all_ended(threads, 2)
        assert "host1" in hosts.hosts[0].lost
        assert "host0" in hosts.hosts[1].lost


def test_a_host_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that hangs, or loses its power, ends no connection: only its silence tells."""
    monkeypatch.setattr(_hub, "PING_S", 0.05)
    monkeypatch.setattr(_hub, "SILENCE_S", 0.4)
    control, data = connections(2)  # the other ends are held by nobody who would answer
    with HostsTransport("host0", PLACEMENT) as transport:
        transport.link("reports", source="system0", target="coordinator")
        transport.connect("host1", control[0].socket, TcpMover(data[0].socket))
        begin = time.monotonic()

        with pytest.raises(RoleLost, match="coordinator lost system0"):
            transport.endpoints("coordinator").inbox("reports").receive(timeout_s=20)

        assert time.monotonic() - begin > 0.2
        assert "nothing was heard" in transport.lost["host1"]
    for end in (control[1], data[1]):
        end.close()


def test_hosts_that_have_nothing_to_say_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long computation is no silence: the hubs talk, whatever the roles do."""
    monkeypatch.setattr(_hub, "PING_S", 0.05)
    monkeypatch.setattr(_hub, "SILENCE_S", 1.5)
    with TwoHosts() as hosts:
        time.sleep(2.5)

        hosts.settle()
        assert not hosts.hosts[0].lost


def test_a_transport_ends_while_bytes_are_on_their_way_to_a_host_that_takes_none() -> None:
    """A stopped host would otherwise keep the coordinator from ending: its mover waits for room for ever."""
    control, data = connections(2)
    transport = HostsTransport("host0", PLACEMENT)
    transport.ring("weights", slots=1, slot_bytes=64 * MIB, writer="memoryx", readers=["system0"])
    transport.connect("host1", control[0].socket, TcpMover(data[0].socket))
    writer = transport.endpoints("memoryx").writer("weights")
    writer.acquire()
    writer.commit("nobody reads this")
    time.sleep(0.1)
    begin = time.monotonic()

    transport.close()

    assert time.monotonic() - begin < 20
    for end in (control[1], data[1]):
        end.close()


def test_an_abort_on_any_host_reaches_all_of_them() -> None:
    """An agent that cannot go on is as much an end of the job as a coordinator."""
    placement = {"memoryx": "host0", "system0": "host1"}
    hosts = [HostsTransport(here, placement) for here in ("host0", "host1")]
    for host in hosts:
        host.link("results", source="system0", target="memoryx")
    sockets = join(*hosts)
    assert len(sockets) == 2
    with hosts[0], hosts[1]:
        hosts[1].abort("host1 has no more memory")

        with pytest.raises(RoleError, match="host1 has no more memory"):
            hosts[0].endpoints("memoryx").inbox("results").receive(timeout_s=20)


def test_a_host_that_leaves_is_lost_to_the_others_and_aborts_nobody() -> None:
    """Its connection to the coordinator was cut: the run goes on without it, which an abort would forbid."""
    with TwoHosts() as transport:
        transport.link("commands", source="coordinator", target="system0")
        transport.link("reports", source="system0", target="coordinator")
        inbox = transport.endpoints("coordinator").inbox("reports")
        transport.settle()

        transport.hosts[1].leave("the connection to the coordinator was cut")
        transport.hosts[1].close()

        with pytest.raises(RoleLost):
            inbox.receive(timeout_s=20)


def test_work_for_a_hub_is_done_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while the bell of earlier work is being silenced, and nothing else may ever wake the hub again."""
    monkeypatch.setattr(_hub, "PING_S", 60.0)
    hub = _hub.Hub(aborted=lambda reason: None, lost=lambda host, why: None)
    work = hub._do_calls
    begun = threading.Event()

    def slowly() -> None:
        work()
        begun.set()
        time.sleep(0.02)

    monkeypatch.setattr(hub, "_do_calls", slowly)
    try:
        for _ in range(5):
            begun.clear()
            hub._call(lambda: None)
            begun.wait(20)
            done = threading.Event()
            hub._call(done.set)
            assert done.wait(20)
    finally:
        hub.close()
