"""A job's state in the client's words."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any

from openwafer.appliance import Job
from openwafer.compat.appliance._wheel import wheel

FAILING = "failing"
"""The kind of event by which a job that still runs says that it has failed."""
_STATUS = {
    "created": "JOB_STATUS_CREATED",
    "queued": "JOB_STATUS_IN_QUEUE",
    "scheduled": "JOB_STATUS_SCHEDULED",
    "initializing": "JOB_STATUS_INIT",
    "running": "JOB_STATUS_IN_PROGRESS",
    "succeeded": "JOB_STATUS_SUCCEEDED",
    "failed": "JOB_STATUS_FAILED",
    "cancelled": "JOB_STATUS_CANCELLED",
}
_ENDINGS = {
    "JOB_STATUS_SUCCEEDED": "succeeded",
    "JOB_STATUS_FAILED": "failed",
    "JOB_STATUS_FAILING": "failed",
}


def status_of(job: Job) -> int:
    """The job's state as the protocol's JobStatus."""
    return int(wheel().cluster.JobStatus.Value(_STATUS[job.state]))


def ending_of(status: int) -> Any:
    """How a job ends that the client cancels with this status: what it says of itself when it leaves."""
    names = wheel().cluster.JobStatus
    return _ENDINGS.get(names.Name(status) if status in names.values() else "", "cancelled")


def failure_of(job: Job, events: Iterable[dict[str, Any]]) -> str:
    """Why a job that still runs cannot succeed any more, in one line; empty if it can.

    The client asks after an error, and waits for a minute while it hears that the job is in progress.
    """
    told = [str(event.get("message", "")) for event in events if event["kind"] == FAILING]
    return "" if job.is_final or not told else _one_line(told[-1])


def phase_of(job: Job) -> int:
    """The job's state as the phase that csctl shows."""
    return int(wheel().resources.JobStatus.Phase.Value(job.state.upper()))


def describe(job: Job) -> str:
    """One line about where the job stands, for the client's log."""
    if job.state == "queued":
        return f"job {job.id} is queued" + (f": waits for {job.waits_for}" if job.waits_for else "")
    if job.is_final:
        return f"job {job.id} {job.state}: {job.reason}"
    return f"job {job.id} is {job.state}" + (f" on {', '.join(job.systems)}" if job.systems else "")


def events_of(job: Job, events: Iterable[dict[str, Any]]) -> list[Any]:
    """Events of the job that the client shows its user: what it waits for and what went wrong."""
    shown = []
    for event in events:
        kind = event["kind"]
        if kind == "waiting" or (kind == "result" and event.get("status") != "succeeded"):
            text = str(event.get("message") or event.get("for") or "")
            at = datetime.datetime.fromtimestamp(float(event["at"]), datetime.UTC).isoformat()
            shown.append(
                wheel().cluster.JobEvent(name=job.id, lastTimestamp=at, reason=kind, message=_one_line(text))
            )
    return shown


def _one_line(text: str) -> str:
    return " ".join(text.split())
