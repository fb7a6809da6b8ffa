"""What a server is asked during a measurement, and how much of it at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openwafer.base import InputError

Messages = tuple[dict[str, Any], ...]
"""A chat, as a request has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Levels of concurrency, and the requests of each."""

    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Clients at the same time; each sends its next request when it has its answer."""
    requests: int | None = None
    """Of each level; None: four of each client, and at least eight."""
    prompt_tokens: int = 128
    """Of prompts of random words, each of them new to the server."""
    chats: tuple[Messages, ...] = ()
    """Asked in turn, instead of random words."""
    answer_tokens: int = 64
    """Of every answer: no fewer are asked for, and no more."""
    temperature: float = 0.0
    seed: int = 0
    """Of the random words."""
    silence_s: float = 120.0
    """A client gives up when it has heard nothing for so long."""

    def __post_init__(self) -> None:
        """Raises InputError for a plan that measures nothing."""
        if not self.concurrency or min(self.concurrency) < 1:
            raise InputError("concurrency has to be one or more numbers from 1 up, for example 1,2,4,8")
        for name in ("requests", "prompt_tokens", "answer_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, so nothing would be measured; give at least 1")

    def requests_at(self, clients: int) -> int:
        """How many requests a level of so many clients has."""
        return self.requests if self.requests is not None else max(8, 4 * clients)

    @property
    def requests_total(self) -> int:
        """Of all levels."""
        return sum(map(self.requests_at, self.concurrency))


def read_chats(path: Path) -> tuple[Messages, ...]:
    """The chats of a JSONL file: each line a text, an object with `prompt` or `messages`, or a list of messages.

    Raises InputError, which names the line, if the file cannot be read or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompts {path} cannot be read: {error}; give a file of JSON lines") from None
    chats = tuple(_chat(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    if not chats:
        raise InputError(f"the file {path} has no prompts; write one on each line, as JSON")
    return chats


def _chat(line: str, place: str) -> Messages:
    mend = 'write "a text", {"prompt": "a text"} or {"messages": [{"role": "user", "content": "a text"}]}'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: this is no JSON ({error}); {mend}") from None
    if isinstance(value, dict):
        value = value.get("messages", value.get("prompt"))
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    if value and isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value):
        return tuple(value)
    raise InputError(f"{place}: this is no prompt; {mend}")
