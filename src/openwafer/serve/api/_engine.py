"""What the API asks of the engine. `openwafer.serve.engine.Engine` is one; tests write their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from openwafer.serve.engine import Piece, Request


class AnswerLike(Protocol):
    """The pieces of a request's choices, as they come."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def cancel(self) -> None:
        """No more pieces are wanted; may be called at any time, and twice."""


class EngineLike(Protocol):
    """Takes requests, and tells how it is."""

    def submit(self, request: Request, client: str = "") -> AnswerLike:
        """Raises QueueFullError, ContextLengthError, or EngineError if no requests are taken."""

    def statistics(self) -> Any:
        """Numbers by name."""
