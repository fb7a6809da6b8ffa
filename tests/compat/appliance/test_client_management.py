"""The management node as the vendor's client and its command line see it: who may call, lists, labels, priorities."""

from __future__ import annotations

import io
import os
import socket
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("grpc")
pytest.importorskip("cerebras.appliance")

import grpc
from stub_client import Client, appliance, wait_until

from openwafer.appliance import JobSpec, ManagementNode, NodeConfig
from openwafer.compat.appliance import Caller, ClientDoor, client_token, wheel
from openwafer.compat.appliance._callers import caller_of, only, peer_uid
from openwafer.compat.appliance._service import CallError, snake

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def opened(tmp_path: Any) -> Iterator[tuple[ManagementNode, ClientDoor]]:
    with appliance(tmp_path / "state", systems=1) as pair:
        yield pair


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


def test_a_call_that_is_not_served_says_its_name(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """The user must learn what is missing, and the client must not try again for a minute."""
    _, door = opened

    code, text = refusal(lambda: Client(door.address).call("InitSdkExecuteJob"))

    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "cluster.cluster_mgmt_pb.ClusterManagement/InitSdkExecuteJob is not served" in text


def test_jobs_are_listed_labelled_prioritised_and_cancelled(
    opened: tuple[ManagementNode, ClientDoor],
) -> None:
    """The verbs of the cluster's command line work on every job of the appliance, native ones too."""
    node, door = opened
    client, parts = Client(door.address), wheel()
    running = node.submit(JobSpec(kind="train", command=SLEEP, systems=1))
    waiting = node.submit(JobSpec(kind="train", command=SLEEP, systems=1, labels={"team": "a"}))

    client.csctl("Patch", type="job", name=waiting.id, body=b'{"meta": {"labels": {"team": "b", "x": "y"}}}')
    client.csctl("UpdateJobPriority", job_id=waiting.id, job_priority="p1")
    listed = client.csctl(
        "Get", type="jobs", accept="PROTOBUF_METHOD", representation="OBJECT_REPRESENTATION"
    )
    jobs = {job.meta.name: job for job in parts.resources.JobList.FromString(listed.raw).items}
    client.csctl("CancelJobV2", job_id=waiting.id, job_status="JOB_STATUS_CANCELLED")

    assert set(jobs) == {running.id, waiting.id}
    assert dict(jobs[waiting.id].meta.labels) == {"team": "b", "x": "y"}
    assert jobs[waiting.id].spec.priority == "199"
    assert node.job(waiting.id).state == "cancelled"
    # The client looks for these words to tell its user that somebody else ended the job.
    assert "canceled-by-csctl" in client.call("GetJob", job_id=waiting.id).message


def test_tables_have_the_columns_of_the_command_line(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """`csctl get jobs` prints what it gets, so the columns are the appliance's."""
    node, door = opened
    node.submit(JobSpec(kind="train", command=SLEEP, systems=1))

    listed = Client(door.address).csctl(
        "Get", type="jobs", accept="PROTOBUF_METHOD", representation="TABLE_REPRESENTATION"
    )
    table = wheel().generic.Table.FromString(listed.raw)

    assert [column.name for column in table.columns][:3] == ["NAME", "TYPE", "PRIORITY"]
    assert len(table.rows) == 1


def test_the_versions_are_those_of_the_installed_wheel(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """The client refuses servers of another build than its own, so one of the same wheel need not be told to look away."""
    from cerebras.appliance import _version

    _, door = opened
    found = Client(door.address).call("GetServerVersions").versions

    assert {part.version for part in found} == {f"{_version.__version__}+{_version.__githash__}"}


def test_a_log_export_is_the_archive_of_the_job(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """The client asks for one by itself when a run has failed; its command line fetches it page by page."""
    node, door = opened
    client, names = Client(door.address), wheel().csctl.LogExportStatus
    job = node.submit(JobSpec(kind="train", command=(sys.executable, "-c", "print('a line')"), systems=1))
    wait_until(lambda: node.job(job.id).is_final)

    export = client.csctl("CreateLogExport", name=job.id, level=0).export_id
    wait_until(
        lambda: (
            client.csctl("GetLogExport", export_id=export).status != names.Value("LOG_EXPORT_STATUS_RUNNING")
        )
    )
    data, token = b"", ""
    while True:
        page = client.csctl("DownloadLogExport", export_id=export, page_token=token)
        data, token = data + page.chunk, page.next_page_token
        if not token:
            break
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        log = archive.extractfile(f"{job.id}/log")
        assert log is not None
        assert b"a line" in log.read()

    code, text = refusal(lambda: client.csctl("GetLogExport", export_id="../../etc/passwd"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "is no export" in text


def test_a_job_that_waits_ends_with_its_lease_too(tmp_path: Any) -> None:
    """A client that was killed in the queue must not get systems that nobody uses, when its turn comes."""
    with appliance(tmp_path / "state", lease_s=3.0) as (node, _):
        node.submit(JobSpec(kind="train", command=SLEEP, systems=1))
        alive, silent = (
            node.submit(JobSpec(kind="execute", command=SLEEP, systems=1, lease_s=2.0)) for _ in range(2)
        )

        def over() -> bool:
            node.heartbeat(alive.id)
            return node.job(silent.id).is_final

        wait_until(over)

        assert node.job(silent.id).state == "cancelled"
        assert "no heartbeat" in node.job(silent.id).reason
        assert node.job(alive.id).state == "queued"


def test_a_jobs_own_service_answers_its_account_alone() -> None:
    """The client shows it no token; the kernel knows whose connection it is, and other accounts of the machine are refused."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as connection:
        host, port = connection.getsockname()
        context = SimpleNamespace(peer=lambda: f"ipv4:{host}:{port}")

        only(os.getuid())(context)
        with pytest.raises(CallError, match="the account that submitted the job"):
            only(os.getuid() + 1)(context)


def test_systems_and_volumes_are_listed(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """The client looks for a volume under which its own environment lies before it asks for a job."""
    _, door = opened
    client, parts = Client(door.address), wheel()

    nodes = client.csctl("Get", type="cluster", accept="PROTOBUF_METHOD")
    volumes = client.csctl("Get", type="volumes", accept="PROTOBUF_METHOD")

    assert [node.meta.name for node in parts.resources.NodeInfoList.FromString(nodes.raw).items] == [
        "system-0"
    ]
    found = parts.resources.VolumeList.FromString(volumes.raw).items
    assert [volume.nfs.container_path or volume.host_path.container_path for volume in found] == ["/", "/"]
    assert {volume.WhichOneof("volumeSource") for volume in found} == {"nfs", "host_path"}


def test_a_caller_with_volumes_of_their_own_is_offered_these(tmp_path: Path) -> None:
    """The client mounts what it is offered."""
    node_config = NodeConfig(folder=tmp_path / "state", volumes=(tmp_path,))
    with (
        ManagementNode(node_config) as node,
        ClientDoor(node, lambda token: Caller(token, False, ("/usr",) if token == "ann" else ()), 0) as door,
    ):
        for name, folder in (("ann", "/usr"), ("bob", str(tmp_path))):
            client = Client(door.address)
            metadata = (("auth-token", client_token(name)),)
            raw = client.csctl("Get", type="volumes", accept="PROTOBUF_METHOD", metadata=metadata).raw
            found = wheel().resources.VolumeList.FromString(raw).items
            assert {volume.nfs.container_path or volume.host_path.container_path for volume in found} == {
                folder
            }


def test_a_token_that_is_nobodys_is_refused(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """Even on loopback: who shows a token means to be its owner."""
    _, door = opened
    client = Client(door.address, metadata=(("auth-token", client_token("wrong")),))

    code, text = refusal(lambda: client.call("InitWorkflow"))

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "CSAUTH_TOKEN" in text


def test_another_users_job_is_not_found(tmp_path: Any) -> None:
    """Not even whether there is such a job is anybody else's business."""
    who = {"a": Caller("ann", False), "b": Caller("bob", False)}
    with appliance(tmp_path / "state") as (node, _), ClientDoor(node, who.get, 0) as door:
        job = node.submit(JobSpec(kind="train", command=SLEEP, user="ann", systems=1))
        ann = Client(door.address, metadata=(("auth-token", client_token("a")),))
        bob = Client(door.address, metadata=(("auth-token", client_token("b")),))

        assert ann.call("GetJob", job_id=job.id).status in (9, 2, 7, 8)
        for call in ("GetJob", "CancelJobV2", "GetJobEvents", "DeleteJob"):
            code, _ = refusal(lambda call=call: bob.call(call, job_id=job.id))
            assert code is grpc.StatusCode.NOT_FOUND


def test_a_connection_from_another_machine_without_a_token_is_refused() -> None:
    """What the metadata says of the user is nothing that anybody believes."""
    context = SimpleNamespace(
        invocation_metadata=lambda: (("auth-username", "root"), ("auth-uid", "0")),
        peer=lambda: "ipv4:192.0.2.7:50000",
    )

    with pytest.raises(CallError, match="CSAUTH_TOKEN"):
        caller_of(context, lambda token: None)


def test_the_account_behind_a_loopback_connection_is_the_kernels_word(
    opened: tuple[ManagementNode, ClientDoor],
) -> None:
    """A port that nobody has belongs to nobody."""
    assert peer_uid("ipv4:127.0.0.1:1") is None
    assert peer_uid("ipv4:192.0.2.7:50000") is None
    assert peer_uid("unix:/tmp/x") is None


def test_a_compile_folder_never_leads_out_of_the_cache(opened: tuple[ManagementNode, ClientDoor]) -> None:
    """The name comes from the client."""
    _, door = opened

    code, text = refusal(
        lambda: Client(door.address).call("InitCompileJob", compile_dir_relative_path="../../etc")
    )

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "leads out of" in text


def test_an_execute_job_of_a_folder_that_is_no_program_is_refused(
    opened: tuple[ManagementNode, ClientDoor],
) -> None:
    """Before it takes a system."""
    _, door = opened

    code, text = refusal(lambda: Client(door.address).call("InitExecuteJob", compile_artifact_dir="/etc"))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "there is no compiled program in /etc" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("UnaryGetCMDStateIds", "unary_get_cmd_state_ids"),
        ("PollIngressV2", "poll_ingress_v2"),
        ("UnaryMoveToPTR", "unary_move_to_ptr"),
        ("GetFromPTRStream", "get_from_ptr_stream"),
    ],
)
def test_calls_are_found_by_their_name_in_snake_case(name: str, expected: str) -> None:
    """A method that is spelt otherwise would not be served, and nobody would notice."""
    assert snake(name) == expected
