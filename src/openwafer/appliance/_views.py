"""What goes over the wire, beside jobs as they are: the types of bodies and answers."""

from __future__ import annotations

import msgspec

from openwafer.appliance._job import Ending, Job
from openwafer.appliance._spec import JobSpec


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job to take, and files for its `source` folder (base64 in JSON)."""

    spec: JobSpec
    files: dict[str, bytes] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New labels (null removes one) and a new place in the queue."""

    labels: dict[str, str | None] = {}
    priority: int | None = None


class Cancellation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the job's record is to say that it ended."""

    state: Ending = "cancelled"
    reason: str = ""


class SystemChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether jobs may have a system."""

    in_service: bool
    reason: str = ""


class Jobs(msgspec.Struct, frozen=True):
    """The newest first."""

    jobs: list[Job]


class Resource(msgspec.Struct, frozen=True):
    """So much of it is in service, and so much of that free."""

    name: str
    total: int
    free: int


class SystemView(msgspec.Struct, frozen=True):
    """One system: who has it, and why nobody may."""

    name: str
    job: str
    out_of_service: str


class HostView(msgspec.Struct, frozen=True):
    """A machine of the cluster: how many systems it offers, and how many jobs have processes there."""

    name: str
    address: str
    systems: int
    jobs: int


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster as it is now."""

    version: str
    user: str
    admin: bool
    resources: list[Resource]
    systems: list[SystemView]
    states: dict[str, int]
    """How many jobs that have not ended are in which state, everybody's."""
    memoryx: str
    hosts: list[HostView] = []
    """Empty where all is on the machine of the management node."""


class Problem(msgspec.Struct, frozen=True):
    """Why a request failed: what, where, why and what to do next."""

    message: str
    kind: str


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: Problem
