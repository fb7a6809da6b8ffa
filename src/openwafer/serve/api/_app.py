"""The application: every route, under every spelling of the base URL that clients use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from openwafer.serve.api._access import admit
from openwafer.serve.api._engine import EngineLike
from openwafer.serve.api._errors import ApiError, as_api_error
from openwafer.serve.api._generate import Generator
from openwafer.serve.api._metrics import Metrics, numbers, stages_busy_s
from openwafer.serve.api._models import list_models, one_model
from openwafer.serve.api._openapi import openapi_document
from openwafer.serve.api._settings import Settings
from openwafer.serve.api._watch import Watch
from openwafer.serve.text import ChatTemplate, Tokenizer

Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    engine: EngineLike,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    settings: Settings,
    *,
    pages: Sequence[BaseRoute] = (),
) -> Starlette:
    """The API over an engine that runs. template: None for a model that cannot chat. pages: more routes, that go first.

    Every route stands at /v1, at /v1/v1 and at /: the clients disagree whether their base URL has the /v1.
    `app.state.accepting` may be set to False while the server drains; POSTs then get 503. `app.state.watch` keeps a history
    of the server's load while its `run` does.
    """
    metrics = Metrics(engine)
    watch = Watch(engine)
    generator = Generator(engine, tokenizer, template, settings, metrics, watch)

    async def models(request: Request) -> Response:
        return _json(list_models(settings, request.query_params.get("format", "default")))

    async def model(request: Request) -> Response:
        form = request.query_params.get("format", "default")
        return _json(one_model(settings, request.path_params["id"], form))

    async def public_models(request: Request) -> Response:
        return _json(list_models(settings, "public"))

    async def public_model(request: Request) -> Response:
        return _json(one_model(settings, request.path_params["id"], "public"))

    async def warm(request: Request) -> Response:
        return _json({"status": "ok"})

    async def health(request: Request) -> Response:
        state = "ok" if request.app.state.accepting else "draining"
        return _json({"status": state, "model": settings.model}, 200 if state == "ok" else 503)

    async def statistics(request: Request) -> Response:
        told = engine.statistics()
        more: dict[str, Any] = {"stages_busy_s": stages_busy_s(told), "requests": watch.requests()}
        if since := request.query_params.get("since"):
            more["history"] = watch.history(_unix_time(since))
        return _json(numbers(told) | more)

    async def metrics_text(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(request: Request) -> Response:
        return Response(openapi_document(settings.version), media_type="application/json")

    def guarded(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            admit(request, settings)
            return await handler(request)

        return checked

    def taken(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if not request.app.state.accepting:
                raise ApiError(
                    503,
                    "The server is shutting down; please try again.",
                    kind="server_error",
                    code="unavailable",
                    retry_after_s=5,
                )
            return await handler(request)

        return checked

    routes: list[BaseRoute] = [
        Route("/chat/completions", taken(generator.chat), methods=["POST"]),
        Route("/completions", taken(generator.completions), methods=["POST"]),
        Route("/models", guarded(models)),
        Route("/models/{id:path}", guarded(model)),
        Route("/tcp_warming", warm),
        Route("/health", health),
        Route("/statistics", guarded(statistics)),
        Route("/metrics", guarded(metrics_text)),
        Route("/openapi.json", openapi),
    ]
    public: list[BaseRoute] = [
        Route("/public/v1/models", public_models),
        Route("/public/v1/models/{id:path}", public_model),
    ]
    app = Starlette(
        routes=[*pages, *public, Mount("/v1/v1", routes=routes), Mount("/v1", routes=routes), *routes],
        exception_handlers={HTTPException: _no_route, ApiError: _api_error, Exception: _failed},
        middleware=_cors(settings),
    )
    app.router.redirect_slashes = False
    app.state.accepting = True
    app.state.watch = watch
    return app


def _unix_time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ApiError(400, "since is a Unix time in seconds.", param="since") from None


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _cors(settings: Settings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["inference-id", "retry-after"],
        )
    ]


async def _no_route(request: Request, error: Exception) -> Response:
    """A wrong base URL is the most common mistake with any server of this interface."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    if status == 404:
        message = (
            f"There is no {request.url.path} here. The API is at /v1: give cerebras_cloud_sdk {_base(request)} as base URL, "
            f"openai {_base(request)}/v1. It has POST chat/completions, POST completions, GET models."
        )
        answer = ApiError(404, message, kind="not_found_error", param="path", code="not_found")
    else:
        message = f"{request.method} {request.url.path} is not offered ({status}); chat/completions and completions are POSTs."
        answer = ApiError(status, message, param="method", code="method_not_allowed")
    headers = error.headers if isinstance(error, HTTPException) else None
    return answer.response(dict(headers or {}))


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


async def _api_error(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _failed(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()
