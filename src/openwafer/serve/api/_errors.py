"""Errors as clients expect them: flat bodies for 4xx, wrapped ones for 5xx and in the middle of a stream.

The client libraries raise by status, and trust a `status_code` in the body more than the response's.
"""

from __future__ import annotations

import math
import traceback
from typing import Any

import msgspec
from starlette.responses import Response

from openwafer.base import ContextLengthError, EngineError, InputError, QueueFullError, WaferError, logger
from openwafer.serve.text import GrammarError, TemplateError

INVALID = "invalid_request_error"
_LOG = logger("api")


class ApiError(WaferError):
    """A request that ends with an error; everything that its body and headers say."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str = "",
        code: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self, *, wrapped: bool = False) -> bytes:
        """JSON of the error; wrapped is the shape inside an answer that has begun."""
        flat: dict[str, Any] = {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        if wrapped or self.status >= 500:
            return msgspec.json.encode({"status_code": self.status, "error": flat | {"id": ""}})
        return msgspec.json.encode(flat)

    def headers(self) -> dict[str, str]:
        """Of the response, beside those that every response has."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}

    def response(self, headers: dict[str, str] | None = None) -> Response:
        return Response(
            self.body(), self.status, {**(headers or {}), **self.headers()}, media_type="application/json"
        )


def invalid(message: str, param: str = "", code: str = "wrong_api_format") -> ApiError:
    """A request that cannot be meant: 400."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: Exception) -> ApiError:
    """What the client is told of any exception; what is not the client's or the engine's is logged and is a 500."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(
                429,
                str(error),
                kind="too_many_requests_error",
                param="queue",
                code="queue_exceeded",
                retry_after_s=error.retry_after_s,
            )
        case ContextLengthError():
            return invalid(str(error), "messages", "context_length_exceeded")
        case EngineError():
            return ApiError(503, str(error), kind="server_error", code="unavailable", retry_after_s=1.0)
        case TemplateError():
            return invalid(str(error), "messages")
        case GrammarError():
            return invalid(str(error), "response_format")
        case InputError():
            return invalid(str(error))
    # As text: pictures of tracebacks show local variables, and so what people asked.
    _LOG.error("a request failed unexpectedly", traceback="".join(traceback.format_exception(error)))
    return ApiError(500, "Encountered a server error, please try again.", kind="server_error")
