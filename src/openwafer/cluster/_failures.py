"""Errors on their way from a role to the user."""

from __future__ import annotations

import traceback

from openwafer.base import RoleError, WaferError
from openwafer.base import errors as error_classes
from openwafer.cluster._messages import Failed
from openwafer.wire import Aborted, Endpoints


def report_failure(role: str, error: BaseException, ends: Endpoints) -> None:
    """Tell the coordinator; if even that fails the role just ends, which the coordinator notices too."""
    if isinstance(error, Aborted):
        return
    text = str(error) if isinstance(error, WaferError) else f"{type(error).__name__}: {error}"
    trace = "" if isinstance(error, WaferError) else "".join(traceback.format_exception(error))
    try:
        ends.outbox("reports").send(Failed(role, type(error).__name__, text, trace))
    except WaferError:
        return


def rebuild_error(failed: Failed) -> WaferError:
    """The error that a role reported, as its own class where it is one of ours."""
    kind = getattr(error_classes, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, WaferError):
        return kind(f"{failed.role}: {failed.text}")
    detail = f"\n{failed.trace}" if failed.trace else ""
    return RoleError(f"{failed.role} failed: {failed.text}{detail}")
