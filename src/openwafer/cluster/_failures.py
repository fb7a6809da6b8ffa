"""Errors on their way from a role to the user."""

from __future__ import annotations

import errno
import traceback

import torch

from openwafer.base import RoleError, StorageError, WaferError
from openwafer.base import errors as error_classes
from openwafer.cluster._codec import parsing
from openwafer.cluster._messages import Failed
from openwafer.wire import Aborted, Endpoints


def report_failure(role: str, error: BaseException, ends: Endpoints) -> None:
    """Tell the coordinator; if even that fails the role just ends, which the coordinator notices too."""
    if isinstance(error, Aborted):
        return
    kind, trace = type(error).__name__, ""
    if isinstance(error, WaferError):
        text = str(error)
    elif _is_out_of_memory(error):
        kind = StorageError.__name__
        text = (
            f"there is no more memory ({str(error).splitlines()[0] if str(error) else kind}); lower the batch or the "
            "microbatch, let the planner recompute activations (system_memory=), keep MemoryX on disk, or give the "
            "process more memory"
        )
    else:
        text = f"{kind}: {error}"
        trace = format_trace(error)
    try:
        ends.outbox("reports").send(Failed(role, kind, text, trace))
    except WaferError:
        return


def format_trace(error: BaseException) -> str:
    """The traceback, with the lines of the source. Any thread may."""
    with parsing:  # Python parses those lines to mark the part that failed
        return "".join(traceback.format_exception(error))


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's own error, an accelerator's, or what torch's CPU allocator raises, which has no class of its own."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


def rebuild_error(failed: Failed) -> WaferError:
    """The error that a role reported, as its own class where it is one of ours."""
    kind = getattr(error_classes, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, WaferError):
        return kind(f"{failed.role}: {failed.text}")
    detail = f"\n{failed.trace}" if failed.trace else ""
    return RoleError(f"{failed.role} failed: {failed.text}{detail}")
