"""The gRPC server that stands beside a management node, for the vendor's training client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, final

from openwafer.appliance import ManagementNode
from openwafer.base import InputError
from openwafer.compat.appliance._callers import WhoIs
from openwafer.compat.appliance._csctl import Csctl
from openwafer.compat.appliance._management import LEASE_S, Management
from openwafer.compat.appliance._service import MAX_MESSAGE_BYTES, generic_handler
from openwafer.compat.appliance._wheel import wheel

PORT = 9000
_THREADS = 256
"""Each client holds one for its heartbeats, and one while it waits for its job."""


def open_server(handlers: list[Any], address: str, threads: int) -> tuple[Any, int]:
    """A started gRPC server and its port. Raises InputError if the address cannot be listened on."""
    grpc = wheel().grpc
    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="client-call"),
        handlers=handlers,
        options=[
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            # The client pings without calls; by default that is taken for an attack.
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise InputError(f"cannot listen on {address}; is another appliance using it? Choose another port")
    server.start()
    return server, int(port)


@final
class ClientDoor:
    """Serves ClusterManagement and CsCtlV1 on 127.0.0.1 while it is open. Use as a context manager.

    `address` is what a client program gives as mgmt_address. Raises InputError if the wheel with the protocol's messages is
    not installed, or if the port is taken.
    """

    def __init__(
        self,
        node: ManagementNode,
        who_is: WhoIs,
        port: int = PORT,
        *,
        lease_s: float = LEASE_S,
        client_python: str = "",
    ) -> None:
        """who_is: token -> Caller, or None for nobody's. port 0: any that is free. client_python: the interpreter of every
        client's input workers; "": that of the environment from which the client came."""
        parts = wheel()
        management = parts.cluster.DESCRIPTOR.services_by_name["ClusterManagement"]
        csctl = parts.csctl.DESCRIPTOR.services_by_name["CsCtlV1"]
        self._server, self.port = open_server(
            [
                generic_handler(management, Management(node, who_is, lease_s, client_python)),
                generic_handler(csctl, Csctl(node, who_is)),
            ],
            f"127.0.0.1:{port}",
            _THREADS,
        )

    @property
    def address(self) -> str:
        """`localhost:PORT`: under this name the client does not try to ping the machine first."""
        return f"localhost:{self.port}"

    def close(self) -> None:
        """End every call and stop listening. Jobs run on."""
        self._server.stop(grace=None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
