"""Rate limits of each client: buckets that fill continuously, and the headers that tell of them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from openwafer.serve.api._errors import ApiError
from openwafer.serve.api._settings import Settings

_UNLIMITED = 1_000_000_000
_DAY_S, _MINUTE_S = 86_400.0, 60.0
_MOST_CLIENTS = 10_000


class Limits:
    """What each client may still use.

    Tokens are charged as they are used: a prompt when it is admitted, an answer when it ends. The public service
    charges the longest answer that a request allows, which refuses requests that would have used little.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = settings.requests_per_day
        self._tokens = settings.tokens_per_minute
        self._clock = clock
        self._clients: OrderedDict[str, tuple[_Bucket, _Bucket]] = OrderedDict()

    def admit(self, client: str) -> None:
        """Count a request. Raises ApiError 429 if the client has none, or no tokens, left."""
        if self._requests is None and self._tokens is None:
            return
        requests, tokens = self._buckets(client)
        if self._tokens is not None and tokens.left() <= 0:
            raise _exceeded(
                "Tokens per minute limit exceeded - too many tokens processed.",
                "too_many_tokens_error",
                "token_quota_exceeded",
                tokens.seconds_until(1),
            )
        if self._requests is not None:
            if requests.left() < 1:
                raise _exceeded(
                    "Requests per day limit exceeded - too many requests sent.",
                    "too_many_requests_error",
                    "request_quota_exceeded",
                    requests.seconds_until(1),
                )
            requests.take(1)

    def spend(self, client: str, tokens: int) -> None:
        """Count tokens that were used; what is left may fall below nothing, and has to fill up again."""
        if self._tokens is not None:
            self._buckets(client)[1].take(tokens)

    def headers(self, client: str) -> dict[str, str]:
        """The six headers that every answer has."""
        requests, tokens = self._buckets(client)
        result = {}
        for name, limit, bucket in (
            ("requests-day", self._requests, requests),
            ("tokens-minute", self._tokens, tokens),
        ):
            left = _UNLIMITED if limit is None else max(0, int(bucket.left()))
            reset = 0.0 if limit is None else bucket.seconds_until(limit)
            result[f"x-ratelimit-limit-{name}"] = str(_UNLIMITED if limit is None else limit)
            result[f"x-ratelimit-remaining-{name}"] = str(left)
            result[f"x-ratelimit-reset-{name}"] = f"{reset:.3f}"
        return result

    def _buckets(self, client: str) -> tuple[_Bucket, _Bucket]:
        if client not in self._clients:
            self._clients[client] = (
                _Bucket(self._requests or _UNLIMITED, _DAY_S, self._clock),
                _Bucket(self._tokens or _UNLIMITED, _MINUTE_S, self._clock),
            )
            if len(self._clients) > _MOST_CLIENTS:
                self._clients.popitem(last=False)
        self._clients.move_to_end(client)
        return self._clients[client]


class _Bucket:
    def __init__(self, capacity: int, period_s: float, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._rate = capacity / period_s
        self._clock = clock
        self._level = float(capacity)
        self._at = clock()

    def left(self) -> float:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level

    def take(self, amount: int) -> None:
        self._level = self.left() - amount

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.left()) / self._rate)


def _exceeded(message: str, kind: str, code: str, wait_s: float) -> ApiError:
    return ApiError(429, message, kind=kind, param="quota", code=code, retry_after_s=wait_s)
