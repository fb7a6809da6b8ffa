"""Moves bytes between the roles of a cluster: threads of one process, processes of one host, or of several.

Tensors lie in segments (page-aligned buffers that both ends map); what travels are small
tokens. A `Link` carries messages one way (`Outbox` to `Inbox`); a ring carries a stream of
slots from one `RingWriter` to every `RingReader`, with backpressure. A `Transport` makes them
by name before the roles start and gives each role its `Endpoints`; a role cannot tell which
transport it runs on.

    with SharedTransport() as transport:
        transport.link("commands", source="coordinator", target="system0")
        transport.ring("weights", slots=3, slot_bytes=1 << 20, writer="memoryx", readers=["system0"])
        for role in ("memoryx", "system0"):
            spawn.Process(target=run_role, args=(transport.endpoints(role),)).start()
        transport.started()
        transport.endpoints("coordinator").outbox("commands").send({"step": 1})
"""

from openwafer.wire._endpoints import Endpoints
from openwafer.wire._errors import Aborted
from openwafer.wire._handshake import Connection, accept, connect, listen, version
from openwafer.wire._hosts import HostsTransport
from openwafer.wire._link import Inbox, Outbox
from openwafer.wire._local import LocalTransport
from openwafer.wire._memory import available_memory_bytes
from openwafer.wire._mover import Mover, TcpMover
from openwafer.wire._ring import RingMessage, RingStats
from openwafer.wire._ring_reader import RingReader
from openwafer.wire._ring_writer import RingWriter
from openwafer.wire._segment import Segment
from openwafer.wire._shared import SharedTransport
from openwafer.wire._transport import Transport
from openwafer.wire._wait import wait_any

__all__ = [
    "Aborted",
    "Connection",
    "Endpoints",
    "HostsTransport",
    "Inbox",
    "LocalTransport",
    "Mover",
    "Outbox",
    "RingMessage",
    "RingReader",
    "RingStats",
    "RingWriter",
    "Segment",
    "SharedTransport",
    "TcpMover",
    "Transport",
    "accept",
    "available_memory_bytes",
    "connect",
    "listen",
    "version",
    "wait_any",
]
