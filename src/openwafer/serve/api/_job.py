"""The engine's answers to one HTTP request: submitted together, read as one stream, counted, cancelled together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from openwafer.serve.api._engine import AnswerLike, EngineLike
from openwafer.serve.api._errors import ApiError, invalid
from openwafer.serve.api._replies import CompletionDetails, PromptDetails, TimeInfo, UsageOut
from openwafer.serve.engine import Piece, Request


class Job:
    """All choices of one HTTP request. Choice i of prompt p has the number p * n + i."""

    def __init__(self, engine: EngineLike, requests: Sequence[Request], client: str, arrived: float) -> None:
        """Submits the requests. arrived: time.monotonic() when the HTTP request began.

        Raises what `engine.submit` raises; then nothing of this job runs.
        """
        self._answers: list[AnswerLike] = []
        self.arrived = arrived
        self._began = time.time() - (time.monotonic() - arrived)
        self._left = sum(r.n for r in requests)
        self._offsets = [sum(r.n for r in requests[:i]) for i in range(len(requests))]
        self.prompt_tokens = sum(len(r.prompt) for r in requests)
        self.max_tokens = sum(r.n * (r.max_tokens or 0) for r in requests)
        """Of all choices together."""
        self.tier = requests[0].tier
        self._last: list[Piece] = []
        self.completion_tokens = 0
        """So far."""
        self.first_token_s: float | None = None
        """From the beginning of the HTTP request to the first token."""
        try:
            for request in requests:
                self._answers.append(engine.submit(request, client))
        except BaseException:
            self.cancel()
            raise

    @property
    def complete(self) -> bool:
        """Every choice has come to its end."""
        return self._left == 0

    def cancel(self) -> None:
        """Free what the answers hold; nothing happens to those that are complete."""
        for answer in self._answers:
            answer.cancel()

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Every piece with the number of its choice. Raises ApiError if a choice ends with an error."""
        if len(self._answers) == 1:
            async for piece in self._answers[0]:
                self._count(piece)
                yield piece.choice, piece
        else:
            async for offset, piece in _merged(self._answers, self._offsets):
                self._count(piece)
                yield offset + piece.choice, piece
        if not self.complete:
            raise ApiError(503, "The answer ended before it was complete.", kind="server_error")

    def _count(self, piece: Piece) -> None:
        if piece.tokens and self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.arrived
        self.completion_tokens += len(piece.tokens)
        if piece.finish is None:
            return
        self._left -= 1
        self._last.append(piece)
        if piece.finish == "error" and piece.refused:
            # The first line says what; the others are the grammar library's inner state.
            raise invalid(piece.error.split("\n")[0], "response_format")
        if piece.finish == "error":
            message = piece.error or "Encountered a server error, please try again."
            raise ApiError(503, message, kind="server_error", code="unavailable", retry_after_s=1.0)
        if piece.finish == "cancelled":
            message = piece.error or "The server is shutting down; please try again."
            raise ApiError(503, message, kind="server_error", code="unavailable", retry_after_s=5.0)

    def usage(self, reasoning_tokens: int) -> UsageOut:
        """Tokens of all choices; a prompt counts once however many choices it has."""
        usages = [p.usage for p in self._last if p.usage is not None]
        completion = sum(u.completion_tokens for u in usages)
        return UsageOut(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=completion,
            total_tokens=self.prompt_tokens + completion,
            prompt_tokens_details=PromptDetails(max((u.cached_tokens for u in usages), default=0)),
            completion_tokens_details=CompletionDetails(
                accepted_prediction_tokens=sum(u.accepted_prediction_tokens for u in usages),
                rejected_prediction_tokens=sum(u.rejected_prediction_tokens for u in usages),
                reasoning_tokens=reasoning_tokens,
            ),
        )

    def time_info(self) -> TimeInfo:
        """The longest of each phase over the choices; the total is never less than their sum."""
        times = [p.times for p in self._last if p.times is not None]
        queue = max((t.queue_s for t in times), default=0.0)
        prompt = max((t.prompt_s for t in times), default=0.0)
        completion = max((t.completion_s for t in times), default=0.0)
        return TimeInfo(
            queue_time=queue,
            prompt_time=prompt,
            completion_time=completion,
            total_time=max(time.monotonic() - self.arrived, queue + prompt + completion, 1e-6),
            created=self._began,
        )


async def _merged(answers: Sequence[AnswerLike], offsets: Sequence[int]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of several answers in the order in which they come."""
    found: asyncio.Queue[Callable[[], tuple[int, Piece] | None]] = asyncio.Queue(maxsize=64)

    async def read(answer: AnswerLike, offset: int) -> None:
        try:
            async for piece in answer:
                await found.put(lambda piece=piece: (offset, piece))  # type: ignore[misc]
        except Exception as e:
            error = e

            def fail() -> None:
                raise error

            await found.put(fail)
        else:
            await found.put(lambda: None)

    readers = [asyncio.create_task(read(a, o)) for a, o in zip(answers, offsets, strict=True)]
    try:
        left = len(readers)
        while left:
            item = (await found.get())()
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
