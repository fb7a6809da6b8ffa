"""A server in a process of its own, for a program that measures it: neither takes the other's interpreter."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from rich.console import Console

from openwafer.base import EngineError, WaferError, configure_logs
from openwafer.base.processes import ignore_interrupts, start_process
from openwafer.serve.service._config import ServiceConfig
from openwafer.serve.service._service import Service

_END_S = 30.0


@contextmanager
def serve_apart(config: ServiceConfig) -> Iterator[str]:
    """Serve inside the `with`; gives the URL when the model is loaded. How far loading is goes to standard error.

    The process ends with the `with`, and with this process, however it ends. To be called in the main thread.

    Raises what `Service` raises, and EngineError if the process ends by itself while it loads.
    """
    ours, theirs = multiprocessing.Pipe()
    process = start_process(_serve, (config, theirs), "server", daemon=False)  # it may have stages
    theirs.close()
    is_ready = False
    try:
        try:
            told: str | WaferError = ours.recv()
        except EOFError:
            process.join()
            raise EngineError(
                f"the server's process ended with status {process.exitcode} while it loaded; see what it wrote above"
            ) from None
        if isinstance(told, WaferError):
            raise told
        is_ready = True
        yield told
    finally:
        ours.close()
        if not is_ready:
            process.terminate()
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(config: ServiceConfig, parent: Connection) -> None:
    ignore_interrupts()
    configure_logs()
    # The connection ends when the other process wants this one to end, or has ended itself; nothing else comes on it.
    with suppress(BrokenPipeError):
        try:
            with Service(config, Console(stderr=True)).in_background() as url:
                parent.send(url)
                parent.poll(None)
        except WaferError as error:
            parent.send(error)
