"""The socket that a server listens on, and what a user is told where there is none."""

from __future__ import annotations

import errno
import socket

from openwafer.base.errors import InputError


def open_listener(host: str, port: int) -> socket.socket:
    """A bound socket; connections are refused until its owner calls `listen`.

    Raises InputError if the address is not this machine's or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(
            f"{host!r} is no address of this machine ({error.strerror}); use 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    try:
        # A server that ended leaves connections behind that would keep its port for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise listen_error(error, host, port) from None
    return listener


def listen_error(error: OSError, host: str, port: int) -> InputError:
    """What a user is told if the system does not give the address."""
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"port {port} of {host} is in use, perhaps by another server; choose another with --port, or 0 for any"
        )
    if error.errno == errno.EACCES:
        return InputError(
            f"port {port} needs rights that this process lacks; choose one above 1023 with --port"
        )
    return InputError(f"{host}:{port} cannot be listened on ({error.strerror}); choose another --host")


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
