"""Mock mode: what a request is refused for is left out, for test suites that send values without meaning."""

from __future__ import annotations

from typing import Any

from openwafer.serve.api._errors import ApiError


def mend(value: Any, error: ApiError) -> bool:
    """Take the field that `error` names out of a request, or give it one that can be answered; whether that was possible."""
    field = error.param.partition(".")[0]
    if not isinstance(value, dict):
        return False
    needed = {"model": "model", "messages": [{"role": "user", "content": "mock"}], "prompt": "mock"}.get(
        field
    )
    if needed is not None and value.get(field) != needed:
        value[field] = needed
        return True
    return value.pop(field, None) is not None
