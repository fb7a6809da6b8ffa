"""One choice of a chat: pieces of text to what a message has (content, reasoning, calls, probabilities)."""

from __future__ import annotations

import secrets
from typing import Literal

from msgspec import UNSET

from openwafer.serve.api._replies import (
    AssistantOut,
    CalledFunctionOut,
    ChatChoice,
    ChunkChoice,
    Finish,
    Logprobs,
    TokenOut,
    ToolCallOut,
    TopToken,
)
from openwafer.serve.engine import Piece, TokenProbability
from openwafer.serve.text import Call, CallParser, ReasoningSplitter, Tokenizer


def finish_of(piece: Piece) -> Finish:
    """The engine's word in the API's; errors and cancellations do not come as far."""
    return "length" if piece.finish == "length" else "stop"


def token_out(tokenizer: Tokenizer, probability: TokenProbability) -> TokenOut:
    """A token's probability as chats have it."""

    def spelt(token: int) -> tuple[str, list[int]]:
        data = tokenizer.token_bytes(token)
        return data.decode(errors="replace"), list(data)

    text, data = spelt(probability.token)
    top = [TopToken(spelt(t)[0], logprob, spelt(t)[1]) for t, logprob in probability.top]
    return TokenOut(text, probability.logprob, data, top)


class ChatChoiceWriter:
    """Reads the pieces of one choice; writes chunks as they come, and the whole message at the end."""

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        *,
        splitter: ReasoningSplitter | None,
        show_reasoning: bool,
        calls: CallParser | None,
        several_calls: bool,
    ) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._splitter = splitter
        self._show_reasoning = show_reasoning
        self._parser = calls
        self._several = several_calls
        self._begun = False
        self._strip = tokenizer.strips_first_space
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCallOut] = []
        self._finish: Finish = "stop"
        self._has_logprobs = False
        self._content_logprobs: list[TokenOut] = []
        self._reasoning_logprobs: list[TokenOut] = []
        self._sent = [0, 0]  # of both lists of probabilities
        self.reasoning_tokens = 0

    def add(self, piece: Piece) -> list[ChunkChoice]:
        """The chunks that a piece makes; the last, if the choice ends with it, has the reason."""
        text = piece.text
        if self._strip and text:
            text, self._strip = text.removeprefix(" "), False
        thinking = self._splitter is not None and self._splitter.inside
        delta = self._read(text, finish=piece.finish is not None)
        thinking = thinking or (self._splitter is not None and self._splitter.inside)
        if thinking:
            self.reasoning_tokens += len(piece.tokens)
        if piece.logprobs:
            self._has_logprobs = True
            kept = self._reasoning_logprobs if thinking else self._content_logprobs
            kept.extend(token_out(self._tokenizer, p) for p in piece.logprobs)
        chunks: list[ChunkChoice] = []
        if not self._begun:
            self._begun = True
            chunks.append(ChunkChoice(delta=AssistantOut(role="assistant"), index=self._index))
        if delta != AssistantOut():
            chunks.append(self._with_logprobs(ChunkChoice(delta=delta, index=self._index)))
        if piece.finish is not None:
            self._finish = finish_of(piece)
            if self._calls and self._finish == "stop":
                self._finish = "tool_calls"
            last = ChunkChoice(delta=AssistantOut(), index=self._index, finish_reason=self._finish)
            chunks.append(self._with_logprobs(last))
        return chunks

    def whole(self) -> ChatChoice:
        """The choice at its end. A message that calls has no content: clients look at the content first."""
        content = UNSET if self._calls else "".join(self._content)
        reasoning = "".join(self._reasoning)
        message = AssistantOut(
            content=content,
            role="assistant",
            reasoning=reasoning or UNSET,
            tool_calls=[ToolCallOut(c.id, c.function) for c in self._calls] or UNSET,
        )
        choice = ChatChoice(finish_reason=self._finish, index=self._index, message=message)
        if self._has_logprobs:
            choice.logprobs = Logprobs(self._content_logprobs)
            if self._reasoning_logprobs and self._show_reasoning:
                choice.reasoning_logprobs = Logprobs(self._reasoning_logprobs)
        return choice

    def _read(self, text: str, *, finish: bool) -> AssistantOut:
        parts: list[tuple[Literal["reasoning", "content"], str]]
        if self._splitter is None:
            parts = [("content", text)]
        else:
            parts = [*self._splitter.push(text), *(self._splitter.finish() if finish else ())]
        reasoning = "".join(t for kind, t in parts if kind == "reasoning") if self._show_reasoning else ""
        said = "".join(t for kind, t in parts if kind == "content")
        items: list[str | Call] = [said]
        if self._parser is not None:
            items = [*self._parser.push(said), *(self._parser.finish() if finish else ())]
        content = ""
        calls: list[ToolCallOut] = []
        for item in items:
            if isinstance(item, Call):
                if self._several or not self._calls:
                    function = CalledFunctionOut(item.name, item.arguments)
                    index = len(self._calls)
                    calls.append(ToolCallOut(secrets.token_hex(5)[:9], function, index=index))
                    self._calls.append(calls[-1])
            elif not self._calls:  # either content or calls, as far as it can be known
                content += item
        self._reasoning.append(reasoning)
        self._content.append(content)
        return AssistantOut(content=content or UNSET, reasoning=reasoning or UNSET, tool_calls=calls or UNSET)

    def _with_logprobs(self, chunk: ChunkChoice) -> ChunkChoice:
        content = self._content_logprobs[self._sent[0] :]
        reasoning = self._reasoning_logprobs[self._sent[1] :]
        self._sent = [len(self._content_logprobs), len(self._reasoning_logprobs)]
        if content:
            chunk.logprobs = Logprobs(content)
        if reasoning and self._show_reasoning:
            chunk.reasoning_logprobs = Logprobs(reasoning)
        return chunk
