"""What a user asks for: a command, what it takes of the cluster, and how it may end."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from openwafer.base import InputError

JobKind = Literal["train", "compile", "execute", "image"]

DEFAULT_PRIORITY = 299
"""The last of p2, as clients of the real appliance know it."""
BANDS = 4
BAND = 100
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
MOST_LABELS = 32


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a job runs on the systems of several hosts, where the cluster has several.

    The engine writes the address at which the job's command listens for `{listen}`, its port for `{port}`, the number of
    agents for `{hosts}`, and a file with a secret that only they share for `{token}`.
    """

    options: tuple[str, ...]
    """Appended to the job's command, which then waits for an agent of every host."""
    agent: tuple[str, ...]
    """The command that lends a host to it; it ends when the job's command has gone."""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job as it was asked for; never changed after `submit`.

    In `command`, `resume_command`, `folder` and `environment` the node writes, when it starts the job, the job's folder for
    `{job}`, the granted number of systems for `{systems}`, the job's MemoryX place (`ram` or `disk:<folder>`) for
    `{memoryx}` and its own Python interpreter for `{python}`.
    """

    kind: JobKind
    command: tuple[str, ...]
    user: str = ""
    name: str = ""
    resume_command: tuple[str, ...] | None = None
    """For every start after the first; it must also do if the first one came to nothing. None: the job is never restarted."""
    environment: dict[str, str] = {}
    """In addition to the node's own environment."""
    spread: Spread | None = None
    """None: the job's processes all run on the host of the management node."""
    folder: str = "{job}"
    """The working directory."""
    systems: int = 0
    min_systems: int | None = None
    """The job may run on so few, where the cluster has lost some. None: as many as `systems`."""
    compile_slots: int = 0
    memoryx_bytes: int = 0
    priority: int | None = None
    """0 (first) to 399. None: that of the workflow, or else 299."""
    labels: dict[str, str] = {}
    workflow: str | None = None
    time_limit_s: float | None = None
    """From the first start to the end, with restarts and what lies between them."""
    lease_s: float | None = None
    """The job ends if nobody calls `heartbeat` for so long. None: nobody has to."""
    max_restarts: int = 0
    """In a row: a new checkpoint of the job's run folder makes it count from zero."""
    mounts: tuple[str, ...] = ()
    """Folders that the job's command reads or writes; each must lie in a volume that its user may use."""
    tells_state: bool = False
    """The job's process says by an event when it runs; until then it is initializing. Else it runs from its start on."""

    def checked(self) -> JobSpec:
        """This spec, if it can be meant. Raises InputError."""
        if not self.command or not all(isinstance(word, str) for word in self.command):
            raise InputError("a job needs a command; give its words as a list, the program first")
        if any("\0" in word for word in (*self.command, *(self.resume_command or ()), self.folder)):
            raise InputError("a word of the job's command holds a NUL character; leave it out")
        for field in ("systems", "compile_slots", "memoryx_bytes", "max_restarts"):
            if getattr(self, field) < 0:
                raise InputError(f"{field} is {getattr(self, field)}; give 0 or more")
        if self.min_systems is not None and not 1 <= self.min_systems <= max(1, self.systems):
            raise InputError(
                f"min_systems is {self.min_systems}, but the job asks for {self.systems} systems; give 1 to that"
            )
        if self.priority is not None:
            check_priority(self.priority)
        for field in ("time_limit_s", "lease_s"):
            value = getattr(self, field)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{field} is {value}; give a number of seconds above 0, or leave it out")
        if self.max_restarts and self.resume_command is None:
            raise InputError(
                "max_restarts is given without resume_command; say how the job goes on, or give 0"
            )
        if any("=" in name or "\0" in name + value or not name for name, value in self.environment.items()):
            raise InputError("a name in environment is empty or holds '=' or NUL; give plain names")
        check_labels(self.labels)
        return self


def check_priority(priority: int) -> int:
    """The same number. Raises InputError beyond 0 to 399."""
    if not 0 <= priority < BANDS * BAND:
        raise InputError(
            f"priority {priority} does not exist; give p0 to p3, or a number from 0 (first) to 399"
        )
    return priority


def parse_priority(text: str) -> int:
    """`p1` (the last of its band, 199) or a number. Raises InputError for anything else."""
    word = text.strip().lower()
    if re.fullmatch(r"p[0-3]", word):
        return int(word[1]) * BAND + BAND - 1
    if not re.fullmatch(r"\d{1,4}", word):
        raise InputError(f"{text!r} is no priority; give p0 to p3, or a number from 0 (first) to 399")
    return check_priority(int(word))


def check_labels(labels: dict[str, str]) -> None:
    """Raises InputError for names and values that could not be asked for again as `name=value`."""
    if len(labels) > MOST_LABELS:
        raise InputError(f"{len(labels)} labels are too many; give at most {MOST_LABELS}")
    for name, value in labels.items():
        if not LABEL.fullmatch(name) or (value and not LABEL.fullmatch(value)):
            raise InputError(
                f"{name}={value} is no label; write name=value of letters, digits, '.', '_', '-' and '/', at most 63 each"
            )
