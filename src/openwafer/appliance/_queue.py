"""Which waiting jobs start now: one queue per resource, priority before age. Data in, data out.

order: priority, then the age that counts, then the order of submission
a job starts when everything that it takes is free and nobody before it waits for any of that
a job that waits keeps what of its needs is free from those behind it, so that nobody waits forever
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from openwafer.appliance._job import Job
from openwafer.base import format_bytes

COMPILE = "compile slots"
SYSTEMS = "systems"
MEMORYX = "MemoryX memory"


class Amounts(NamedTuple):
    """So much of each resource."""

    compile_slots: int = 0
    systems: int = 0
    memoryx_bytes: int = 0

    def minus(self, other: Amounts) -> Amounts:
        """Each less the other's."""
        return Amounts(*(a - b for a, b in zip(self, other, strict=True)))

    def plus(self, other: Amounts) -> Amounts:
        """Each and the other's."""
        return Amounts(*(a + b for a, b in zip(self, other, strict=True)))


RESOURCES = (COMPILE, SYSTEMS, MEMORYX)


class Start(NamedTuple):
    """A job that starts now, on so many systems."""

    job: Job
    systems: int


class Wait(NamedTuple):
    """A job that goes on waiting, and for what, for people."""

    job: Job
    text: str


def rank(job: Job) -> tuple[int, float, float, str]:
    """Jobs of a lower rank go first."""
    return job.priority, job.order, job.created, job.id


def choose(waiting: Iterable[Job], free: Amounts, total: Amounts) -> tuple[list[Start], list[Wait]]:
    """Who starts and who waits, in the order of the queue.

    free: what nobody has. total: what there is, without systems that are out of service. A job that may run on fewer systems
    than it asks for gets fewer only if the cluster has no more, and never fewer than `min_systems`.
    """
    starts: list[Start] = []
    waits: list[Wait] = []
    heads: dict[str, Job] = {}
    behind: dict[str, int] = {}
    for job in sorted(waiting, key=rank):
        need = needs(job, total)
        taken = [name for name, amount in zip(RESOURCES, need, strict=True) if amount]
        lacks = [
            name for name, amount, left in zip(RESOURCES, need, free, strict=True) if amount > max(0, left)
        ]
        blocked = [name for name in taken if name in heads]
        if not lacks and not blocked:
            starts.append(Start(job, need.systems))
            free = free.minus(need)
            continue
        waits.append(Wait(job, _text(need, free, total, lacks, blocked, heads, behind)))
        for name in lacks:
            heads.setdefault(name, job)
        # What it could have is kept for it: otherwise two resources could be free in turn, and never together.
        free = free.minus(
            Amounts(*(0 if name in lacks else a for name, a in zip(RESOURCES, need, strict=True)))
        )
        for name in taken:
            behind[name] = behind.get(name, 0) + 1
    return starts, waits


def needs(job: Job, total: Amounts) -> Amounts:
    """What a job takes of a cluster of this size."""
    spec = job.spec
    systems = spec.systems
    if systems > total.systems and spec.min_systems is not None and spec.min_systems <= total.systems:
        systems = total.systems
    return Amounts(spec.compile_slots, systems, spec.memoryx_bytes)


def taken(jobs: Iterable[Job]) -> Amounts:
    """What the jobs that have been given something hold in all."""
    sums = Amounts()
    for job in jobs:
        sums = sums.plus(Amounts(job.spec.compile_slots, len(job.systems), job.spec.memoryx_bytes))
    return sums


def _text(
    need: Amounts,
    free: Amounts,
    total: Amounts,
    lacks: Sequence[str],
    blocked: Sequence[str],
    heads: dict[str, Job],
    behind: dict[str, int],
) -> str:
    parts = []
    for name, amount, left, whole in zip(RESOURCES, need, free, total, strict=True):
        if name in lacks and name not in heads:
            parts.append(
                f"{_amount(name, amount)}: {_amount(name, max(0, left), False)} of {_amount(name, whole, False)} free, "
                f"{'more than there is in service' if amount > whole else 'first in this queue'}"
            )
        elif name in lacks or name in blocked:
            ahead = behind.get(name, 0)
            parts.append(f"{_amount(name, amount)}: {ahead} {'job' if ahead == 1 else 'jobs'} before it")
    return "; ".join(parts)


def _amount(name: str, amount: int, named: bool = True) -> str:
    if name == MEMORYX:
        return format_bytes(amount) + (" of MemoryX memory" if named else "")
    if not named:
        return str(amount)
    return f"{amount} {name if amount != 1 else name.removesuffix('s')}"
