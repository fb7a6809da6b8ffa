"""Files that grow, as server-sent events: from a byte on, until the job has ended and everything was sent.

id: where the next event begins; a client that lost its connection asks from there
data: what came; event `end` with the job's state closes the stream
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec

from openwafer.appliance._node import ManagementNode

_POLL_S = 0.2
_BEAT_S = 15.0


class Piece(NamedTuple):
    """What came since, as JSON, and where the next piece begins; no data: nothing came."""

    data: bytes
    next: int


Read = Callable[[int], Piece]


async def follow(
    node: ManagementNode, id: str, since: int, read: Read, leaving: asyncio.Event
) -> AsyncIterator[bytes]:
    """The events. read: the piece from a byte on; it is called in a thread. leaving: the server ends."""

    def look() -> tuple[str | None, Piece]:
        # The state first: what a job wrote before its end is then read after it.
        job = node.job(id)
        return (job.state if job.is_final else None), read(since)

    told = time.monotonic()
    while not leaving.is_set():
        state, piece = await asyncio.to_thread(look)
        if piece.next != since:
            since, told = piece.next, time.monotonic()
            yield b"id: %d\ndata: %s\n\n" % (since, piece.data)
        elif state is not None:
            yield b"event: end\nid: %d\ndata: %s\n\n" % (since, msgspec.json.encode({"state": state}))
            return
        else:
            if time.monotonic() - told > _BEAT_S:
                told = time.monotonic()
                yield b": waiting\n\n"
            await asyncio.sleep(_POLL_S)


def text_piece(data: bytes, since: int) -> Piece:
    """A piece of text as a JSON string. A character that is not complete yet stays for the next piece."""
    held = 0
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:  # the first byte of a character of several
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            held = back if back < length else 0
            break
        if byte < 0x80:
            break
    whole = data[: len(data) - held] if held < len(data) else data
    return Piece(msgspec.json.encode(whole.decode(errors="replace")), since + len(whole))


def lines_piece(data: bytes, since: int) -> Piece:
    """Whole lines of JSON as a JSON list; lines that are not JSON are left out."""
    whole = data[: data.rfind(b"\n") + 1]
    return Piece(msgspec.json.encode(records(whole)), since + len(whole))


def records(lines: bytes) -> list[msgspec.Raw]:
    """The lines that are JSON, as they are."""
    found = []
    for line in lines.splitlines():
        try:
            msgspec.json.decode(line)
        except msgspec.MsgspecError:
            continue
        found.append(msgspec.Raw(line))
    return found
