"""A request's bytes to plain values: limits, gzip, JSON and MessagePack. Nothing here knows what the values mean."""

from __future__ import annotations

import asyncio
import math
import zlib
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from openwafer.base import format_bytes
from openwafer.serve.api._errors import INVALID, ApiError, invalid
from openwafer.serve.api._settings import Settings

_MESSAGE_PACK = frozenset({"application/vnd.msgpack", "application/msgpack", "application/x-msgpack"})
_DEEPEST = 100
"""Levels of nesting. A grammar library recurses over a schema, and a stack that ends ends the process."""


async def read_value(request: Request, settings: Settings) -> Any:
    """The value that a request carries. Raises ApiError: 400, 408 (too slow), 413 (too large), 415 (unknown coding)."""
    try:
        data = await asyncio.wait_for(_read(request, settings.max_body_bytes), settings.body_timeout_s)
    except TimeoutError:
        raise ApiError(
            408, f"The request's body did not arrive within {settings.body_timeout_s:g} s.", kind=INVALID
        ) from None
    except ClientDisconnect:
        raise invalid("The client went away before its request was complete.") from None
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        value = msgspec.msgpack.decode(data) if kind in _MESSAGE_PACK else msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError) as e:
        form = "MessagePack" if kind in _MESSAGE_PACK else "JSON"
        raise invalid(f"The request's body is not {form}: {e}") from e
    _check_plain(value)
    return value


async def _read(request: Request, limit: int) -> bytes:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", ""):
        raise ApiError(
            415, f"Content-Encoding {coding!r} is not supported; send gzip or no coding.", kind=INVALID
        )
    gzip = _Gzip(limit) if coding == "gzip" else None
    data = bytearray()
    async for chunk in request.stream():
        data += gzip.push(chunk) if gzip else chunk
        if len(data) > limit:
            raise _too_large(limit)
    if gzip and not gzip.complete:
        raise invalid("The request's body is not gzip: it ends too early.")
    return bytes(data)


class _Gzip:
    """Decompresses up to a limit: a small body may unpack to gigabytes."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit
        self._stream = zlib.decompressobj(wbits=31)
        self.complete = False

    def push(self, data: bytes) -> bytes:
        unpacked = bytearray()
        while data:
            if self.complete:  # another member; both are one body
                self._stream, self.complete = zlib.decompressobj(wbits=31), False
            try:
                # One more than may come, so that too much shows.
                part = self._stream.decompress(data, self._left + 1)
            except zlib.error as e:
                raise invalid(f"The request's body is not gzip: {e}") from e
            self._left -= len(part)
            if self._left < 0:
                raise _too_large(self._limit)
            unpacked += part
            self.complete = self._stream.eof
            data = self._stream.unused_data or self._stream.unconsumed_tail
        return bytes(unpacked)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"The request is larger than {format_bytes(limit)}; send less of it.", code="request_too_large"
    )


def _check_plain(value: Any) -> None:
    """MessagePack can hold what JSON cannot, and both what no schema bounds: depth, and numbers that are none."""
    level = [value]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for item in level:
            match item:
                case dict():
                    if not all(isinstance(k, str) for k in item):
                        raise invalid("The request has a key that is not a text.")
                    deeper.extend(item.values())
                case list():
                    deeper.extend(item)
                case float() if not math.isfinite(item):
                    raise invalid("The request has a number that is not finite.")
                case None | bool() | int() | float() | str():
                    pass
                case _:
                    raise invalid(f"The request has a value that JSON cannot hold ({type(item).__name__}).")
        if not deeper:
            return
        level = deeper
    raise invalid(f"The request is nested deeper than {_DEEPEST} levels.")
