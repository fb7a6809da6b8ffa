"""The vendor's client as far as the appliance sees it: the wheel's own stubs, calling in the order that was observed."""

from __future__ import annotations

import contextlib
import gzip
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import torch

from openwafer.appliance import ManagementNode, NodeConfig
from openwafer.compat.appliance import ClientDoor, wheel
from openwafer.compat.appliance._tensors import element_of, from_bytes

GOLDEN = Path(__file__).parents[1] / "cirh" / "golden"
HERE = str(Path(__file__).parent)


@contextlib.contextmanager
def appliance(folder: Path, systems: int = 1, **options: Any) -> Iterator[tuple[ManagementNode, ClientDoor]]:
    """A node with its door for clients; jobs that are left end with it."""
    config = NodeConfig(folder=folder, systems=systems, grace_s=20)
    with ManagementNode(config) as node:
        with ClientDoor(node, lambda token: None, 0, client_python=sys.executable, **options) as door:
            yield node, door
        node.drain()


class Client:
    """One user's process: the calls that cerebras_appliance makes, with nothing around them."""

    def __init__(self, address: str, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.parts = wheel()
        self.channel = grpc.insecure_channel(address)
        self.metadata = metadata
        self.beats: dict[str, threading.Event] = {}
        """Set one, and the job of this id gets no more heartbeats."""
        self.management = stubs(self.channel, self.parts.cluster, "ClusterManagement")
        self.csctl = stubs(self.channel, self.parts.csctl, "CsCtlV1")

    def call(self, name: str, /, **fields: Any) -> Any:
        return self.management(name, metadata=self.metadata, **fields)

    def wait_for_ingress(self, job: str) -> str:
        responses = self.management("PollIngressV2", job_id=job)
        last = list(responses)[-1]
        assert last.is_ready, last.message
        return str(last.service_url)

    def beat(self, job: str) -> threading.Event:
        """Beat for a job until the event is set, as the client does from a thread of its own."""
        stop = threading.Event()

        def requests() -> Iterator[Any]:
            while not stop.wait(0.5):
                yield self.parts.cluster.HeartbeatRequest(lease_id=job, job_id=job)

        stream = self.management.stream("HeartbeatV2", requests())
        threading.Thread(target=lambda: _drain(stream), daemon=True).start()
        return stop

    def compile(self, text: str, batch: int, systems: int = 1, **debug: Any) -> Any:
        """A compile job from beginning to end; the response to UnaryCompile."""
        request = self.parts.cluster.CompileJobRequest(compile_dir_relative_path="cached_compile")
        job = self.management("InitCompileJob", request, metadata=self.metadata)
        beats = self.beat(job.job_id)
        with Coordinator(self.wait_for_ingress(job.job_id)) as coordinator:
            try:
                response = coordinator.call(
                    "UnaryCompile",
                    cirh_content=text,
                    batch_size=batch,
                    num_csx=systems,
                    num_workers_per_csx=1,
                )
                self.call(
                    "FinalizeCompileJob", job_id=job.job_id, compile_artifact_dir=response.cache_compile_dir
                )
                return response
            finally:
                beats.set()
                coordinator.call("UnaryDone")

    def execute(self, compiled: Any, mount: str = HERE) -> tuple[str, Coordinator]:
        """An execute job up to the point where it takes a run; the job and its coordinator."""
        cluster, config = self.parts.cluster, self.parts.config
        request = cluster.ExecuteJobRequest(
            compile_artifact_dir=compiled.cache_compile_dir,
            mount_dirs=[cluster.MountDir(path=mount, container_path=mount)],
            python_paths=[HERE],
            job_mode=config.JobMode(job="EXECUTE", cluster_details=compiled.cluster_details),
        )
        request.debug_args.debug_mgr.labels["team"] = "tests"
        job = self.management("InitExecuteJob", request, metadata=self.metadata)
        self.beats[job.job_id] = self.beat(job.job_id)
        coordinator = Coordinator(self.wait_for_ingress(job.job_id))
        coordinator.call("UnaryStart")
        coordinator.call("UnaryInit")
        coordinator.call("UnaryLoad", cache_compile_dir=compiled.cache_compile_dir)
        return job.job_id, coordinator


class Coordinator:
    """The service of one job."""

    def __init__(self, address: str) -> None:
        self.parts = wheel()
        self.channel = grpc.insecure_channel(address)
        self.stub = stubs(self.channel, self.parts.appliance, "Appliance")

    def call(self, name: str, request: Any = None, **fields: Any) -> Any:
        return self.stub(name, request, **fields)

    def run(self, steps: int, checkpoint_every: int = 0, builder: str = "batches", **arguments: Any) -> None:
        """Say what to run: `steps` batches of `mlp_pipeline.<builder>`."""
        request = self.parts.appliance.RunRequest(num_iterations=steps, activation_freq=1)
        request.dataloader.id = 1
        request.dataloader.builder = f"cmlp_pipeline\n{builder}\n.".encode().hex()
        if checkpoint_every:
            request.checkpoint_schedule.intervals.add(
                start=checkpoint_every - 1, end=steps, step=checkpoint_every, include_last=True
            )
        self.call("UnaryRun", request)

    def expected(self) -> dict[str, int]:
        """Name -> number of the tensors that the program wants."""
        response = self.call("UnarySendCheck", info_type="GROUP")
        return {
            pair.tensor_name: pair.tensor_id
            for group in response.tensor_groups
            for pair in group.tensor_name_id_pairs
        }

    def send(self, name: str, value: torch.Tensor, chunks: int = 2) -> None:
        """A tensor by its stream, as the client sends one: head, go-ahead, pieces."""
        appliance = self.parts.appliance
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        went = threading.Event()

        def requests() -> Iterator[Any]:
            size = max(1, -(-len(data) // chunks))
            pieces = [b"", *(data[at : at + size] for at in range(0, len(data), size))]
            for index, piece in enumerate(pieces):
                request = appliance.SendInputRequest(tensor_name=name, has_more=index < len(pieces) - 1)
                request.rtfx_proto.dtype = element_of(value.dtype)
                request.rtfx_proto.tensor.shape.extend(value.shape)
                request.rtfx_proto.tensor.data = piece
                yield request
                if index == 0:
                    assert went.wait(30), "no go-ahead"

        for _ in self.stub.stream("SendInputBidirStream", requests()):
            went.set()

    def fill(self, number: int, shape: list[int], value: torch.Tensor) -> None:
        """A tensor of one number, deferred."""
        request = self.parts.appliance.SendDeferredInputRequest(shard_id=0)
        tensor = request.tensors.add(tensor_id=number, shape=shape, dtype=element_of(value.dtype))
        tensor.scalar_broadcast_tensor.value.dtype = element_of(value.dtype)
        tensor.scalar_broadcast_tensor.value.scalar.data = value.numpy().tobytes()
        self.call("UnarySendDeferredInput", request)

    def output(self, step: int, name: str) -> torch.Tensor:
        return _joined(self.stub("GetOutputStream", iteration=step, tensor_name=name))

    def random_state(self, id: int) -> int:
        return int(_joined(self.stub("GetCMDStateStream", id=id)))

    def from_repository(self, number: int, keep: bool = True) -> torch.Tensor:
        return _joined(self.stub("GetFromPTRStream", ptid=number, keep_in_repo=keep))

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


class stubs:  # noqa: N801 - callable as a function: stubs(...)("Name", field=...)
    """Every method of a service, by name."""

    def __init__(self, channel: grpc.Channel, module: Any, service: str) -> None:
        self._channel = channel
        self._service = module.DESCRIPTOR.services_by_name[service]

    def __call__(
        self, name: str, /, request: Any = None, metadata: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> Any:
        method = self._service.methods_by_name[name]
        message = wheel().message_factory.GetMessageClass(method.input_type)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        return self._callable(make, method)(request or message(**fields), timeout=60, metadata=metadata)

    def stream(self, name: str, requests: Iterator[Any]) -> Any:
        return self._callable(self._channel.stream_stream, self._service.methods_by_name[name])(requests)

    def _callable(self, make: Any, method: Any) -> Any:
        answer = wheel().message_factory.GetMessageClass(method.output_type)
        return make(
            f"/{self._service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )


def golden(name: str) -> str:
    return gzip.decompress((GOLDEN / f"{name}.mlir.gz").read_bytes()).decode()


def wait_until(there: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def _joined(responses: Any) -> torch.Tensor:
    data, element, shape = b"", 0, []
    for response in responses:
        assert response.code == 0, response.message
        element, shape = response.rtfx_proto.dtype, list(response.rtfx_proto.tensor.shape)
        data += response.rtfx_proto.tensor.data
    return from_bytes(element, shape, data)


def _drain(stream: Any) -> None:
    with contextlib.suppress(grpc.RpcError):
        for _ in stream:
            pass
