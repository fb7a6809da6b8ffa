"""Two hosts in one process: a transport each, connected over loopback, behind the interface of one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from openwafer.wire import Connection, Endpoints, HostsTransport, TcpMover, accept, connect, listen

SECRET = b"a secret of the tests"
PLACEMENT = {name: "host0" for name in ("memoryx", "coordinator", "prober")}
PLACEMENT |= {name: "host1" for name in ("system0", "system1", "system2", "echo", "a")}


def connections(count: int = 1) -> list[tuple[Connection, Connection]]:
    """Pairs of proven ends of loopback connections."""
    pairs = []
    with listen("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as threads:
        for _ in range(count):
            joining = threads.submit(connect, "127.0.0.1", listener.getsockname()[1], SECRET, "test")
            accepted, purpose = accept(listener.accept()[0], SECRET, str)
            assert purpose == "test"
            pairs.append((accepted, joining.result()))
    return pairs


def join(first: HostsTransport, second: HostsTransport) -> list[socket.socket]:
    """Connect two hosts; returns their ends of the control connection."""
    control, data = connections(2)
    for transport, other, here in ((first, second, 0), (second, first, 1)):
        transport.connect(other.here, control[here].socket, TcpMover(data[here].socket))
    return [end.socket for end in control]


class TwoHosts:
    """The interface of a Transport, over two hosts: MemoryX and the coordinator on one, systems on the other."""

    def __init__(self) -> None:
        self.hosts = [HostsTransport(here, PLACEMENT) for here in ("host0", "host1")]
        self.link("probes", source="prober", target="echo")
        self.link("answers", source="echo", target="prober")
        self.sockets = join(*self.hosts)

    def link(self, name: str, source: str, target: str) -> None:
        """Declare on both hosts."""
        self._both(lambda host: host.link(name, source=source, target=target))

    def ring(self, name: str, *, slots: int, slot_bytes: int, writer: str, readers: Sequence[str]) -> None:
        """Declare on both hosts."""
        self._both(
            lambda host: host.ring(name, slots=slots, slot_bytes=slot_bytes, writer=writer, readers=readers)
        )

    def endpoints(self, role: str) -> Endpoints:
        """From the role's host."""
        return self.hosts[PLACEMENT.get(role) == "host1"].endpoints(role)

    def settle(self) -> None:
        """Return when what was sent or closed before this call has reached the other host."""
        for _ in range(2):
            self.endpoints("prober").outbox("probes").send(None)
            self.endpoints("echo").inbox("probes").receive(timeout_s=20)
            self.endpoints("echo").outbox("answers").send(None)
            self.endpoints("prober").inbox("answers").receive(timeout_s=20)

    def started(self) -> None:
        """All roles are threads."""

    def abort(self, reason: str) -> None:
        """On the first host, which tells the second."""
        self.hosts[0].abort(reason)

    def close(self) -> None:
        """Close both."""
        for host in self.hosts:
            host.close()

    def __enter__(self) -> TwoHosts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for host in self.hosts:
            host.__exit__(kind, error, trace)

    def _both(self, declare: Callable[[HostsTransport], None]) -> None:
        for host in self.hosts:
            declare(host)
