"""What the end of a job's process means for the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from openwafer.appliance import TRY_AGAIN, Job, JobFolder, JobSpec, Outcome
from openwafer.appliance._job import Stop
from openwafer.appliance._settle import End, Result, settle


def job(*, restarts: int = 0, can_resume: bool = True, stop: Stop | None = None) -> Job:
    """A running job that began with checkpoint-10 and may be restarted twice in a row."""
    spec = JobSpec(
        kind="train",
        command=("true",),
        resume_command=("true",) if can_resume else None,
        max_restarts=2 if can_resume else 0,
    )
    return Job(
        id="wsjob-a",
        spec=spec,
        state="running",
        user="ann",
        priority=299,
        created=0.0,
        order=0.0,
        restarts=restarts,
        checkpoint="checkpoint-10",
        stop=stop,
    )


def ended(status: int) -> Outcome:
    return Outcome("ended", status)


def settled(of: Job, outcome: Outcome, result: Result | None = None, newest: str = "checkpoint-10") -> End:
    return settle(of, outcome, result, newest, "error: the tape broke")


def test_status_0_is_success() -> None:
    """Unless the process said otherwise: a client may end a job as failed in good order."""
    assert settled(job(), ended(0)).state == "succeeded"
    assert settled(job(), ended(0), Result("failed", "the client said so")) == End(
        "failed", "the client said so", 0
    )


def test_a_status_of_its_own_is_a_failure_with_the_last_line_of_the_log() -> None:
    """The same command would fail alike; what it printed last is mostly why."""
    assert settled(job(), ended(1)) == End(
        "failed", "its process ended with status 1: error: the tape broke", 0
    )
    assert settled(job(), ended(1), Result("failed", "no such file")).reason == "no such file"
    assert settled(job(), ended(1), Result("succeeded", "all done")).state == "failed"


@pytest.mark.parametrize("outcome", [ended(-9), Outcome("lost"), ended(TRY_AGAIN)], ids=str)
def test_a_killed_process_starts_again_if_it_can_be_resumed(outcome: Outcome) -> None:
    """Memory that ran out, a machine that restarted: not the job's fault."""
    assert settled(job(), outcome).state == "queued"
    assert settled(job(can_resume=False), outcome).state == "failed"


def test_restarts_count_from_zero_when_there_is_a_new_checkpoint() -> None:
    """A job that makes progress may be killed any number of times; one that dies at the same place may not."""
    end = settled(job(restarts=1), ended(-9))
    assert end == End(
        "queued", "its process was killed by SIGKILL; going on from checkpoint-10, restart 2 of 2", 2
    )
    last = settled(job(restarts=2), ended(-9))
    assert last.state == "failed"
    assert "killed by SIGKILL after 2 restarts" in last.reason
    assert settled(job(restarts=2), ended(-9), newest="checkpoint-20").restarts == 1


def test_a_checkpoint_that_somebody_was_killed_over_is_no_newer_one(tmp_path: Path) -> None:
    """Its folder ends with the number of a process: taken for a step, it would stay the newest for ever."""
    for name in ("checkpoint-5", "checkpoint-10", "checkpoint-15.tmp-48213", "checkpoint-5.old-48213"):
        (tmp_path / "run" / "checkpoints" / name).mkdir(parents=True)

    assert JobFolder(tmp_path).newest_checkpoint() == "checkpoint-10"


@pytest.mark.parametrize("outcome", [ended(0), ended(130), ended(-9), Outcome("lost")], ids=str)
def test_who_ended_a_job_says_how_it_is_recorded(outcome: Outcome) -> None:
    """However the process took it: a client that is content ends its job as succeeded with a signal."""
    for state in ("cancelled", "succeeded", "failed"):
        stop = Stop(at=0.0, state=state, reason="enough")  # type: ignore[arg-type]
        assert settled(job(stop=stop), outcome) == End(state, "enough", 0)
