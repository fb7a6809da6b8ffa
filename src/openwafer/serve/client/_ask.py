"""One question to a server, and its answer as it comes; without any package that is not Python's own."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import urlsplit

from openwafer.base import EngineError, InputError

_SILENCE_S = 120
"""A server of ours shows life every 15 s."""


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Told:
    """The end of an answer."""

    tokens: int
    first_token_s: float
    """From the question to the first token, by this machine's clock."""
    tokens_per_s: float
    """Of the answer after its first token: by the server's clock if it tells, since short answers arrive as one."""
    finish: str


def ask(
    url: str, model: str, messages: list[Message], *, key: str | None = None, **more: Any
) -> Iterator[str | Told]:
    """Parts of the answer's text as they come, then how it went. more: fields of the request, such as max_tokens.

    Raises InputError if nobody is there or the server refuses, EngineError if the answer ends before it is complete.
    """
    body = {"model": model, "messages": messages, "stream": True, **more}
    began = time.monotonic()
    first: float | None = None
    connection, path = _connect(url)
    try:
        response = _send(connection, url, "POST", f"{path}/chat/completions", key, json.dumps(body).encode())
        finish = ""
        usage: dict[str, int] = {}
        told_s = 0.0
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise EngineError(f"{url} broke off: {chunk['error']['message']}")
            choice = chunk["choices"][0]
            usage = chunk.get("usage") or usage
            told_s = chunk.get("time_info", {}).get("completion_time") or told_s
            finish = choice.get("finish_reason") or finish
            text = choice["delta"].get("reasoning") or choice["delta"].get("content") or ""
            if text:
                first = first or time.monotonic()
                yield text
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        raise EngineError(
            f"the connection to {url} broke ({error}); ask again, and see the server's log"
        ) from None
    finally:
        connection.close()
    if not finish:
        raise EngineError(f"{url} ended before its answer was complete; ask again, and see the server's log")
    now = time.monotonic()
    tokens = usage.get("completion_tokens", 0)
    first = first or now
    yield Told(
        tokens, first - began, (tokens - 1) / max(told_s or now - first, 1e-9) if tokens > 1 else 0.0, finish
    )


def find_model(url: str, key: str | None = None) -> str:
    """The name of the first model that a server has. Raises InputError if nobody is there, or the server refuses."""
    connection, path = _connect(url)
    try:
        listed = json.loads(_send(connection, url, "GET", f"{path}/models", key).read())
        return str(listed["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"what answers at {url} has no list of models; give the URL of a server") from None
    finally:
        connection.close()


def base_url(url: str) -> str:
    """Where a server's interface is: the URL with /v1 at its end, whether it had that or not.

    Raises InputError if it is no URL.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        whole = False
    if not whole:
        raise InputError(f"{url!r} is no URL of a server; write it as http://127.0.0.1:8000")
    stem = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return stem if stem.endswith("/v1") else f"{stem}/v1"


def _connect(url: str) -> tuple[http.client.HTTPConnection, str]:
    parts = urlsplit(base_url(url))
    kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
    return kind(parts.hostname or "", parts.port, timeout=_SILENCE_S), parts.path


def _send(
    connection: http.client.HTTPConnection,
    url: str,
    method: str,
    path: str,
    key: str | None,
    body: bytes | None = None,
) -> http.client.HTTPResponse:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"nobody answers at {url} ({error}); start a server with `wafer serve`, or name another URL"
        ) from None
    if response.status != 200:
        told = response.read().decode(errors="replace")
        try:
            parsed = json.loads(told)
            told = parsed.get("error", parsed)["message"]
        except (ValueError, KeyError, TypeError, AttributeError):
            told = told[:200]
        mend = "; give a key with --key-file or in WAFER_API_KEY" if response.status == 401 else ""
        raise InputError(f"{url} refuses ({response.status}): {told}{mend}")
    return response
