"""Connections between hosts: TCP, and nobody is listened to who has not shown that he knows the secret.

Both ends prove it, by an HMAC over what the other drew at random, so that the secret itself never travels. What
follows is neither encrypted nor signed: the secret keeps strangers out, not somebody who can change the traffic.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib.metadata
import os
import secrets
import socket
import struct
import time
import weakref
from typing import Any, TypeVar

import msgspec

from openwafer.base import InputError, RoleError, RoleLost, StallError

HANDSHAKE_S = 10.0
"""How long either end of a new connection may take to say who it is."""
_GREETING = "openwafer"
_LENGTH = struct.Struct("<I")
_HANDSHAKE_BYTES = 64 * 1024
_FRAME_BYTES = (1 << 32) - 1
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}

M = TypeVar("M")

_living: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def version() -> str:
    """The version of this installation: hosts of one cluster must have the same."""
    return importlib.metadata.version("openwafer")


class _Challenge(msgspec.Struct, frozen=True):
    greeting: str
    version: str
    nonce: bytes


class _Answer(msgspec.Struct, frozen=True):
    version: str
    nonce: bytes
    purpose: bytes
    proof: bytes


class _Verdict(msgspec.Struct, frozen=True):
    refused: str
    """Why, in words; empty if the connection stands."""
    proof: bytes = b""


class Connection:
    """A TCP connection whose other end proved that it knows the secret: messages both ways, blocking.

    `socket` may be taken over once no message is on its way: nothing is read ahead.
    """

    def __init__(self, sock: socket.socket, where: str) -> None:
        self.socket = sock
        self.where = where
        """The other end, as errors name it."""

    def limit_sends(self, seconds: int) -> None:
        """From now on a `send` that the other end takes nothing of for so long is RoleLost: that end has stopped."""
        # Not settimeout(), which would be for the thread that receives, too.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", seconds, 0))

    def send(self, message: object) -> None:
        """Send one message as msgpack. Raises RoleLost if the other end has gone."""
        frame = msgspec.msgpack.encode(message)
        try:
            self.socket.sendall(_LENGTH.pack(len(frame)) + frame)
        except OSError as error:
            raise self._gone(error) from error

    def receive(self, kind: type[M] | Any, timeout_s: float | None = None, limit: int = _FRAME_BYTES) -> M:
        """Wait for one message. Raises RoleLost, StallError after `timeout_s`, RoleError for what is no `kind`."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        nbytes = _LENGTH.unpack(self._take(_LENGTH.size, end))[0]
        if nbytes > limit:
            raise RoleError(
                f"a message of {nbytes} bytes came where {limit} are the most; it is not openwafer's"
            )
        frame = self._take(nbytes, end)
        try:
            message: M = msgspec.msgpack.decode(frame, type=kind)
        except msgspec.MsgspecError as error:
            raise RoleError(f"a message came that nobody here understands: {error}") from error
        return message

    def _take(self, nbytes: int, end: float | None) -> bytes:
        data = bytearray()
        while len(data) < nbytes:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise StallError("the other end of a connection said nothing for too long")
            try:
                self.socket.settimeout(left)
                piece = self.socket.recv(min(nbytes - len(data), 1 << 20))
            except TimeoutError:
                continue
            except OSError as error:
                raise self._gone(error) from error
            finally:
                with contextlib.suppress(OSError):
                    self.socket.settimeout(None)
            if not piece:
                raise self._gone()
            data += piece
        return bytes(data)

    def _gone(self, error: OSError | None = None) -> RoleLost:
        why = f": {error.strerror or error}" if error is not None else ""
        return RoleLost(f"the connection to {self.where} ended{why}; see whether openwafer still runs there")

    def close(self) -> None:
        """End the connection, also under a thread that waits for it. A second call does nothing."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def listen(address: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError if the port is taken or the address is none of this host's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, port), family=family, backlog=64)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"nothing can listen on port {port} of {address}: {why}; end the program that has the port, choose another, "
            "or give an address of this host"
        ) from error
    _living.add(listener)
    return listener


def connect(
    address: str, port: int, secret: bytes, purpose: object, timeout_s: float = HANDSHAKE_S
) -> Connection:
    """Connect and prove ourselves; `purpose` tells the other end what the connection is for.

    Raises RoleLost if nobody listens there, InputError if the other end refuses us, has another secret or is of
    another version, StallError if it says nothing.
    """
    try:
        sock = socket.create_connection((address, port), timeout=timeout_s)
    except OSError as error:
        raise RoleLost(
            f"nobody answers at {address}:{port}: {error.strerror or error}; start the other side, or check host, port "
            "and firewall"
        ) from error
    connection = _ready(sock, f"{address}:{port}")
    try:
        _introduce(connection, secret, msgspec.msgpack.encode(purpose), timeout_s)
    except BaseException:
        connection.close()
        raise
    return connection


def _introduce(connection: Connection, secret: bytes, purpose: bytes, timeout_s: float) -> None:
    where = connection.where
    try:
        challenge: _Challenge = connection.receive(_Challenge, timeout_s, _HANDSHAKE_BYTES)
    except StallError as error:
        raise StallError(f"{where} did not answer for {timeout_s:.0f} s; is it openwafer?") from error
    except RoleLost:
        raise
    except RoleError as error:
        raise InputError(f"what listens at {where} is not openwafer; check host and port") from error
    if challenge.greeting != _GREETING:
        raise InputError(f"what listens at {where} is not openwafer; check host and port")
    nonce = secrets.token_bytes(32)
    proof = _proof(secret, b"joins", challenge.nonce, nonce, purpose)
    connection.send(_Answer(version(), nonce, purpose, proof))
    verdict: _Verdict = connection.receive(_Verdict, timeout_s, _HANDSHAKE_BYTES)
    if verdict.refused:
        raise InputError(f"{where} refused the connection: {verdict.refused}")
    expected = _proof(secret, b"accepts", challenge.nonce, nonce, purpose)
    if not hmac.compare_digest(verdict.proof, expected):
        raise InputError(f"what listens at {where} does not know the token; check host and port")


def accept(sock: socket.socket, secret: bytes, kind: type[M] | Any) -> tuple[Connection, M]:
    """Examine a connection that a listener accepted; returns it and its purpose, decoded as `kind`.

    Raises InputError for a wrong secret, another version or another purpose, after telling the other end; RoleLost
    and StallError if it goes or says nothing. Nothing that it sent is looked into before it proved itself.
    """
    connection = _ready(sock, _name(sock))
    try:
        return connection, _examine(connection, secret, kind)
    except BaseException:
        connection.close()
        raise


def _examine(connection: Connection, secret: bytes, kind: type[M] | Any) -> M:
    nonce = secrets.token_bytes(32)
    connection.send(_Challenge(_GREETING, version(), nonce))
    answer: _Answer = connection.receive(_Answer, HANDSHAKE_S, _HANDSHAKE_BYTES)
    refused = ""
    if answer.version != version():
        refused = f"it is openwafer {answer.version}, and here is {version()}; install the same on all hosts"
    elif not hmac.compare_digest(answer.proof, _proof(secret, b"joins", nonce, answer.nonce, answer.purpose)):
        refused = "its token is wrong; give every host a copy of the same token file"
    if refused:
        connection.send(_Verdict(refused))
        raise InputError(refused)
    connection.send(_Verdict("", _proof(secret, b"accepts", nonce, answer.nonce, answer.purpose)))
    try:
        purpose: M = msgspec.msgpack.decode(answer.purpose, type=kind)
    except msgspec.MsgspecError as error:
        raise InputError(f"it wants what nobody here offers: {error}") from error
    return purpose


def _proof(secret: bytes, who: bytes, challenge: bytes, nonce: bytes, purpose: bytes) -> bytes:
    parts = b"".join(_LENGTH.pack(len(part)) + part for part in (who, challenge, nonce, purpose))
    return hmac.digest(secret, parts, "sha256")


def _ready(sock: socket.socket, where: str) -> Connection:
    _living.add(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    sock.settimeout(None)
    return Connection(sock, where)


def _name(sock: socket.socket) -> str:
    try:
        address, port, *_ = sock.getpeername()
    except OSError:
        return "a host that left at once"
    return f"{address}:{port}"


def _close_after_fork() -> None:
    # A data loader's worker that held a copy would hide the death of its parent from the other hosts.
    for sock in list(_living):
        sock.close()


os.register_at_fork(after_in_child=_close_after_fork)
