"""Who starts next: one queue per resource, priority before age, and nobody waits forever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openwafer.appliance import Amounts, Job, JobSpec
from openwafer.appliance._queue import choose, needs

CLUSTER = Amounts(compile_slots=1, systems=4, memoryx_bytes=1000)


def job(
    name: str,
    at: float,
    *,
    systems: int = 0,
    compile_slots: int = 0,
    memoryx: int = 0,
    priority: int = 299,
    least: int | None = None,
) -> Job:
    """A job that waits since `at`."""
    spec = JobSpec(
        kind="train",
        command=("true",),
        systems=systems,
        compile_slots=compile_slots,
        memoryx_bytes=memoryx,
        min_systems=least,
    )
    return Job(id=name, spec=spec, state="queued", user="ann", priority=priority, created=at, order=at)


def started(*jobs: Job, free: Amounts = CLUSTER, total: Amounts = CLUSTER) -> list[str]:
    """Ids of those that start, in order."""
    return [start.job.id for start in choose(jobs, free, total)[0]]


def text_of(id: str, *jobs: Job, free: Amounts = CLUSTER) -> str:
    """What a job that waits is told."""
    return next(wait.text for wait in choose(jobs, free, CLUSTER)[1] if wait.job.id == id)


def test_priority_goes_before_age_and_age_before_anything_else() -> None:
    """p1 is asked for by whoever cannot wait; among equals the first comes first."""
    jobs = [
        job("old", 1, systems=2),
        job("new", 3, systems=2),
        job("urgent", 4, systems=2, priority=199),
        job("middle", 2, systems=2),
    ]
    assert started(*jobs) == ["urgent", "old"]


def test_a_later_job_does_not_overtake_one_that_waits_for_the_same_resource() -> None:
    """Else a job for all systems would wait as long as small ones come."""
    assert started(job("large", 1, systems=4), job("small", 2, systems=1), free=Amounts(1, 3, 1000)) == []


def test_queues_of_different_resources_do_not_hold_each_other_up() -> None:
    """A compile job takes no system, so that a full cluster is no reason to wait for it."""
    jobs = [job("train", 1, systems=4), job("compile", 2, compile_slots=1)]
    assert started(*jobs, free=Amounts(1, 0, 1000)) == ["compile"]


def test_what_a_waiting_job_could_have_is_kept_for_it() -> None:
    """It waits for systems; if others took its memory meanwhile, it would wait for that when systems are free, in turn
    forever.
    """
    first = job("first", 1, systems=4, memoryx=800)
    assert started(first, job("memory", 2, memoryx=300), free=Amounts(1, 0, 1000)) == []
    assert started(first, job("memory", 2, memoryx=200), free=Amounts(1, 0, 1000)) == ["memory"]


def test_fewer_systems_only_where_the_cluster_has_no_more_in_service() -> None:
    """`min_systems` is for clusters that have lost some, not a way past the queue."""
    flexible = job("flexible", 1, systems=4, least=2)
    assert started(flexible, free=Amounts(1, 3, 1000)) == []
    assert choose([flexible], Amounts(1, 3, 0), Amounts(1, 3, 0))[0][0].systems == 3
    assert started(flexible, free=Amounts(1, 1, 0), total=Amounts(1, 1, 0)) == []


def test_a_waiting_job_is_told_for_what_and_how_many_are_before_it() -> None:
    """Who waits for hours wants to know why."""
    jobs = [job("a", 1, systems=4), job("b", 2, systems=2), job("c", 3, systems=1, memoryx=2000)]
    free = Amounts(1, 3, 1000)
    assert text_of("a", *jobs, free=free) == "4 systems: 3 of 4 free, first in this queue"
    assert text_of("b", *jobs, free=free) == "2 systems: 1 job before it"
    assert text_of("c", *jobs, free=free) == (
        "1 system: 2 jobs before it; 1.95 KiB of MemoryX memory: 1000 B of 1000 B free, more than there is in service"
    )


JOBS = st.lists(
    st.builds(
        job,
        st.uuids().map(str),
        st.floats(0, 100),
        systems=st.integers(0, 4),
        compile_slots=st.integers(0, 1),
        memoryx=st.integers(0, 1000),
        priority=st.integers(0, 399),
    ),
    max_size=12,
)


@given(jobs=JOBS)
def test_nothing_is_given_twice_and_the_first_in_line_waits_for_nobody(jobs: list[Job]) -> None:
    """What starts fits together, and an idle cluster always starts the job whose turn it is: so every job ends up first."""
    starts, waits = choose(jobs, CLUSTER, CLUSTER)
    assert {s.job.id for s in starts} | {w.job.id for w in waits} == {j.id for j in jobs}
    assert len(starts) + len(waits) == len(jobs)
    given_away = Amounts()
    for start in starts:
        given_away = given_away.plus(needs(start.job, CLUSTER))
    assert all(amount >= 0 for amount in CLUSTER.minus(given_away))
    if jobs:
        first = min(jobs, key=lambda j: (j.priority, j.order, j.created, j.id))
        assert starts
        assert starts[0].job.id == first.id
    assert all(wait.text for wait in waits)
