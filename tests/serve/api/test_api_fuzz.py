"""Bodies made from our own OpenAPI document, right and nearly right: never a 500, never a hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import HTTP, Server  # type: ignore[import-not-found]

from openwafer.serve.api import openapi_document

DOCUMENT = json.loads(openapi_document("1"))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer", "minimum": 3},
            {"enum": ["a", 1, None]},
            {"$ref": "#/$defs/X"},
            {"type": "string", "pattern": "^a[b-c]*$"},
            {"type": ["string", "null"]},
            {"not": {}},
            True,
        ]
    )
    | ANYTHING,
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.text(max_size=3), inner, max_size=3),
            },
            optional={"required": st.lists(st.text(max_size=3)), "additionalProperties": inner},
        )
        | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)})
    ),
    max_leaves=4,
)


def values(schema: Any, wrong: float = 0.0) -> st.SearchStrategy[Any]:
    """Values of a schema of the document; now and then, if `wrong`, of none."""
    right = _values(schema, wrong)
    return right if not wrong else st.integers(0, 25).flatmap(lambda i: ANYTHING if i == 0 else right)


def _values(schema: Any, wrong: float) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        found = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        return st.deferred(lambda: values(found, wrong))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([values(s, wrong) for s in schema["anyOf"]])
    low, high = schema.get("minimum"), schema.get("maximum")
    match schema.get("type"):
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True)
        case "string":
            return st.text(max_size=20) | st.sampled_from(["model", "f", "<tool_call>", "<|begin|>"])
        case "integer":
            return st.integers(low, min(high if high is not None else 50, 50))
        case "number":
            return st.floats(low, high, allow_nan=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(values(schema["items"], wrong), min_size=least, max_size=least + 2)
        case "object" if "properties" in schema:
            fields = {k: _field(k, s, wrong) for k, s in schema["properties"].items()}
            required = {k: fields.pop(k) for k in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=fields)
        case "object":
            inner = schema.get("additionalProperties", {})
            return st.dictionaries(st.sampled_from(["1", "70", "x"]), values(inner, wrong), max_size=2)
    return SCHEMAS


def _field(name: str, schema: Any, wrong: float) -> st.SearchStrategy[Any]:
    if name == "model":
        return st.just("model")
    if name in ("parameters", "schema"):
        return st.none() | SCHEMAS.filter(lambda s: isinstance(s, dict))
    return values(schema, wrong)


def send(server: Server, path: str, body: Any) -> None:
    response = HTTP.post(server.url + path, json=body, timeout=120)
    assert response.status_code in (200, 400, 404), (response.status_code, response.text[:500])
    if response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"status_code"' not in response.text
    elif response.status_code == 200:
        assert response.json()["choices"]
    else:
        assert response.json().keys() == {"message", "type", "param", "code"}


PATHS = [("/v1/chat/completions", "ChatRequest"), ("/v1/completions", "CompletionRequest")]
FEW: Callable[[Any], Any] = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_every_right_body_is_answered(plain: Server, path: str, name: str) -> None:
    """With an answer, or with the reason why there is none."""

    @FEW
    @given(values(DOCUMENT["components"]["schemas"][name]))
    def check(body: Any) -> None:
        send(plain, path, body)

    check()


@pytest.mark.parametrize(("path", "name"), PATHS)
def test_every_wrong_body_is_refused(plain: Server, path: str, name: str) -> None:
    """Any value may stand anywhere."""

    @FEW
    @given(values(DOCUMENT["components"]["schemas"][name], wrong=1.0))
    def check(body: Any) -> None:
        send(plain, path, body)

    check()


@FEW
@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "application/vnd.msgpack", "text/plain", ""]),
    st.sampled_from(["", "gzip", "identity", "br"]),
)
def test_any_bytes_are_answered(plain: Server, data: bytes, kind: str, coding: str) -> None:
    """Whatever they claim to be."""
    headers = {"content-type": kind} | ({"content-encoding": coding} if coding else {})
    response = HTTP.post(plain.url + "/v1/completions", content=data, headers=headers, timeout=120)

    assert response.status_code in (400, 415)
