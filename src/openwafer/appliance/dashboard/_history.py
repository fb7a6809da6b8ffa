"""What a job's events tell, without the many that only say how far it has come."""

from __future__ import annotations

from collections import deque
from typing import Any, final

import msgspec

_KEPT = 200
_MOST_TEXT = 2000


class Moment(msgspec.Struct, frozen=True):
    """Something that happened to a job. by: the node, or the job itself."""

    at: float
    kind: str
    text: str
    by: str


@final
class History:
    """Reads lines of events.jsonl. `moments`: the last of them, oldest first; progress is left out."""

    def __init__(self) -> None:
        self.moments: deque[Moment] = deque(maxlen=_KEPT)

    def add(self, line: bytes) -> None:
        """Take one line; one that is no event counts nothing."""
        try:
            event = msgspec.json.decode(line)
        except msgspec.MsgspecError:
            return
        if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
            return
        kind, by = event["kind"], "node" if event.get("by") == "node" else "job"
        # What the job says of its state the node says again when it has taken it down.
        if kind == "progress" or (kind == "state" and by == "job"):
            return
        at = event.get("at")
        if isinstance(at, int | float) and not isinstance(at, bool):
            self.moments.append(Moment(float(at), kind[:64], _text(kind, event)[:_MOST_TEXT], by))


def _text(kind: str, event: dict[str, Any]) -> str:
    message = str(event.get("message", ""))
    match kind:
        case "state":
            return f"{event.get('state', '')}: {message}" if message else str(event.get("state", ""))
        case "result":
            return f"{event.get('status', '')}: {message}" if message else str(event.get("status", ""))
        case "waiting":
            return str(event.get("for", ""))
        case "ingress":
            return str(event.get("address", ""))
        case _:
            return message
