"""Jobs over the nodes of a Ray cluster: several Ray nodes on this machine, each with its own raylet."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from appliance_cases import config, shell, wait_for, wait_for_log, wait_until
from counted_job import check_undisturbed, counted_job

from openwafer.appliance import Job, ManagementNode, Spread
from openwafer.base import InputError
from openwafer.cli._train_job import HOST_COMMAND, HOSTS_OPTIONS

# Ray listens at all addresses of the machine: a token, which it reads when it is loaded, keeps others out.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
# A raylet that was killed refuses to be asked: after five times it counts as dead. By itself Ray asks every 3 seconds.
os.environ.update(RAY_health_check_period_ms="500")

from openwafer.appliance.ray import RayEngine
from openwafer.appliance.ray._placement import Placement, read_placement

STEPS = 40
SPREAD = Spread(options=HOSTS_OPTIONS, agent=HOST_COMMAND)
ANYWHERE = Spread(options=(), agent=("true",))
UNTIL_GO = "echo up; while ! test -e go; do sleep 0.05; done; exit 3"


class RayCluster:
    """Ray nodes of this machine. The first offers no systems: the management node is there."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster()
        self.add(0)
        self.address: str = self.cluster.address

    def add(self, systems: int) -> Any:
        offers = {"wafer_system": systems} if systems else {}
        return self.cluster.add_node(
            num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, resources=offers
        )

    def cut_off(self, id: str) -> None:
        """End a node as a power cut does: its raylet is killed, and with it goes what it started."""
        nodes = self.cluster.list_all_nodes()
        self.cluster.remove_node(next(n for n in nodes if n.node_id == id), allow_graceful=False)


@pytest.fixture(scope="module")
def empty() -> Iterator[RayCluster]:
    """A Ray cluster of one node without systems."""
    cluster = RayCluster()
    yield cluster
    cluster.cluster.shutdown()


def seats(node: ManagementNode, job: Job) -> Placement:
    """Where the job's latest start is."""
    placement = read_placement(node.folder(job.id))
    assert placement is not None
    return placement


def test_a_job_runs_on_a_host_that_has_room_and_is_found_again_by_the_next_node(
    empty: RayCluster, tmp_path: Path
) -> None:
    """Its keeper has a name, and what it does stands in the job's folder."""
    wide = empty.add(2)
    try:
        with RayEngine(tmp_path, empty.address) as engine:
            assert (engine.systems(), engine.threads()) == (2, 1)
            with ManagementNode(config(tmp_path), engine) as node:
                job = node.submit(shell(UNTIL_GO, systems=2, spread=ANYWHERE))
                wait_for_log(node, job.id, "up")
                where = seats(node, job)
                assert [(seat.node, seat.systems) for seat in where.seats] == [(wide.node_id, 2)]
                assert sorted(host.jobs for host in node.hosts()) == [(), (job.id,)]
        with RayEngine(tmp_path, empty.address) as engine, ManagementNode(config(tmp_path), engine) as node:
            (node.folder(job.id).path / "go").touch()
            done = wait_for(node, job.id)
            assert (done.state, done.exit_status, done.starts) == ("failed", 3, 1)
            ended = node.submit(shell(UNTIL_GO, systems=2, spread=ANYWHERE))
            wait_for_log(node, ended.id, "up")
            node.cancel(ended.id)
            assert wait_for(node, ended.id).state == "cancelled"
    finally:
        empty.cluster.remove_node(wide)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1), (2, 2)], ids=["over two hosts", "on one of two"])
def test_a_host_that_is_cut_off_in_the_middle_changes_no_number(
    empty: RayCluster, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    """A job over several hosts goes on with those that are left; one whose own host is lost starts again on another. Both
    from the last checkpoint.
    """
    for size in sizes:
        empty.add(size)
    state = tmp_path / "state"
    try:
        with RayEngine(state, empty.address) as engine, ManagementNode(config(state), engine) as node:
            hurry = tmp_path / "hurry"
            job = node.submit(*counted_job(STEPS, 0.1, hurry, spread=SPREAD))
            folder = node.folder(job.id)
            wait_until(lambda: (folder.run / "checkpoints" / "checkpoint-10").exists(), "checkpoint-10")
            where = seats(node, job)
            assert len(where.seats) == 2 // sizes[0]
            empty.cut_off(where.seats[-1].node)
            wait_for_log(node, job.id, "was lost")
            hurry.touch()
            done = wait_for(node, job.id)
            log = node.log(job.id).decode()
            assert done.state == "succeeded", log
            assert done.starts == (1 if len(where.seats) == 2 else 2), log
            if done.starts == 2:
                assert seats(node, job).seats[0].node != where.seats[0].node
                assert "its process was lost; going on from checkpoint-" in log
    finally:
        for left in list(empty.cluster.list_all_nodes())[1:]:
            with suppress(Exception):
                empty.cluster.remove_node(left)
    check_undisturbed(folder.run, STEPS, tmp_path / "whole")


def test_a_cluster_that_is_not_there_is_an_error_that_says_how_to_start_one(tmp_path: Path) -> None:
    """And no traceback of Ray's."""
    with pytest.raises(
        InputError, match=r"no Ray cluster can be joined at '127\.0\.0\.1:1'.*ray start --head"
    ):
        RayEngine(tmp_path, "127.0.0.1:1")
