"""The REST interface on a socket: what it takes to listen beyond this machine, signals, and the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from openwafer.appliance._node import ManagementNode
from openwafer.appliance._users import Users
from openwafer.appliance.web._app import make_app
from openwafer.base import InputError, open_listener
from openwafer.base.web import is_loopback, run_until_signal, serving_in_background, web_server


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where the appliance is to be reached. Raises InputError for what would not be safe, or cannot be."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: one that is free."""
    certificate: Path | None = None
    key: Path | None = None
    """PEM files; beyond this machine nothing is said without them."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port {self.port} does not exist; choose 1 to 65535, or 0 for any that is free")
        if (self.certificate is None) != (self.key is None):
            raise InputError("a certificate needs its key and a key its certificate; give both, or neither")
        if not self.is_local and self.certificate is None:
            raise InputError(
                f"at {self.host} everybody on the network could read the tokens that come along; give --certificate and "
                "--key (PEM files), or leave --host at 127.0.0.1"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


@final
class Service:
    """A node's REST interface on a socket, bound when this is made; then `run` it once, or have it `in_background`."""

    def __init__(self, node: ManagementNode, users: Users, listen: Listen, version: str) -> None:
        """Raises InputError if the address cannot be listened on, or the certificate cannot be used."""
        self._node = node
        self._users = users
        self._listen = listen
        self._version = version
        self._tls = _tls(listen)
        self._listener = open_listener(listen.host, listen.port)
        host, port = self._listener.getsockname()[:2]
        shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
        shown = listen.host if listen.host == "localhost" else f"[{shown}]" if ":" in shown else shown
        self.url = f"{'https' if self._tls else 'http'}://{shown}:{port}"

    def run(self, ready: Callable[[], None], say: Callable[[str], None]) -> int:
        """Serve until SIGTERM or Ctrl-C, which leave jobs running, or POST /v1/cluster/down, which interrupts them first.

        ready: called when clients may come. Returns the process's exit status. To be called in the main thread.
        """

        async def serve(leaving: asyncio.Event) -> None:
            self._listener.listen()
            ready()
            await self._serve(leaving, say)

        return run_until_signal(serve)

    @contextmanager
    def in_background(self) -> Iterator[str]:
        """Serve from a thread of its own inside the `with`; gives the URL."""
        self._listener.listen()
        with serving_in_background(lambda leaving: self._serve(leaving, lambda line: None), "appliance"):
            yield self.url

    async def _serve(self, leaving: asyncio.Event, say: Callable[[str], None]) -> None:
        app = make_app(self._node, self._users, self._version)
        server = web_server(app, self._tls)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        asked = asyncio.create_task(leaving.wait())
        down = asyncio.create_task(app.state.down.wait())
        try:
            await asyncio.wait((serving, asked, down), return_when=asyncio.FIRST_COMPLETED)
            if down.done() and not serving.done():
                say(
                    "going down: running jobs are interrupted, and go on when the cluster is up again if they can"
                )
                draining = asyncio.create_task(asyncio.to_thread(self._node.drain))
                await asyncio.wait((draining, asked), return_when=asyncio.FIRST_COMPLETED)
            app.state.leaving.set()
            server.should_exit = True
            await serving
        finally:
            asked.cancel()
            down.cancel()


def _tls(listen: Listen) -> ssl.SSLContext | None:
    if listen.certificate is None or listen.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if listen.key.stat().st_mode & 0o077:
            raise InputError(f"the key {listen.key} is open to others; run: chmod 600 {listen.key}")
        context.load_cert_chain(listen.certificate, listen.key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"the certificate {listen.certificate} with the key {listen.key} cannot be used: {error}; give PEM files that "
            "belong together"
        ) from None
    return context
