"""The REST interface: every route, over a ManagementNode."""

from __future__ import annotations

import asyncio
import mimetypes
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from openwafer.appliance._folder import read_from
from openwafer.appliance._job import Job
from openwafer.appliance._node import ManagementNode
from openwafer.appliance._queue import RESOURCES
from openwafer.appliance._submission import MOST_FILES_BYTES
from openwafer.appliance._users import User, Users
from openwafer.appliance._views import (
    Cancellation,
    Change,
    Cluster,
    HostView,
    Jobs,
    Resource,
    Submission,
    SystemChange,
    SystemView,
)
from openwafer.appliance.dashboard import Dashboard, dashboard_routes
from openwafer.appliance.web._access import administrator, caller, own
from openwafer.appliance.web._errors import HttpError, answer
from openwafer.appliance.web._export import archive
from openwafer.appliance.web._follow import Read, follow, lines_piece, records, text_piece
from openwafer.appliance.web._metrics import Metrics
from openwafer.appliance.web._openapi import openapi_document
from openwafer.base import InputError, WaferError

_Body = TypeVar("_Body")
_MOST_BODY = MOST_FILES_BYTES * 3 // 2
_MOST_READ = 1 << 20
_MOST_JOBS = 10_000
Handler = Callable[[Request, User], Awaitable[Response]]


def make_app(node: ManagementNode, users: Users, version: str) -> Starlette:
    """The application. `app.state.leaving` (an asyncio.Event) ends streams that follow; `app.state.down` is set by
    POST /v1/cluster/down and says that the server is to interrupt its jobs and end.
    """
    dashboard = Dashboard(node, version)
    metrics = Metrics(node, dashboard)

    async def cluster(request: Request, user: User) -> Response:
        total, free = await asyncio.to_thread(node.amounts)
        told = Cluster(
            version=version,
            user=user.name,
            admin=user.admin,
            resources=[Resource(*row) for row in zip(RESOURCES, total, free, strict=True)],
            systems=[SystemView(*row) for row in node.systems()],
            states=dict(Counter(job.state for job in node.queue())),
            memoryx=node.config.memoryx,
            hosts=[
                HostView(host.name, host.address, host.systems, len(host.jobs))
                for host in await asyncio.to_thread(node.hosts)
            ],
        )
        return _json(told)

    async def change_system(request: Request, user: User) -> Response:
        administrator(user)
        change = await _body(request, SystemChange)
        name = request.path_params["name"]
        if change.in_service:
            await asyncio.to_thread(node.put_in, name)
        else:
            await asyncio.to_thread(node.take_out, name, change.reason)
        return await cluster(request, user)

    async def down(request: Request, user: User) -> Response:
        administrator(user)
        request.app.state.down.set()
        return _json({"status": "going down"}, 202)

    async def jobs(request: Request, user: User) -> Response:
        query = request.query_params
        asked = query.get("user")
        if not user.admin and asked not in (None, user.name):
            return _json(Jobs([]))
        found = await asyncio.to_thread(
            node.jobs,
            states=tuple(state for word in query.getlist("state") for state in word.split(",") if state),
            user=asked if user.admin else user.name,
            workflow=query.get("workflow"),
            labels=dict(_label(word) for word in query.getlist("label")),
            limit=_number(query.get("limit"), "limit", 100, _MOST_JOBS),
        )
        return _json(Jobs(found))

    async def submit(request: Request, user: User) -> Response:
        asked = await _body(request, Submission)
        spec = asked.spec
        if not user.admin or not spec.user:
            spec = msgspec.structs.replace(spec, user=user.name)
        _may_take(user, spec.priority)
        if spec.workflow is not None:
            for other in await asyncio.to_thread(node.jobs, workflow=spec.workflow, limit=1):
                own(user, other)
        return _json(await asyncio.to_thread(node.submit, spec, asked.files, user.volumes), 201)

    async def find(request: Request, user: User) -> Job:
        return own(user, await asyncio.to_thread(node.job, request.path_params["id"]))

    async def job(request: Request, user: User) -> Response:
        found = await find(request, user)
        wait_s = _number(request.query_params.get("wait"), "wait", 0, 600)
        if wait_s:
            version = _number(request.query_params.get("version"), "version", -1, 1 << 62)
            found = await asyncio.to_thread(node.changed, found.id, version, float(wait_s))
        return _json(found)

    async def change(request: Request, user: User) -> Response:
        found = await find(request, user)
        asked = await _body(request, Change)
        if asked.priority is not None:
            _may_take(user, asked.priority)
            found = await asyncio.to_thread(node.prioritise, found.id, asked.priority)
        if asked.labels:
            found = await asyncio.to_thread(node.label, found.id, asked.labels)
        return _json(found)

    async def cancel(request: Request, user: User) -> Response:
        found = await find(request, user)
        asked = await _body(request, Cancellation)
        reason = asked.reason or f"cancelled by {user.name}"
        return _json(await asyncio.to_thread(node.cancel, found.id, asked.state, reason))

    async def heartbeat(request: Request, user: User) -> Response:
        found = await find(request, user)
        return _json(await asyncio.to_thread(node.heartbeat, found.id))

    def streamed(request: Request, id: str, since: int, read: Read) -> Response:
        told = request.headers.get("last-event-id", "")
        start = int(told) if told.isascii() and told.isdigit() else since
        events = follow(node, id, start, read, request.app.state.leaving)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def log(request: Request, user: User) -> Response:
        found = await find(request, user)
        offset = _number(request.query_params.get("offset"), "offset", 0, 1 << 62)
        if _asked(request, "follow"):
            return streamed(
                request, found.id, offset, lambda since: text_piece(node.log(found.id, since, 1 << 16), since)
            )
        data = await asyncio.to_thread(node.log, found.id, offset, _MOST_READ)
        headers = {"wafer-next": str(offset + len(data)), "wafer-state": found.state}
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    def records_of(name: str) -> Handler:
        async def handler(request: Request, user: User) -> Response:
            found = await find(request, user)
            path = (
                getattr(node.folder(found.id), name) if name == "events" else node.folder(found.id).run / name
            )
            since = _number(request.query_params.get("since"), "since", 0, 1 << 62)
            if _asked(request, "follow"):
                return streamed(
                    request, found.id, since, lambda at: lines_piece(read_from(path, at, _MOST_READ), at)
                )
            data = await asyncio.to_thread(read_from, path, since, _MOST_READ)
            whole = data[: data.rfind(b"\n") + 1]
            return _json({"records": records(whole), "next": since + len(whole), "state": found.state})

        return handler

    async def plan(request: Request, user: User) -> Response:
        found = await find(request, user)
        return FileResponse(node.folder(found.id).file("run/plan.json"), media_type="application/json")

    async def file(request: Request, user: User) -> Response:
        found = await find(request, user)
        path = await asyncio.to_thread(node.folder(found.id).file, request.path_params["name"])
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        # A job writes what it likes: nothing of it may act as a page of this appliance.
        headers = {
            "content-security-policy": "sandbox; default-src 'none'",
            "x-content-type-options": "nosniff",
        }
        return FileResponse(path, media_type=kind, headers=headers)

    async def export(request: Request, user: User) -> Response:
        found = await find(request, user)
        pieces = archive(node.folder(found.id), found, with_checkpoints=_asked(request, "checkpoints"))
        name = {"content-disposition": f'attachment; filename="{found.id}.tar.gz"'}
        return StreamingResponse(pieces, media_type="application/gzip", headers=name)

    def guarded(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            return await handler(request, caller(request, users))

        return checked

    async def health(request: Request) -> Response:
        return _json({"status": "ok", "version": version})

    async def metrics_text(request: Request, user: User) -> Response:
        text = await asyncio.to_thread(metrics.text, user)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(request: Request) -> Response:
        return Response(openapi_document(version), media_type="application/json")

    one = "/v1/jobs/{id}"
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/openapi.json", openapi),
            Route("/metrics", guarded(metrics_text)),
            Route("/v1/cluster", guarded(cluster)),
            Route("/v1/cluster/down", guarded(down), methods=["POST"]),
            Route("/v1/cluster/systems/{name}", guarded(change_system), methods=["PATCH"]),
            Route("/v1/jobs", guarded(jobs)),
            Route("/v1/jobs", guarded(submit), methods=["POST"]),
            Route(one, guarded(job)),
            Route(one, guarded(change), methods=["PATCH"]),
            Route(f"{one}/cancel", guarded(cancel), methods=["POST"]),
            Route(f"{one}/heartbeat", guarded(heartbeat), methods=["POST"]),
            Route(f"{one}/log", guarded(log)),
            Route(f"{one}/events", guarded(records_of("events"))),
            Route(f"{one}/metrics", guarded(records_of("metrics.jsonl"))),
            Route(f"{one}/plan", guarded(plan)),
            Route(f"{one}/files/{{name:path}}", guarded(file)),
            Route(f"{one}/export", guarded(export)),
            *dashboard_routes(node, dashboard, guarded, find),
        ],
        exception_handlers={HTTPException: answer, WaferError: answer, Exception: answer},
    )
    app.router.redirect_slashes = False
    app.state.leaving = asyncio.Event()
    app.state.down = asyncio.Event()
    return app


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _body(request: Request, kind: type[_Body]) -> _Body:
    """The request's body. Raises InputError if it is not of this kind, HttpError 413 if it is too large."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > _MOST_BODY:
            raise HttpError(
                413, f"the request has more than {_MOST_BODY >> 20} MiB; send data by another way"
            )
    try:
        return msgspec.json.decode(bytes(data) or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise InputError(f"the request's body is not as /openapi.json says: {error}") from None


def _number(text: str | None, name: str, default: int, most: int) -> int:
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -2
    if not -1 <= value <= most:
        raise InputError(f"{name} is {text!r}; give a whole number, at most {most}")
    return max(value, 0) if default >= 0 else value


def _asked(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("1", "true", "yes")


def _label(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise InputError(f"label is {word!r}; write name=value")
    return name, value


def _may_take(user: User, priority: int | None) -> None:
    """p0 is for administrators."""
    if priority is not None and priority < 100 and not user.admin:
        raise HttpError(
            403, f"{user.name} may not give p0 (0 to 99), which is for administrators; take p1, p2 or p3"
        )
