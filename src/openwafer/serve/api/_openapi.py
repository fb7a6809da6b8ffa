"""The OpenAPI document, made of the Structs that the requests are read with and the answers written from."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from openwafer.serve.api._replies import ChatChunk, ChatCompletion, Completion, ErrorBody, WrappedError
from openwafer.serve.api._requests import ChatRequest, CompletionRequest

_TYPES = (ChatRequest, CompletionRequest, ChatCompletion, ChatChunk, Completion, ErrorBody, WrappedError)


@cache
def openapi_document(version: str) -> bytes:
    """JSON of an OpenAPI 3.1 document of the whole interface."""
    schemas, components = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(_TYPES, schemas, strict=True))
    errors = {
        "4XX": _reply("The request is wrong, or too much", by_type[ErrorBody]),
        "5XX": _reply("The server failed; the same request may succeed later", by_type[WrappedError]),
    }

    def post(summary: str, body: Any, whole: Any, chunk: Any) -> dict[str, Any]:
        return {
            "post": {
                "summary": summary,
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": body},
                        "application/vnd.msgpack": {"schema": body},
                    },
                },
                "responses": {
                    "200": {
                        "description": "The answer; with `stream`, events that end with [DONE]",
                        "content": {
                            "application/json": {"schema": whole},
                            "text/event-stream": {"schema": chunk},
                        },
                    },
                    **errors,
                },
            }
        }

    def get(summary: str, *, format_too: bool = False, named: bool = False) -> dict[str, Any]:
        parameters: list[dict[str, Any]] = []
        if named:
            parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
        if format_too:
            forms = {"type": "string", "enum": ["default", "openrouter", "huggingface", "public"]}
            parameters.append({"name": "format", "in": "query", "schema": forms})
        return {
            "get": {
                "summary": summary,
                "parameters": parameters,
                "responses": {"200": {"description": summary}, **errors},
            }
        }

    chunk, whole = by_type[ChatChunk], by_type[ChatCompletion]
    document = {
        "openapi": "3.1.0",
        "info": {"title": "openwafer", "version": version or "0", "summary": "An inference server"},
        "security": [{"bearer": []}, {}],
        "paths": {
            "/v1/chat/completions": post("The next message of a chat", by_type[ChatRequest], whole, chunk),
            "/v1/completions": post(
                "How texts go on", by_type[CompletionRequest], by_type[Completion], by_type[Completion]
            ),
            "/v1/models": get("The models", format_too=True),
            "/v1/models/{id}": get("One model", format_too=True, named=True),
            "/public/v1/models": get("The models, for everybody"),
            "/public/v1/models/{id}": get("One model, for everybody", named=True),
            "/v1/tcp_warming": get("Nothing: clients open a connection with it"),
            "/health": get("Whether requests are taken"),
            "/metrics": get("Numbers for Prometheus"),
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _reply(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
