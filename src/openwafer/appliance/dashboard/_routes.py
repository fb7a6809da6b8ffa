"""Routes of the dashboard: its page, which anybody may load, and what the page asks for, which takes a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from openwafer.appliance._job import Job
from openwafer.appliance._node import ManagementNode
from openwafer.appliance._users import User
from openwafer.appliance.dashboard._page import page
from openwafer.appliance.dashboard._timeline import read_timeline
from openwafer.appliance.dashboard._views import Dashboard, Filter
from openwafer.base import InputError

Handler = Callable[[Request, User], Awaitable[Response]]
_MOST_JOBS = 2000
_MOST_POINTS = 1024


def dashboard_routes(
    node: ManagementNode,
    dashboard: Dashboard,
    guarded: Callable[[Handler], Callable[[Request], Awaitable[Response]]],
    find: Callable[[Request, User], Awaitable[Job]],
) -> list[Route]:
    """GET / and what it asks for. guarded: lets a handler be called with a token only, by its user. find: the job of a
    request's path, if the user may see it.
    """

    async def show(request: Request) -> Response:
        headers = {
            "content-security-policy": page().policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        return HTMLResponse(page().text, headers=headers)

    async def board(request: Request, user: User) -> Response:
        return _json(await asyncio.to_thread(dashboard.board, user, _filter(request)))

    async def job(request: Request, user: User) -> Response:
        return _json(await asyncio.to_thread(dashboard.job, user, await find(request, user)))

    async def series(request: Request, user: User) -> Response:
        points = _number(request, "points", 400, _MOST_POINTS)
        return _json(await asyncio.to_thread(dashboard.series, await find(request, user), points))

    async def timeline(request: Request, user: User) -> Response:
        found = await find(request, user)
        return _json(await asyncio.to_thread(read_timeline, node.folder(found.id).run / "timeline.json"))

    one = "/v1/jobs/{id}"
    return [
        Route("/", show),
        Route("/v1/board", guarded(board)),
        Route(f"{one}/view", guarded(job)),
        Route(f"{one}/series", guarded(series)),
        Route(f"{one}/timeline", guarded(timeline)),
    ]


def _json(value: Any) -> Response:
    return Response(
        msgspec.json.encode(value), media_type="application/json", headers={"cache-control": "no-store"}
    )


def _filter(request: Request) -> Filter:
    query = request.query_params
    labels = {}
    for word in query.getlist("label"):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(f"label is {word!r}; write name=value")
        labels[name] = value
    return Filter(
        states=tuple(state for word in query.getlist("state") for state in word.split(",") if state),
        user=query.get("user") or None,
        labels=labels,
        text=query.get("text", "")[:200],
        limit=_number(request, "limit", 100, _MOST_JOBS),
    )


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most and len(text) < 10):
        raise InputError(f"{name} is {text!r}; give a whole number from 1 to {most}")
    return int(text)
