"""The OpenAPI document, made of the Structs that requests are read with and answers written from."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from openwafer.appliance._job import Job
from openwafer.appliance._views import (
    Cancellation,
    Change,
    Cluster,
    ErrorBody,
    Jobs,
    Submission,
    SystemChange,
)
from openwafer.appliance.dashboard import BoardView, JobView, SeriesView, TimelineView

_TYPES = (
    *(Job, Jobs, Cluster, Submission, Change, Cancellation, SystemChange, ErrorBody),
    *(BoardView, JobView, SeriesView, TimelineView),
)
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


@cache
def openapi_document(version: str) -> bytes:
    """JSON of an OpenAPI 3.1 document of the whole interface."""
    schemas, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(_TYPES, schemas, strict=True))
    error = {"description": "Why not", "content": {"application/json": {"schema": schema_of[ErrorBody]}}}

    def call(
        summary: str,
        answer: Any = None,
        body: Any = None,
        *,
        path: tuple[str, ...] = (),
        media: str = "",
        **query: str,
    ) -> dict[str, Any]:
        content = {media or "application/json": {"schema": schema_of[answer]} if answer else {}}
        told: dict[str, Any] = {
            "summary": summary,
            "parameters": [
                *({**_ID, "name": name} for name in path),
                *({"name": name, "in": "query", "schema": {"type": kind}} for name, kind in query.items()),
            ],
            "responses": {"2XX": {"description": summary, "content": content}, "default": error},
        }
        if body is not None:
            told["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema_of[body]}},
            }
        return told

    follow = {"follow": "boolean"}
    one = ("id",)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "openwafer appliance",
            "version": version or "0",
            "summary": "A cluster that many jobs share",
            "description": "With follow=true answers are server-sent events; `id` is where to go on after a lost connection.",
        },
        "security": [{"bearer": []}],
        "paths": {
            "/v1/cluster": {"get": call("The cluster now", Cluster)},
            "/v1/cluster/down": {"post": call("Interrupt all jobs and end; for administrators")},
            "/v1/cluster/systems/{name}": {
                "patch": call("Put a system in or out of service", Cluster, SystemChange, path=("name",))
            },
            "/v1/jobs": {
                "get": call(
                    "Jobs, newest first",
                    Jobs,
                    state="string",
                    user="string",
                    label="string",
                    workflow="string",
                    limit="integer",
                ),
                "post": call("Submit a job", Job, Submission),
            },
            "/v1/jobs/{id}": {
                "get": call(
                    "One job; with wait, when its version is another, or after so many seconds",
                    Job,
                    path=one,
                    version="integer",
                    wait="integer",
                ),
                "patch": call("Change labels and priority", Job, Change, path=one),
            },
            "/v1/jobs/{id}/cancel": {"post": call("End a job", Job, Cancellation, path=one)},
            "/v1/jobs/{id}/heartbeat": {"post": call("Renew the job's lease", Job, path=one)},
            "/v1/jobs/{id}/log": {
                "get": call(
                    "The log from a byte on", path=one, media="text/plain", offset="integer", **follow
                )
            },
            "/v1/jobs/{id}/events": {
                "get": call("Events from a byte on", path=one, since="integer", **follow)
            },
            "/v1/jobs/{id}/metrics": {
                "get": call("Lines of the run's metrics from a byte on", path=one, since="integer", **follow)
            },
            "/v1/jobs/{id}/plan": {"get": call("The plan of the run", path=one)},
            "/v1/jobs/{id}/files/{name}": {
                "get": call("A file of the job", path=("id", "name"), media="application/octet-stream")
            },
            "/v1/jobs/{id}/export": {
                "get": call(
                    "All of the job as one archive", path=one, media="application/gzip", checkpoints="boolean"
                )
            },
            "/v1/board": {
                "get": call(
                    "The cluster and its jobs, as the dashboard shows them",
                    BoardView,
                    state="string",
                    user="string",
                    label="string",
                    text="string",
                    limit="integer",
                )
            },
            "/v1/jobs/{id}/view": {"get": call("One job, as the dashboard shows it", JobView, path=one)},
            "/v1/jobs/{id}/series": {
                "get": call(
                    "The run's numbers over its steps, cut down", SeriesView, path=one, points="integer"
                )
            },
            "/v1/jobs/{id}/timeline": {
                "get": call("The last recorded steps of the run; null without any", TimelineView, path=one)
            },
            "/health": {"get": {**call("Whether the appliance answers"), "security": []}},
            "/metrics": {"get": call("Numbers for Prometheus", media="text/plain")},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)
