"""A client's job that does harm, or that harm is done to: how it ends, and what its log says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("grpc")
pytest.importorskip("cerebras.appliance")

import grpc
from client_cluster import LOSS, Cluster, compile_mlp, train
from stub_client import HERE, Client, wait_until

from openwafer.appliance import JobFolder, ManagementNode, NodeConfig
from openwafer.base import InputError
from openwafer.compat.appliance import ClientDoor
from openwafer.sandbox import Confinement, interpreter_paths, start


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One whose jobs may mount the folder of these tests, and nothing else."""
    state = tmp_path_factory.mktemp("state")
    config = NodeConfig(folder=state, systems=1, volumes=(Path(HERE),), grace_s=20)
    with ManagementNode(config) as node:
        with ClientDoor(node, lambda token: None, 0, client_python=sys.executable) as door:
            yield Cluster(node, Client(door.address))
        node.drain()


def has_namespaces() -> bool:
    """Else forking is refused rather than contained."""
    confinement = Confinement(trusted=interpreter_paths(sys.executable))
    try:
        start([sys.executable, "-I", "-S", "-c", "pass"], confinement, tiers=["namespaces"]).wait()
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        ("opens_a_socket", "opens a network connection (socket(AF_INET)), which an input worker may not do"),
        ("reads_the_accounts", "/etc/shadow lies outside of what an input worker may see"),
        ("forks_without_end", "was contained: it started more than its 256 processes and threads"),
        ("eats_memory", "GiB of memory: let the data pipeline hold less"),
    ],
)
def test_a_hostile_pipeline_fails_its_job_and_the_log_says_why(
    cluster: Cluster, builder: str, reason: str
) -> None:
    """Two steps are done before; the client hears the same reason."""
    if builder == "forks_without_end" and not has_namespaces():
        pytest.skip("this machine gives users no namespaces of processes")
    job, coordinator = cluster.started(steps=100, builder=builder)

    verdict = coordinator.call("UnaryMonitorError", poll_seconds=60)
    coordinator.call("UnaryDone")
    wait_until(lambda: cluster.node.job(job).is_final)

    log = cluster.node.log(job).decode()
    assert reason in verdict.message
    assert reason in log
    assert (cluster.node.job(job).state, reason in cluster.node.job(job).reason) == ("failed", True), log


def test_a_mount_outside_of_the_volumes_is_refused_before_anything_runs(cluster: Cluster) -> None:
    """The client's pipeline would see it."""
    before = cluster.node.jobs()

    with pytest.raises(grpc.RpcError) as refused:
        cluster.client.execute(cluster.compiled, mount="/etc")

    assert "the mount /etc lies in no volume that its user may use" in refused.value.details()
    assert cluster.node.jobs() == before


def test_an_input_worker_that_is_killed_starts_again_where_it_was(cluster: Cluster) -> None:
    """A kill from outside, by a kernel without memory for one, is nothing that the program did."""
    _, straight = cluster.started(steps=4)
    expected = [straight.output(step, LOSS).item() for step in range(4)]
    straight.call("UnaryDone")

    job, coordinator = cluster.started(steps=4, builder="slow")
    found = [coordinator.output(0, LOSS).item()]
    for worker in processes(cluster.node.folder(job), "_client_worker"):
        worker.kill()
    found += [coordinator.output(step, LOSS).item() for step in range(1, 4)]
    coordinator.call("UnaryDone")
    wait_until(lambda: cluster.node.job(job).is_final)

    assert found == expected
    assert cluster.node.job(job).state == "succeeded"
    assert b"starting it again" in cluster.node.log(job)


@pytest.mark.parametrize(
    ("whom", "reason"),
    [("runner", "its process was lost"), ("main", "its process was killed by SIGKILL")],
)
def test_a_client_job_whose_own_process_is_killed_fails_and_leaves_nothing(
    cluster: Cluster, whom: str, reason: str
) -> None:
    """It cannot start again by itself: weights, steps and data come from its client. That hears of it at once."""
    job, coordinator = cluster.started(steps=100, builder="slow")
    coordinator.output(0, LOSS)
    folder = cluster.node.folder(job)
    runner = psutil.Process(int(folder.alive.read_text().split()[0]))
    everyone = [runner, *runner.children(recursive=True)]
    (runner if whom == "runner" else runner.children()[0]).kill()

    with pytest.raises(grpc.RpcError) as error:
        coordinator.output(99, LOSS)
    wait_until(lambda: cluster.node.job(job).is_final)

    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert cluster.node.job(job).state == "failed"
    assert reason in cluster.node.job(job).reason
    assert reason in cluster.node.log(job).decode()
    wait_until(lambda: not any(lives(process) for process in everyone))


def test_a_client_job_outlives_the_management_node(tmp_path: Path) -> None:
    """Its coordinator is a process of its own; the next node takes it over, with its client's heartbeats."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("cluster", "up", "--port", "0", "--client-port", str(port), "--folder", str(tmp_path / "state"))
    words += ("--client-python", sys.executable)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}

    def up() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "openwafer.cli", *words], stdout=subprocess.DEVNULL, env=environment
        )

    node = up()
    try:
        client = connected(port)
        job, coordinator = train(client, compile_mlp(client), steps=8, builder="slow")
        coordinator.output(0, LOSS)
        node.kill()
        node.wait()
        coordinator.output(1, LOSS)
        node = up()
        client = connected(port)
        client.beat(job)
        coordinator.output(7, LOSS)
        coordinator.call("UnaryDone")
        client.call("CancelJobV2", job_id=job, job_status="JOB_STATUS_SUCCEEDED", message="success")
        succeeded = client.parts.cluster.JobStatus.Value("JOB_STATUS_SUCCEEDED")
        wait_until(lambda: client.call("GetJob", job_id=job).status == succeeded)
    finally:
        node.send_signal(signal.SIGINT)
        node.wait()
    folder = JobFolder(tmp_path / "state" / "jobs" / job)
    wait_until(lambda: not processes(folder, ""))


def connected(port: int) -> Client:
    """A client of the appliance behind a port, once that answers."""
    client = Client(f"127.0.0.1:{port}")
    grpc.channel_ready_future(client.channel).result(60)
    return client


def processes(folder: JobFolder, text: str) -> list[psutil.Process]:
    """Those below a job's runner whose command line has a text."""
    try:
        runner = psutil.Process(int(folder.alive.read_text().split()[0]))
        return [child for child in runner.children(recursive=True) if text in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
