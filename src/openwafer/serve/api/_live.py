"""A response while its answer is still being made: shows life to the client, and notices when it goes away."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openwafer.serve.api._errors import ApiError, as_api_error

Body = AsyncGenerator[bytes, None]


class LiveResponse(Response):
    """Sends what `body` yields. Until then, and whenever nothing came for a while, it sends a beat.

    An error before the first byte is a plain error response. After it the status is sent already, so the error
    goes into the body, in the shape that the client libraries look for there.
    """

    def __init__(
        self,
        body: Body,
        *,
        headers: Mapping[str, str],
        stream: bool,
        heartbeat_s: float,
        closed: Callable[[int], None],
    ) -> None:
        """stream: server-sent events, beats are comments; else one JSON value, and beats are spaces before it.

        closed: called once in any case with the status, 499 if the client went away.
        """
        self._body = body
        self._fields = dict(headers)
        self._stream = stream
        self._heartbeat_s = heartbeat_s
        self._closed = closed
        self._started = False
        self._sent_at = time.monotonic()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499
        sending = anyio.Lock()
        try:
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                async def beat() -> None:
                    while True:
                        await anyio.sleep(max(0.01, self._sent_at + self._heartbeat_s - time.monotonic()))
                        if time.monotonic() - self._sent_at >= self._heartbeat_s:
                            async with sending:
                                await self._write(send, b": ping\n\n" if self._stream else b" ")

                group.start_soon(leave)
                group.start_soon(beat)
                status = await self._run(send, sending)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            # A send that fails is a client that went away; anything else is ours to see.
            _, others = errors.split(OSError)
            if others:
                raise others from None
        finally:
            with anyio.CancelScope(shield=True):
                await self._body.aclose()
            self._closed(status)

    async def _run(self, send: Send, sending: anyio.Lock) -> int:
        try:
            async with aclosing(self._body) as parts:
                async for part in parts:
                    async with sending:
                        if not self._stream and not self._started:
                            await self._whole(send, Response(part, 200, self._fields, "application/json"))
                            return 200
                        await self._write(send, part)
            status = 200
        except Exception as e:
            if isinstance(e, OSError):
                raise
            error = as_api_error(e)
            status = error.status
            async with sending:
                if not self._started:
                    await self._whole(send, error.response(self._fields))
                    return status
                await self._write(send, self._late(error))
        async with sending:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        return status

    def _late(self, error: ApiError) -> bytes:
        text = error.body(wrapped=True)
        return b"data: " + text + b"\n\ndata: [DONE]\n\n" if self._stream else text

    async def _whole(self, send: Send, response: Response) -> None:
        self._started = True
        self._sent_at = float("inf")
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await send({"type": "http.response.body", "body": response.body})

    async def _write(self, send: Send, part: bytes) -> None:
        if not self._started:
            self._started = True
            kind = "text/event-stream; charset=utf-8" if self._stream else "application/json"
            # Proxies that collect a response before they pass it on would make streams pointless.
            more = {"cache-control": "no-cache", "x-accel-buffering": "no", "content-type": kind}
            headers = [(k.encode(), v.encode()) for k, v in {**self._fields, **more}.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._sent_at = time.monotonic()
        await send({"type": "http.response.body", "body": part, "more_body": True})
