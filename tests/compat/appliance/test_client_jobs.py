"""The vendor's client, played by the wheel's own stubs, compiles and trains a program that the real one wrote."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("grpc")
pytest.importorskip("cerebras.appliance")

import grpc
from client_cluster import LOSS, Cluster, roles
from stub_client import Client, Coordinator, appliance, golden, wait_until

WEIGHT = "state.model.fc1.weight"
STEPS = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with appliance(tmp_path_factory.mktemp("state")) as (node, door):
        yield Cluster(node, Client(door.address))


class Undisturbed(NamedTuple):
    """What a run of eight steps gave out."""

    losses: list[float]
    weight_after_four: torch.Tensor


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster) -> Undisturbed:
    """A run that nothing happens to; several tests compare with it."""
    _, coordinator = cluster.started(steps=8, checkpoint_every=2)
    losses = [coordinator.output(step, LOSS).item() for step in range(4)]
    weight = coordinator.output(
        3, WEIGHT
    )  # in the order in which a client asks: it may be gone when the run has ended
    losses += [coordinator.output(step, LOSS).item() for step in range(4, 8)]
    coordinator.call("UnaryDone")
    return Undisturbed(losses, weight)


def test_a_program_trains_and_gives_out_losses_and_weights(cluster: Cluster) -> None:
    """The whole observed flow: compile, execute, weights, steps, outputs, checkpoint, repository, goodbye."""
    job, coordinator = cluster.started(checkpoint_every=2)
    losses = [coordinator.output(step, LOSS).item() for step in range(STEPS)]
    after_two = coordinator.output(1, WEIGHT)
    at_end = coordinator.output(STEPS - 1, WEIGHT)
    assert coordinator.call("UnaryFinalize").code == 0
    coordinator.call("UnaryMoveToPTR", tensor_name=WEIGHT, ptid=7)
    kept = coordinator.from_repository(7)
    coordinator.call("UnaryDone")
    cluster.client.call("CancelJobV2", job_id=job, job_status="JOB_STATUS_SUCCEEDED", message="success")
    wait_until(lambda: cluster.node.job(job).is_final)

    assert all(1.5 < loss < 4.0 for loss in losses)
    assert after_two.shape == (64, 32)
    assert not torch.equal(after_two, at_end)
    assert torch.equal(kept, at_end)
    assert cluster.node.job(job).state == "succeeded"
    assert cluster.node.job(job).labels == {"team": "tests"}


def test_a_run_that_goes_on_from_the_repository_equals_one_that_never_stopped(
    cluster: Cluster, undisturbed: Undisturbed
) -> None:
    """PTR: weights stay on the appliance between sessions, and no value changes on the way."""
    _, parted = cluster.started(steps=2)
    names = list(parted.expected())
    parted.call("UnaryFinalize")
    for number, name in enumerate(names):
        parted.call("UnaryMoveToPTR", tensor_name=name, ptid=number)
    parted.call("UnaryLoad", cache_compile_dir=cluster.compiled.cache_compile_dir)
    parted.run(2, builder="later_batches")
    for number, name in enumerate(names):
        parted.call("UnaryCarryOverFromPTR", tensor_name=name, ptid=number)
    parted.call("UnaryStartStreaming")
    parted.call("UnaryFinalize")
    parted.call("UnaryMoveToPTR", tensor_name=WEIGHT, ptid=99)
    found = parted.from_repository(99)
    parted.call("UnaryDone")

    assert torch.equal(found, undisturbed.weight_after_four)


def test_the_state_of_a_data_pipeline_is_that_after_as_many_steps_as_the_client_says(
    cluster: Cluster,
) -> None:
    """For outputs the client counts steps from 0, but here it says after how many steps; 0 and the last it may always ask for."""
    _, coordinator = cluster.started(steps=3, checkpoint_every=2, builder="Restartable")
    states = [coordinator.call("UnaryDataCheckpoint", iteration=done) for done in (0, 2, 3)]
    coordinator.call("UnaryFinalize")
    coordinator.call("UnaryDone")

    given = [
        pickle.loads(bytes.fromhex(blob))["user_state_dict"]["given"]
        for state in states
        for blob in state.state_dict_serialized
    ]
    assert given == [0, 2, 3]


def test_the_second_compile_of_a_program_finds_the_first(cluster: Cluster) -> None:
    """The cache is keyed by the program's text and its options, so nothing is planned twice."""
    again = cluster.client.compile(golden("mlp_float16"), batch=16)

    assert again.cache_compile_dir == cluster.compiled.cache_compile_dir


def test_a_program_that_cannot_be_run_here_is_refused_with_its_place(cluster: Cluster) -> None:
    """The client shows the text of INTERNAL to its user as a compile error."""
    text = golden("mlp_float16").replace("cirh.Relu", "cirh.DLowRankScan")

    with pytest.raises(grpc.RpcError) as error:
        cluster.client.compile(text, batch=16)

    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "DLowRankScan" in error.value.details()
    assert "cirh.mlir:" in error.value.details()


def test_a_client_that_asks_why_hears_the_reason_at_once(cluster: Cluster) -> None:
    """It asks after every error, before it leaves, and waits for a minute while the job is said to be in progress."""
    client = cluster.client
    text = golden("mlp_float16").replace("cirh.Relu", "cirh.DLowRankScan")
    job = client.call("InitCompileJob", compile_dir_relative_path="cached_compile").job_id
    beats = client.beat(job)
    with Coordinator(client.wait_for_ingress(job)) as coordinator:
        with pytest.raises(grpc.RpcError) as refused:
            coordinator.call("UnaryCompile", cirh_content=text, batch_size=16, num_csx=1)
        found = client.call("GetJob", job_id=job)
        coordinator.call("UnaryDone")
    beats.set()

    assert found.status == client.parts.cluster.JobStatus.Value("JOB_STATUS_FAILING")
    assert found.message == refused.value.details()


def test_a_weight_of_another_shape_is_refused_by_name(cluster: Cluster) -> None:
    """It would be found much later otherwise, inside a kernel."""
    _, coordinator = cluster.client.execute(cluster.compiled)
    coordinator.run(1)

    with pytest.raises(grpc.RpcError) as error:
        coordinator.send(WEIGHT, torch.zeros(3, 4))
    coordinator.call("UnaryDone")

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{WEIGHT} came with shape [3, 4]; the program declares [64, 32]" in error.value.details()


def test_streaming_does_not_begin_before_every_weight_has_come(cluster: Cluster) -> None:
    """Training from memory that nobody filled would go on silently."""
    _, coordinator = cluster.client.execute(cluster.compiled)
    coordinator.run(1)

    with pytest.raises(grpc.RpcError) as error:
        coordinator.call("UnaryStartStreaming")
    coordinator.call("UnaryDone")

    assert "tensors of the program have not come" in error.value.details()


def test_an_error_of_the_data_pipeline_reaches_the_client_by_its_long_poll(cluster: Cluster) -> None:
    """The client waits for outputs and watches for failures; both must hear the reason, and the job ends as failed."""
    job, coordinator = cluster.started(builder="broken")

    verdict = coordinator.call("UnaryMonitorError", poll_seconds=30)
    with pytest.raises(grpc.RpcError) as error:
        coordinator.output(3, LOSS)
    coordinator.call("UnaryDone")
    wait_until(lambda: cluster.node.job(job).is_final)

    assert "ends in the middle of a line" in verdict.message
    assert "ends in the middle of a line" in error.value.details()
    assert cluster.node.job(job).state == "failed"


def test_a_job_whose_client_is_gone_ends_with_its_lease(tmp_path: Path) -> None:
    """A killed client tells nobody; without heartbeats its systems must become free."""
    with appliance(tmp_path / "state", lease_s=3.0) as (node, door):
        client = Client(door.address)
        compiled = client.compile(golden("mlp_float16"), batch=16)
        job, _ = client.execute(compiled)
        wait_until(lambda: node.job(job).state == "running")
        client.beats[job].set()
        wait_until(lambda: node.job(job).is_final)

        assert node.job(job).state == "cancelled"
        assert "no heartbeat" in node.job(job).reason


def test_a_role_that_is_killed_is_replaced_and_the_client_does_not_notice(
    cluster: Cluster, undisturbed: Undisturbed
) -> None:
    """The steps since the last checkpoint are done again, from the same batches, to the same numbers."""
    job, coordinator = cluster.started(steps=8, checkpoint_every=2, builder="slow")
    found = [coordinator.output(step, LOSS).item() for step in range(4)]
    roles(cluster.node, job)[0].kill()
    found += [coordinator.output(step, LOSS).item() for step in range(4, 8)]
    coordinator.call("UnaryDone")
    wait_until(lambda: cluster.node.job(job).is_final)

    assert found == undisturbed.losses
    assert cluster.node.job(job).state == "succeeded"
    assert b"going on from checkpoint-" in cluster.node.log(job)


def test_cancelling_ends_a_run_in_the_middle(cluster: Cluster) -> None:
    """Ctrl-C in the client: CancelJobV2, while a step is under way."""
    job, coordinator = cluster.started(steps=1000, builder="slow")
    coordinator.output(0, LOSS)

    cluster.client.call("CancelJobV2", job_id=job, job_status="JOB_STATUS_CANCELLED", message="Ctrl-C")
    wait_until(lambda: cluster.node.job(job).is_final)

    assert cluster.node.job(job).state == "cancelled"
    assert cluster.node.job(job).reason == "Ctrl-C"
