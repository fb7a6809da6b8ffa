"""Who may call: bearer keys, or, without any, this machine alone."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from openwafer.base.web import foreign_origin, is_loopback
from openwafer.serve.api._errors import ApiError
from openwafer.serve.api._settings import KEYS_VARIABLE, Settings


def admit(request: HTTPConnection, settings: Settings) -> str:
    """A name for the client, for fair queueing and limits; it does not tell the key.

    Raises ApiError 401 for a wrong or missing key, 403 for a web page of another origin, or for a request that only
    seems to be local.
    """
    _check_origin(request, settings)
    if settings.keys:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key.strip().encode() if scheme.lower() == "bearer" else b""
        # Every key is compared, in constant time, so that the time taken tells nothing.
        matches = [hmac.compare_digest(given, k.encode()) for k in settings.keys]
        if not any(matches):
            raise ApiError(401, "Wrong API Key", param="api_key", code="wrong_api_key")
        return "key-" + hashlib.sha256(given).hexdigest()[:12]
    host = request.client.host if request.client else ""
    if host and not is_loopback(host):
        raise ApiError(
            401,
            f"This server has no keys and so serves only its own machine; start it with a key file or {KEYS_VARIABLE}.",
            param="api_key",
            code="wrong_api_key",
        )
    _check_host(request, settings)
    return host


def _check_origin(request: HTTPConnection, settings: Settings) -> None:
    """A browser sends a page's origin along; other sites' pages have no business here, unless they are allowed."""
    origin = foreign_origin(request.headers)
    if origin is not None and not {"*", origin} & set(settings.cors_origins):
        raise ApiError(
            403,
            f"Pages of {origin} may not call this server; start it with --cors-origin {origin}.",
            param="origin",
        )


def _check_host(request: HTTPConnection, settings: Settings) -> None:
    """A page may point its own name at 127.0.0.1 and then is of the same origin; its name gives it away."""
    name = urlsplit("//" + request.headers.get("host", "localhost")).hostname or ""
    if name == "localhost" or name.endswith(".localhost") or name in settings.hosts or is_loopback(name):
        return
    raise ApiError(
        403,
        f"This server has no keys and is not known as {name!r}; call it as localhost, or give it keys.",
        param="host",
    )
