"""A job as the node knows it: a frozen record, replaced by a newer version whenever anything about it changes."""

from __future__ import annotations

import base64
import secrets
from typing import Literal

import msgspec

from openwafer.appliance._spec import JobSpec

JobState = Literal[
    "created", "queued", "scheduled", "initializing", "running", "succeeded", "failed", "cancelled"
]
Ending = Literal["succeeded", "failed", "cancelled"]

FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
STARTED: frozenset[str] = frozenset({"initializing", "running"})
WAITING: frozenset[str] = frozenset({"created", "queued"})


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a job to end, and how its record should say that it did."""

    at: float
    state: Ending | Literal["queued"]
    """`queued`: it is only interrupted, and goes on later."""
    reason: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a job's record. Times are Unix seconds."""

    id: str
    spec: JobSpec
    state: JobState
    user: str
    priority: int
    created: float
    order: float
    """The age that counts in the queue: that of the first job of the workflow."""
    labels: dict[str, str] = {}
    reason: str = ""
    """Why it is in this state, for people."""
    waits_for: str = ""
    """What a queued job waits for; empty otherwise."""
    systems: tuple[str, ...] = ()
    """Names of the granted systems; they stay in the record when the job has ended."""
    scheduled: float | None = None
    started: float | None = None
    """When its process started for the first time."""
    ended: float | None = None
    ingress: str | None = None
    """Where the job's own service listens, if it has one."""
    starts: int = 0
    restarts: int = 0
    """Since the last new checkpoint."""
    exit_status: int | None = None
    """Of the job's process at its end; negative: the signal that ended it."""
    checkpoint: str = ""
    """The newest checkpoint of the job's run folder when it was last started or ended."""
    events_from: int = 0
    """Where in the job's events those of its latest start begin, in bytes."""
    stop: Stop | None = None
    version: int = 0

    @property
    def is_final(self) -> bool:
        """Whether nothing about the job will happen any more."""
        return self.state in FINAL

    @property
    def workflow(self) -> str | None:
        """The workflow that it belongs to."""
        return self.spec.workflow

    @property
    def duration_s(self) -> float | None:
        """From its first start to its end; None until then."""
        return None if self.started is None or self.ended is None else self.ended - self.started


def new_id(kind: Literal["wsjob", "wflow", "imgjob"]) -> str:
    """A name that no other job, workflow or image build has: 60 random bits, never guessed and never counted."""
    return f"{kind}-{base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]}"
