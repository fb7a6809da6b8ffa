"""A management node that dies loses no job and no line, and the next one goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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

from openwafer.appliance import JobFolder, ManagementNode
from openwafer.base import InputError

NODE = """
import sys, time
from pathlib import Path
from appliance_cases import config, resumable, shell
from openwafer.appliance import ManagementNode
with ManagementNode(config(Path(sys.argv[1]))) as node:
    for script in sys.argv[2:]:
        print(node.submit(resumable(script)).id, flush=True)
    time.sleep(1000)
"""
COUNT = "for i in $(seq 1 60); do echo line $i; sleep 0.02; done"


@contextmanager
def node_process(folder: Path, *scripts: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A node in a process of its own, which has taken these jobs; killed at the end at the latest."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(folder), *scripts],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert node.stdout is not None
    try:
        yield node, [node.stdout.readline().strip() for _ in scripts]
    finally:
        node.kill()
        node.wait()
        node.stdout.close()


def test_a_job_runs_on_without_its_node_and_the_next_node_takes_it_over(tmp_path: Path) -> None:
    """Its process writes its log itself: not a line is missing, and nothing was done twice."""
    with node_process(tmp_path, COUNT) as (node, ids):
        folder = JobFolder(tmp_path / "jobs" / ids[0])
        wait_until(lambda: "line 5\n" in folder.log.read_text())
        node.kill()
        node.wait()
        before = folder.log.read_text().count("line")
        wait_until(lambda: folder.log.read_text().count("line") > before + 5)
    with ManagementNode(config(tmp_path)) as later:
        done = wait_for(later, ids[0])
        assert (done.state, done.starts) == ("succeeded", 1)
        lines = [line for line in later.log(ids[0]).decode().splitlines() if line.startswith("line")]
    assert lines == [f"line {i}" for i in range(1, 61)]


def test_a_job_that_ended_while_no_node_was_there_is_settled_by_the_next(tmp_path: Path) -> None:
    """Its runner wrote down how; jobs that waited start then."""
    with node_process(tmp_path, "sleep 0.3; exit 0", "sleep 0.3; exit 5", "echo waited") as (node, ids):
        wait_until(
            lambda: all("started" in JobFolder(tmp_path / "jobs" / id).log.read_text() for id in ids[:2])
        )
        node.kill()
        node.wait()
        wait_until(lambda: not any(processes_of(tmp_path / "jobs" / id) for id in ids))
    with ManagementNode(config(tmp_path)) as later:
        ended = [wait_for(later, id) for id in ids]
        assert [(job.state, job.exit_status) for job in ended] == [
            ("succeeded", 0),
            ("failed", 5),
            ("succeeded", 0),
        ]
        assert "waited" in later.log(ids[2]).decode()


def test_a_job_that_was_killed_while_no_node_was_there_starts_again(tmp_path: Path) -> None:
    """As after a power cut: no process, no exit status, only the record."""
    with node_process(tmp_path, "test -e again && exit 0; touch again; echo up; sleep 1000") as (node, ids):
        folder = JobFolder(tmp_path / "jobs" / ids[0])
        wait_until(lambda: "up" in folder.log.read_text())
        node.kill()
        node.wait()
        os.kill(int(folder.alive.read_text().split()[0]), signal.SIGKILL)
        left_over = processes_of(folder.path)
    with ManagementNode(config(tmp_path)) as later:
        done = wait_for(later, ids[0])
        assert (done.state, done.starts) == ("succeeded", 2)
    assert not any(map(is_alive, left_over))


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_node_that_dies_while_it_starts_a_job_starts_it_once(tmp_path: Path, is_begun: bool) -> None:
    """The record says that it is scheduled; whether a process began is found in the folder."""
    with ManagementNode(config(tmp_path)) as node, node._board.lock:
        job = node.submit(shell("echo once >> count; sleep 0.2"))
        job = node._board.put(job, state="scheduled", systems=("system-0",), starts=1)
        if is_begun:
            folder = node.folder(job.id)
            node._supervisor._engine.start(folder, node._supervisor._command(job, folder))
        node._supervisor._ending.set()  # before its thread gets the lock
    with ManagementNode(config(tmp_path)) as later:
        assert wait_for(later, job.id).state == "succeeded"
        assert (later.folder(job.id).path / "count").read_text() == "once\n"


def test_going_down_interrupts_jobs_which_go_on_when_the_cluster_is_up_again(tmp_path: Path) -> None:
    """Those that can be resumed; the others are cancelled, with the reason."""
    script = "test -e again && exit 0; touch again; echo up; sleep 1000"
    with ManagementNode(config(tmp_path)) as node:
        kept, lost = node.submit(resumable(script)), node.submit(shell("echo up; sleep 1000"))
        for job in (kept, lost):
            wait_for_log(node, job.id, "up")
        assert node.drain() == []
        assert (node.job(kept.id).state, node.job(kept.id).reason) == ("queued", "the cluster went down")
        assert (node.job(lost.id).state, node.job(lost.id).reason) == ("cancelled", "the cluster went down")
        with pytest.raises(InputError, match="going down and starts no jobs"):
            node.submit(shell("true"))
    with ManagementNode(config(tmp_path)) as later:
        done = wait_for(later, kept.id)
        assert (done.state, done.restarts) == ("succeeded", 0)


def test_a_state_folder_has_one_node_at_a_time(tmp_path: Path) -> None:
    """Two would start the same jobs twice."""
    with (
        ManagementNode(config(tmp_path)),
        pytest.raises(InputError, match=f"another management node \\(process {os.getpid()}\\)"),
    ):
        ManagementNode(config(tmp_path))
    ManagementNode(config(tmp_path)).close()


def test_systems_stay_out_of_service_when_the_node_starts_again(tmp_path: Path) -> None:
    """What is broken is not mended by that."""
    with ManagementNode(config(tmp_path)) as node:
        node.take_out("system-0", "broken")
    with ManagementNode(config(tmp_path)) as node:
        assert node.amounts()[0].systems == 1
        node.put_in("system-0")
        assert node.amounts()[1].systems == 2
