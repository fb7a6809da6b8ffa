"""What our web servers have in common: a life between a signal and an event, and whom they tell apart.

Not among the names of `openwafer.base`, because it imports uvicorn.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import uvicorn

Serve: TypeAlias = Callable[[asyncio.Event], Awaitable[None]]
"""Serves until the event is set, or longer if it has to."""

_CLOSE_S = 5
"""For connections to take the last bytes of answers that have ended."""


class _Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn would close its sockets at once, and what comes then could not be told why."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def web_server(app: Any, tls: ssl.SSLContext | None = None) -> uvicorn.Server:
    """A server of an ASGI application for `serve(sockets=[...])`; it writes no log and takes no signals."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=_CLOSE_S,
    )
    config.load()
    config.ssl = tls
    return _Server(config)


def run_until_signal(serve: Serve, on_signal: Callable[[int], None] = lambda count: None) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the process's exit status: 130 after Ctrl-C, else 0.

    on_signal: called with how many have come, in the thread that serves. To be called in the main thread.
    """
    caught: list[int] = []

    async def run() -> None:
        loop, leaving = asyncio.get_running_loop(), asyncio.Event()

        def leave(number: int) -> None:
            caught.append(number)
            leaving.set()
            on_signal(len(caught))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave, number)
        await serve(leaving)

    asyncio.run(run())
    return 130 if caught and caught[0] == signal.SIGINT else 0


@contextmanager
def serving_in_background(serve: Serve, name: str) -> Iterator[None]:
    """Serve in a thread of this name inside the `with`; its end sets the event and waits."""
    started = threading.Event()
    stop: list[Callable[[], object]] = []

    async def run() -> None:
        loop, leaving = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(leaving.set))
        started.set()
        await serve(leaving)

    thread = threading.Thread(target=lambda: asyncio.run(run()), name=name, daemon=True)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        stop[0]()
        thread.join()


def foreign_origin(headers: Mapping[str, str]) -> str | None:
    """The origin of another site's page, which a browser sends along; None for our own pages and for programs."""
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return None
    return origin


def is_loopback(host: str) -> bool:
    """Whether an address or name can mean nothing but this machine."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
