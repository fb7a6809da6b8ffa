"""Errors as answers: a status, and a body that says what an exception of ours says."""

from __future__ import annotations

import traceback

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from openwafer.appliance._views import ErrorBody, Problem
from openwafer.base import InputError, JobNotFoundError, StorageError, WaferError, logger

_LOG = logger("appliance")


class HttpError(WaferError):
    """A request that ends with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def answer(request: Request, error: Exception) -> Response:
    """What the caller is told of any exception."""
    headers = {}
    match error:
        case HttpError():
            status = error.status
        case JobNotFoundError():
            status = 404
        case InputError():
            status = 400
        case StorageError():
            status = 507
        case WaferError():
            status = 503
        case HTTPException():
            headers = dict(error.headers or {})
            status = error.status_code
            error = WaferError(
                f"there is no {request.method} {request.url.path} here; /openapi.json says what there is"
            )
        case _:
            _LOG.error("a request failed unexpectedly", traceback="".join(traceback.format_exception(error)))
            status, error = (
                500,
                WaferError("the appliance failed to answer; its log says why, and it runs on"),
            )
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    body = msgspec.json.encode(ErrorBody(Problem(str(error), type(error).__name__)))
    return Response(body, status, headers, media_type="application/json")
