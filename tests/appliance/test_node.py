"""The life of a job, with real processes and none of our models."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from appliance_cases import (
    config,
    is_alive,
    processes_of,
    resumable,
    shell,
    wait_for,
    wait_for_log,
    wait_until,
)

from openwafer.appliance import ManagementNode
from openwafer.base import EngineError, InputError, JobNotFoundError, StorageError


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ManagementNode]:
    """A node whose jobs are gone with the test."""
    with ManagementNode(config(tmp_path / "state", grace_s=5.0)) as node:
        yield node
        for job in node.queue():
            node.cancel(job.id)
        node.drain()


def states(node: ManagementNode, id: str) -> list[str]:
    """The states that the job's events tell of."""
    return [
        event["state"]
        for event in node.events(id)[0]
        if event["kind"] == "state" and "ending" not in event["message"]
    ]


def test_a_job_runs_and_its_log_and_events_tell_of_it(node: ManagementNode) -> None:
    """What it printed is in its log, what became of it in its record and its events."""
    job = node.submit(shell("echo hello $OPENWAFER_JOB_ID; echo world >&2"))
    done = wait_for(node, job.id)
    assert (done.state, done.exit_status, done.systems) == ("succeeded", 0, ("system-0",))
    assert node.log(job.id).decode().splitlines() == [
        "[wafer] started on system-0",
        f"hello {job.id}",
        "world",
        "[wafer] succeeded: its process ended with status 0",
    ]
    assert states(node, job.id) == ["queued", "scheduled", "running", "succeeded"]
    assert done.created <= (done.scheduled or 0) <= (done.started or 0) <= (done.ended or 0)


def test_the_command_is_told_what_it_was_given(node: ManagementNode) -> None:
    """It cannot know its folder, its systems or its place in MemoryX before it is submitted."""
    script = 'echo "$0" "$1" "$2"; pwd; cat source/deep/file; echo $PLACE'
    words = ("sh", "-c", script, "{job}", "{systems}", "{memoryx}")
    spec = shell("", command=words, systems=2, environment={"PLACE": "{job}/x"})
    job = node.submit(spec, {"deep/file": b"content\n"})
    wait_for(node, job.id)
    folder = str(node.folder(job.id).path)
    assert node.log(job.id).decode().splitlines()[1:5] == [
        f"{folder} 2 ram",
        folder,
        "content",
        f"{folder}/x",
    ]


def test_jobs_wait_for_systems_and_go_in_their_order(node: ManagementNode) -> None:
    """Two systems: the third job starts when one of the first has ended, before the fourth."""
    first = [node.submit(shell("sleep 0.3", systems=1)) for _ in range(2)]
    later = [node.submit(shell("date +%s.%N", systems=1)) for _ in range(2)]
    assert "0 of 2 free, first in this queue" in wait_until(lambda: node.job(later[0].id).waits_for)
    assert wait_until(lambda: node.job(later[1].id).waits_for) == "1 system: 1 job before it"
    ended = [wait_for(node, job.id) for job in (*first, *later)]
    assert [job.state for job in ended] == ["succeeded"] * 4
    assert (ended[2].scheduled or 0) >= min(job.ended or 0 for job in ended[:2])
    assert (ended[2].scheduled or 0) <= (ended[3].scheduled or 0)
    assert ended[2].waits_for == ""


def test_priority_decides_who_is_next_and_can_be_changed_while_waiting(node: ManagementNode) -> None:
    """The blocker runs; of those that wait the one with the lowest number goes first."""
    blocker = node.submit(shell("sleep 100", systems=2))
    low, middle, high = (node.submit(shell("true", systems=2, priority=p)) for p in (399, 299, 250))
    node.prioritise(low.id, 100)
    node.cancel(blocker.id)
    ended = [wait_for(node, job.id) for job in (low, high, middle)]
    assert ended == sorted(ended, key=lambda job: job.scheduled or 0)
    with pytest.raises(InputError, match="has succeeded; a job has a place in the queue only until then"):
        node.prioritise(low.id, 5)


def test_later_jobs_of_a_workflow_inherit_priority_and_age(node: ManagementNode) -> None:
    """A run is a compile job and then an execute job: the second must not wait behind all that came meanwhile."""
    workflow = node.new_workflow()
    blocker = node.submit(shell("sleep 100", systems=2))
    compiled = node.submit(shell("true", systems=0, compile_slots=1, workflow=workflow, priority=150))
    wait_for(node, compiled.id)
    between = node.submit(shell("true", systems=2, priority=150))
    execute = node.submit(shell("true", systems=2, workflow=workflow))
    assert (execute.priority, execute.order) == (150, compiled.order)
    node.cancel(blocker.id)
    assert (wait_for(node, execute.id).scheduled or 0) < (wait_for(node, between.id).scheduled or 0)


def test_cancelling_interrupts_a_job_that_may_then_end_in_its_own_way(node: ManagementNode) -> None:
    """It gets what Ctrl-C sends, and time for a checkpoint."""
    job = node.submit(shell("trap 'echo saving; exit 3' INT; echo ready; while :; do sleep 0.05; done"))
    wait_for_log(node, job.id, "ready")
    node.cancel(job.id, reason="cancelled by ann")
    done = wait_for(node, job.id)
    assert (done.state, done.reason, done.exit_status) == ("cancelled", "cancelled by ann", 3)
    assert "saving" in node.log(job.id).decode()
    assert node.cancel(job.id) == done


def test_a_job_that_does_not_end_is_killed_with_everything_that_it_started(tmp_path: Path) -> None:
    """Also what ignores signals, and what went into a session of its own."""
    program = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "subprocess.Popen(['sleep', '1000'], start_new_session=True); print('ready', flush=True); time.sleep(1000)"
    )
    with ManagementNode(config(tmp_path, grace_s=0.2)) as node:
        job = node.submit(shell("", command=(sys.executable, "-c", program)))
        wait_for_log(node, job.id, "ready")
        pids = processes_of(node.folder(job.id).path)
        assert len(pids) == 2
        node.cancel(job.id)
        assert wait_for(node, job.id).state == "cancelled"
        assert "killed: it did not end within 0.2 s" in node.log(job.id).decode()
        assert not any(map(is_alive, pids))


def test_a_job_that_waits_is_cancelled_at_once(node: ManagementNode) -> None:
    """Nothing of it ever ran."""
    node.submit(shell("sleep 100", systems=2))
    job = node.submit(shell("true"))
    done = node.cancel(job.id, state="failed", reason="the client says so")
    assert (done.state, done.reason, done.starts) == ("failed", "the client says so", 0)


def test_systems_are_free_only_when_nothing_of_the_job_is_left(node: ManagementNode) -> None:
    """A role that outlives its coordinator still has its memory."""
    job = node.submit(shell("sleep 0.5 & exit 0", systems=2))
    done = wait_for(node, job.id)
    assert done.state == "succeeded"
    assert (done.ended or 0) - (done.started or 0) >= 0.4
    assert processes_of(node.folder(job.id).path) == []


def test_a_time_limit_ends_a_job(node: ManagementNode) -> None:
    """As cancelling does, with the limit as the reason."""
    done = wait_for(node, node.submit(shell("sleep 100", time_limit_s=0.2)).id)
    assert (done.state, done.reason) == ("cancelled", "ran longer than its limit of 0.2 s")


def test_a_lease_that_nobody_renews_ends_a_job_and_heartbeats_keep_it(node: ManagementNode) -> None:
    """A client that died cannot cancel its job."""
    kept, left = (node.submit(shell("sleep 100", lease_s=1.0)) for _ in range(2))
    end = time.monotonic() + 30
    while not node.job(left.id).is_final:
        node.heartbeat(kept.id)
        assert time.monotonic() < end
        time.sleep(0.1)
    assert node.job(left.id).reason == "no heartbeat for 1 s"
    assert node.job(kept.id).state == "running"


def test_a_killed_job_starts_again_with_its_resume_command(node: ManagementNode) -> None:
    """From its last checkpoint, in the same folder, with the same log."""
    job = node.submit(
        shell(
            "echo first; kill -9 $$",
            resume_command=("sh", "-c", "echo second"),
            max_restarts=1,
        )
    )
    done = wait_for(node, job.id)
    assert (done.state, done.starts, done.restarts) == ("succeeded", 2, 1)
    log = node.log(job.id).decode()
    assert log.index("first") < log.index("killed by SIGKILL; going on from the start") < log.index("second")


def test_a_job_that_dies_at_the_same_place_is_given_up(node: ManagementNode) -> None:
    """Restarts without a new checkpoint in between are counted."""
    done = wait_for(node, node.submit(resumable("kill -9 $$", max_restarts=2)).id)
    assert (done.state, done.starts) == ("failed", 3)
    assert done.reason.startswith("its process was killed by SIGKILL after 2 restarts")


def test_a_killed_runner_takes_its_job_along_and_the_job_starts_again(node: ManagementNode) -> None:
    """Whatever process of a job is killed, none is left over, and the job goes on."""
    job = node.submit(resumable("echo pid $$; test -e again || { touch again; sleep 1000; }"))
    wait_for_log(node, job.id, "pid")
    folder = node.folder(job.id)
    pids = processes_of(folder.path)
    os.kill(int(folder.alive.read_text().split()[0]), signal.SIGKILL)
    done = wait_for(node, job.id)
    assert (done.state, done.starts) == ("succeeded", 2)
    assert "its process was lost; going on" in node.log(job.id).decode()
    assert pids
    assert not any(map(is_alive, pids))


def test_a_restart_goes_on_with_fewer_systems_if_one_is_out_of_service(node: ManagementNode) -> None:
    """If the job's user allows it; the job learns how many by {systems}."""
    command = ("sh", "-c", "echo on $0; test -e again || { touch again; kill -9 $$; }", "{systems}")
    waiting = ("sh", "-c", "test -e go || sleep 0.5; touch go; kill -9 $$")
    spec = shell("", command=waiting, resume_command=command, max_restarts=3, systems=2, min_systems=1)
    job = node.submit(spec)
    wait_for(node, job.id, "running")
    node.take_out("system-1", "smells of smoke")
    done = wait_for(node, job.id)
    assert done.systems == ("system-0",)
    assert "on 1" in node.log(job.id).decode()
    assert node.systems()[1] == ("system-1", "", "smells of smoke")
    with pytest.raises(InputError, match="there is no system 'system-7'"):
        node.take_out("system-7", "")


def test_the_process_may_say_when_it_runs_where_it_listens_and_what_came_of_it(node: ManagementNode) -> None:
    """Events are the only thing that a job's process and the node have between them."""
    script = """
        say() { echo "$1" >> $OPENWAFER_JOB/events.jsonl; }
        while [ ! -e go ]; do sleep 0.02; done
        say '{"kind":"ingress","address":"127.0.0.1:4711"}'
        say 'not json'
        say '{"kind":"waiting","for":"input"}'
        say '{"kind":"state","state":"running","message":"the first step is done"}'
        while [ -e go ]; do sleep 0.02; done
        say '{"kind":"result","status":"failed","message":"the loss is NaN"}'
        exit 1
    """
    job = node.submit(shell(script, tells_state=True))
    go = node.folder(job.id).path / "go"
    assert wait_for(node, job.id, "initializing").ingress is None
    go.touch()
    running = wait_for(node, job.id, "running")
    assert (running.ingress, running.reason) == ("127.0.0.1:4711", "the first step is done")
    go.unlink()
    done = wait_for(node, job.id)
    assert (done.state, done.reason) == ("failed", "the loss is NaN")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("/no/such/program",), "its process ended with status 127: "),
        (("sh", "-c", "echo oops >&2; exit 7"), "its process ended with status 7: oops"),
    ],
)
def test_a_command_that_fails_says_why(node: ManagementNode, command: tuple[str, ...], text: str) -> None:
    """The reason in the record is the last line of the log."""
    done = wait_for(node, node.submit(shell("", command=command)).id)
    assert done.state == "failed"
    assert done.reason.startswith(text)


def test_labels_are_set_removed_and_asked_for(node: ManagementNode) -> None:
    """Also on jobs that have ended: people sort their results."""
    first = node.submit(shell("true", labels={"team": "nlp", "try": "1"}))
    second = node.submit(shell("true", labels={"team": "nlp"}))
    wait_for(node, first.id)
    assert node.label(first.id, {"try": None, "good": "yes"}).labels == {"team": "nlp", "good": "yes"}
    assert [job.id for job in node.jobs(labels={"team": "nlp"})] == [second.id, first.id]
    assert [job.id for job in node.jobs(labels={"good": "yes", "team": "nlp"})] == [first.id]
    with pytest.raises(InputError, match="is no label"):
        node.label(first.id, {"a b": "c"})


def test_a_job_that_is_not_there_is_said_not_to_be(node: ManagementNode) -> None:
    """And no id leads out of the jobs' folder."""
    for id in ("wsjob-aaaaaaaaaaaa", "../../etc", ""):
        with pytest.raises(JobNotFoundError, match="there is no job"):
            node.job(id)
        assert node.folder(id).path.is_relative_to(node.config.folder.resolve() / "jobs")


def test_a_submission_that_could_not_be_written_leaves_no_job(
    node: ManagementNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told of an error must not find the job running later."""

    def full(job: object) -> None:
        raise StorageError("cannot write to the job store: disk full")

    with monkeypatch.context() as patched:
        patched.setattr(node._board._store, "add", full)
        with pytest.raises(StorageError, match="disk full"):
            node.submit(shell("true"))
    assert node.queue() == []
    assert list((node.config.folder / "jobs").iterdir()) == []


def test_a_step_that_could_not_be_written_down_is_done_again(
    node: ManagementNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a while delays a job's end; it does not lose it."""
    job = node.submit(shell("while [ ! -e go ]; do sleep 0.02; done"))
    wait_for(node, job.id, "running")
    put, refused = node._board._store.put, []

    def full_for_a_while(job: object) -> None:
        if len(refused) < 5:
            refused.append(job)
            raise StorageError("cannot write to the job store: disk full")
        put(job)  # type: ignore[arg-type]

    monkeypatch.setattr(node._board._store, "put", full_for_a_while)
    (node.folder(job.id).path / "go").touch()
    assert wait_for(node, job.id).state == "succeeded"
    assert len(refused) == 5


def test_a_start_that_the_machine_refuses_is_tried_again(
    node: ManagementNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without room or processes for a moment is no reason to fail a job that waited for hours."""
    start, refused = node._supervisor._engine.start, []

    def refuse_once(*arguments: object) -> None:
        if not refused:
            refused.append(arguments)
            raise EngineError("no more processes")
        start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("openwafer.appliance._supervisor._RETRY_S", 0.1)
    monkeypatch.setattr(node._supervisor._engine, "start", refuse_once)
    job = node.submit(shell("true"))
    assert wait_for(node, job.id).state == "succeeded"
    assert refused
    reasons = [event["message"] for event in node.events(job.id)[0]]
    assert "will be tried again: no more processes" in reasons


def test_nothing_that_fails_in_a_round_ends_the_node(
    node: ManagementNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose thread is gone would take jobs and never start them."""
    look, broken = node._supervisor._engine.look, []

    def break_a_few_times(*arguments: object) -> object:
        if len(broken) < 3:
            broken.append(arguments)
            raise ValueError("our bug")
        return look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("openwafer.appliance._supervisor._RETRY_S", 0.1)
    monkeypatch.setattr(node._supervisor._engine, "look", break_a_few_times)
    job = node.submit(shell("true"))
    assert wait_for(node, job.id).state == "succeeded"
    assert len(broken) == 3


def test_memoryx_on_disk_is_a_folder_of_the_job_that_goes_with_it(tmp_path: Path) -> None:
    """Weights that were streamed are no result; checkpoints are."""
    place = tmp_path / "memoryx"
    with ManagementNode(config(tmp_path / "state", memoryx=f"disk:{place}")) as node:
        job = node.submit(
            shell("", command=("sh", "-c", "echo $0; mkdir -p ${0#disk:}; ls -d ${0#disk:}", "{memoryx}"))
        )
        assert wait_for(node, job.id).state == "succeeded"
        assert f"disk:{place}/{job.id}" in node.log(job.id).decode()
    assert list(place.iterdir()) == []
