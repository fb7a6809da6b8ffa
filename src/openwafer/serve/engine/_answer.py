"""Pieces on their way from the engine's thread to whoever reads them, in an event loop or in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import final

from openwafer.serve.engine._request import Piece


@final
class Answer:
    """The pieces of all choices of a request, to be read once: by `async for`, or by `for` in a thread.

    A slow reader finds what came meanwhile joined to one piece for each choice. The last piece of a choice has `finish`.
    """

    def __init__(self, choices: int, cancel: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._unfinished = choices
        self._cancel = cancel
        self._wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """No more pieces are wanted; may be called at any time, by any thread, and twice.

        Choices that have not ended end as cancelled, and their blocks are free before the engine's next batch.
        """
        self._cancel()

    def deliver(self, piece: Piece) -> None:
        """For the engine: one more piece."""
        with self._lock:
            for i, waiting in enumerate(self._pieces):
                if waiting.choice == piece.choice:
                    self._pieces[i] = _joined(waiting, piece)
                    break
            else:
                self._pieces.append(piece)
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        loop = asyncio.get_running_loop()
        came = asyncio.Event()

        def wake() -> None:
            # A loop that is closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(came.set)

        while self._unfinished:
            came.clear()
            piece = self._next(wake)
            if piece is None:
                await came.wait()
            else:
                yield piece

    def __iter__(self) -> Iterator[Piece]:
        came = threading.Event()
        while self._unfinished:
            came.clear()
            piece = self._next(came.set)
            if piece is None:
                came.wait()
            else:
                yield piece

    def _next(self, wake: Callable[[], None]) -> Piece | None:
        with self._lock:
            if not self._pieces:
                self._wake = wake
                return None
            piece = self._pieces.popleft()
            if piece.finish is not None:
                self._unfinished -= 1
            return piece


def _joined(first: Piece, then: Piece) -> Piece:
    return replace(
        then,
        text=first.text + then.text,
        tokens=first.tokens + then.tokens,
        logprobs=first.logprobs + then.logprobs,
    )
