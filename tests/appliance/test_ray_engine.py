"""Jobs over the nodes of a Ray cluster: several Ray nodes on this machine, each with its own raylet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from appliance_cases import config, shell, wait_for, wait_for_log

from openwafer.appliance import Job, ManagementNode, Spread

pytest.importorskip("ray")

from openwafer.appliance.ray import RayEngine
from openwafer.appliance.ray._placement import Placement, read_placement

ANYWHERE = Spread(options=(), agent=("true",))


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
        """End a node as a power cut does, and wait until the others know."""
        node = next(
            node for node in self.cluster.list_all_nodes() if node.unique_id == id or node.node_id == id
        )
        self.cluster.remove_node(node, allow_graceful=False)


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
                script = "echo up; while ! test -e go; do sleep 0.05; done; exit 3"
                job = node.submit(shell(script, systems=2, spread=ANYWHERE))
                wait_for_log(node, job.id, "up")
                where = seats(node, job)
                assert [(seat.node, seat.systems) for seat in where.seats] == [(wide.node_id, 2)]
                assert sum(host.jobs for host in node.hosts()) == 1
        with RayEngine(tmp_path, empty.address) as engine, ManagementNode(config(tmp_path), engine) as node:
            (node.folder(job.id).path / "go").touch()
            done = wait_for(node, job.id)
            assert (done.state, done.exit_status, done.starts) == ("failed", 3, 1)
            ended = node.submit(shell("echo up; sleep 1000", systems=2, spread=ANYWHERE))
            wait_for_log(node, ended.id, "up")
            node.cancel(ended.id)
            assert wait_for(node, ended.id).state == "cancelled"
    finally:
        empty.cluster.remove_node(wide)
