"""ClusterManagement: what the client asks the management node, answered from the appliance's jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import msgspec

from openwafer.appliance import COMPILE_ROOT, Job, JobSpec, ManagementNode
from openwafer.base import InputError, JobNotFoundError
from openwafer.compat.appliance._callers import Caller, WhoIs, caller_of, peer_uid
from openwafer.compat.appliance._messages import MessageBoards
from openwafer.compat.appliance._requests import (
    ACCOUNT_VARIABLE,
    PYTHON_VARIABLE,
    REQUEST,
    SUMMARY,
    VOLUMES_VARIABLE,
    Summary,
    compile_folder,
    compile_spec,
    count_systems,
    execute_spec,
)
from openwafer.compat.appliance._states import describe, ending_of, events_of, failure_of, status_of
from openwafer.compat.appliance._wheel import wheel

LEASE_S = 60.0
"""Without a heartbeat; the client beats every 10 s."""
OPERATOR_VERSION = "1.0.8"
"""Of the part that would start containers. From 1.0.4 the client lets the appliance make initial weights. The version of
the management part stays unsaid, so that the client asks for a job's ingress and does not wait for a heartbeat to tell it."""
_POLL_S = 5.0


@final
class Management:
    """Serves cluster.cluster_mgmt_pb.ClusterManagement; one method for each call, named as the call is."""

    def __init__(
        self, node: ManagementNode, who_is: WhoIs, lease_s: float = LEASE_S, client_python: str = ""
    ) -> None:
        """client_python: the interpreter of every client's input workers; "": each job names its own."""
        self._node, self._who_is, self._lease_s = node, who_is, lease_s
        self._environment = {PYTHON_VARIABLE: client_python} if client_python else {}
        self._pb = wheel().cluster
        self._boards = MessageBoards()

    # --- what there is ------------------------------------------------------------------------------------

    def get_server_config(self, request: Any, context: Any) -> Any:
        return self._pb.GetServerConfigResponse(
            is_user_auth_enabled=False,
            has_multi_mgmt_nodes=False,
            is_message_broker_available=True,
            job_operator_semantic_version=OPERATOR_VERSION,
        )

    def get_server_versions(self, request: Any, context: Any) -> Any:
        """Those of the installed wheel, whose protocol this is: a client of another version hears which one to install."""
        version = f"{wheel().version}+{wheel().build}"
        kinds = self._pb.ComponentName
        return self._pb.GetServerVersionsResponse(
            versions=[
                self._pb.ComponentVersion(name=kinds.Value(f"COMPONENT_NAME_{part}"), version=version)
                for part in ("CLUSTER_SERVER", "JOB_OPERATOR")
            ]
        )

    def has_multi_mgmt_nodes(self, request: Any, context: Any) -> Any:
        return self._pb.HasMultiMgmtNodesResponse(has_multi_mgmt_nodes=False)

    def is_message_broker_available(self, request: Any, context: Any) -> Any:
        return self._pb.MessageBrokerAvailabilityCheckResponse(is_available=True)

    def check_storage_connectivity(self, request: Any, context: Any) -> Any:
        return self._pb.CheckStorageConnectivityResponse(
            is_reachable=False, message="this appliance reads and writes no S3 storage; use files"
        )

    # --- the client's environment ---------------------------------------------------------------------------

    def init_image_build_job(self, request: Any, context: Any) -> Any:
        """No image: input workers run in the client's own environment, which it names with its job."""
        self._caller(context)
        return self._pb.ImageBuildResponse(
            image_ready=True,
            mount_user_venv=True,
            status=self._pb.JobStatus.Value("JOB_STATUS_SUCCEEDED"),
            workflow_id=_workflow(context) or "",
        )

    def delete_image_build_job(self, request: Any, context: Any) -> Any:
        return self._pb.ImageBuildResponse(job_id=request.job_id, image_ready=True)

    # --- workflows and reservations -------------------------------------------------------------------------

    def init_workflow(self, request: Any, context: Any) -> Any:
        self._caller(context)
        name = self._node.new_workflow()
        return self._pb.InitWorkflowResponse(workflow_id=name)

    def release_workflow_resources(self, request: Any, context: Any) -> Any:
        self._caller(context)
        return self._pb.ReleaseWorkflowResourcesResponse(message="nothing is held between jobs")

    def release_job_resources(self, request: Any, context: Any) -> Any:
        self._job(request.job_id, context)
        return self._pb.ReleaseJobResourcesResponse(message="a job's systems are free when it ends")

    # --- jobs -----------------------------------------------------------------------------------------------

    def init_compile_job(self, request: Any, context: Any) -> Any:
        caller = self._caller(context)
        workflow = _workflow(context)
        state = self._node.config.folder.resolve()
        job = self._submit(
            compile_spec(request, caller.name, workflow, self._lease_s, state, _account(context)),
            request.SerializeToString(),
            caller,
        )
        return self._pb.CompileJobResponse(
            job_id=job.id,
            log_path=str(self._node.folder(job.id).log),
            compile_dir_absolute_path=str(compile_folder(state, request.compile_dir_relative_path)),
            workflow_id=job.workflow or "",
        )

    def init_execute_job(self, request: Any, context: Any) -> Any:
        caller = self._caller(context)
        summary = self._summary(request.compile_artifact_dir)
        systems = count_systems(request.job_mode.cluster_details)
        if systems != summary.systems:
            raise InputError(
                f"{request.compile_artifact_dir} was compiled for {summary.systems} systems, but the job asks for {systems}; "
                "compile it again"
            )
        spec = execute_spec(
            request,
            caller.name,
            _workflow(context),
            self._lease_s,
            summary.memoryx_bytes,
            {
                **self._environment,
                **_account(context),
                VOLUMES_VARIABLE: os.pathsep.join(caller.may_mount(self._node.config.volumes)),
            },
        )
        job = self._submit(spec, request.SerializeToString(), caller)
        return self._pb.ExecuteJobResponse(
            job_id=job.id, log_path=str(self._node.folder(job.id).log), workflow_id=job.workflow or ""
        )

    def finalize_compile_job(self, request: Any, context: Any) -> Any:
        self._job(request.job_id, context)
        return self._pb.CompileResultResponse(message="noted")

    def poll_ingress(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self.poll_ingress_v2(request, context)

    def poll_ingress_v2(self, request: Any, context: Any) -> Iterator[Any]:
        """A line for every change of the job, until its own service listens or it has ended."""
        job = self._node.job(request.job_id)
        told = ""
        while context.is_active():
            ready = job.ingress is not None and job.state == "running"
            text = "the job's coordinator is ready" if ready else describe(job)
            if text != told or ready or job.is_final:
                told = text
                yield self._pb.GetIngressResponse(
                    is_ready=ready,
                    service_url=_local(job.ingress) if ready and job.ingress else "",
                    message=text,
                    job_failed=job.is_final,
                    is_scheduled=job.state not in ("created", "queued"),
                )
            if ready or job.is_final:
                return
            job = self._node.changed(job.id, job.version, _POLL_S)

    def get_job(self, request: Any, context: Any) -> Any:
        job = self._job(request.job_id, context)
        events, _ = self._node.events(job.id)
        failure = failure_of(job, events)
        return self._pb.GetJobResponse(
            status=self._pb.JobStatus.Value("JOB_STATUS_FAILING") if failure else status_of(job),
            message=failure or job.reason,
            job_events=events_of(job, events),
        )

    def get_job_events(self, request: Any, context: Any) -> Any:
        return self._pb.GetJobEventsResponse(job_events=self._events(self._job(request.job_id, context)))

    def get_job_init_status(self, request: Any, context: Any) -> Any:
        return self._pb.GetJobInitStatusResponse(status=describe(self._job(request.job_id, context)))

    def get_job_meta(self, request: Any, context: Any) -> Any:
        job = self._job(request.job_id, context)
        asked = self._request_of(job)
        return self._pb.GetJobMetaResponse(
            job_mode=asked.job_mode.job,
            cluster_details=asked.job_mode.cluster_details,
            software_versions={"openwafer": "0.1.0", "cerebras_appliance": wheel().version},
            system_versions={name: "{}" for name in job.systems},
        )

    def cancel_job(self, request: Any, context: Any) -> Any:
        return self.cancel_job_v2(request, context)

    def cancel_job_v2(self, request: Any, context: Any) -> Any:
        """The client's last word about a job: how it went, and why."""
        job = self._job(request.job_id, context)
        ending = ending_of(request.job_status)
        self._node.cancel(job.id, ending, request.message or f"{ending} by its client")
        return self._pb.CancelJobResponse(message=f"{job.id} ends as {ending}")

    def delete_job(self, request: Any, context: Any) -> Any:
        job = self._job(request.job_id, context)
        self._node.cancel(job.id, "cancelled", "deleted by its client")
        return self._pb.DeleteJobResponse(message=f"{job.id} is cancelled; its record and its log stay")

    # --- leases ---------------------------------------------------------------------------------------------

    def send_client_heartbeat(self, request: Any, context: Any) -> Any:
        return self._beat(request)

    def heartbeat_v2(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            yield self._beat(request)

    def _beat(self, request: Any) -> Any:
        lease = request.lease_id or request.job_id
        if lease.startswith("wflow-"):
            for job in self._node.jobs(workflow=lease):
                if not job.is_final:
                    self._node.heartbeat(job.id)
            return self._pb.HeartbeatResponse(message=f"{lease} lives")
        job = self._node.heartbeat(lease)
        ready = job.ingress is not None and job.state == "running"
        return self._pb.HeartbeatResponse(
            message=describe(job),
            service_url=_local(job.ingress) if ready and job.ingress else "",
            job_failed=job.is_final and job.state != "succeeded",
            is_scheduled=job.state not in ("created", "queued"),
            is_ready=ready,
        )

    # --- messages between a user's processes ------------------------------------------------------------------

    def publish_messages(self, requests: Iterator[Any], context: Any) -> Any:
        job = ""
        for request in requests:
            job = request.job_id or job
            self._node.job(job)
            if request.message:
                self._boards.add(job, request.message)
        return self._pb.PublishMessagesResponse(message="published")

    def subscribe_messages(self, request: Any, context: Any) -> Iterator[Any]:
        job = self._node.job(request.job_id)
        place = 0 if request.from_beginning else self._boards.length(job.id)
        while context.is_active():
            messages = self._boards.wait(job.id, place, 1.0)
            for message in messages:
                yield self._pb.SubscribeMessagesResponse(message=message)
            place += len(messages)
            if not messages and self._node.job(job.id).is_final:
                return

    def report_metrics(self, request: Any, context: Any) -> Any:
        """The client's own measurements, kept with the job."""
        job = self._job(request.job_id, context)
        for metric in request.metrics:
            self._node.folder(job.id).tell(
                "client-metric", name=metric.name, value=metric.value, labels=dict(metric.labels)
            )
        return self._pb.ReportMetricResponse(message=f"{len(request.metrics)} metrics noted")

    # --- inner ----------------------------------------------------------------------------------------------

    def _caller(self, context: Any) -> Caller:
        return caller_of(context, self._who_is)

    def _job(self, id: str, context: Any) -> Job:
        """The job, if the caller may see it. Raises JobNotFoundError."""
        caller = self._caller(context)
        job = self._node.job(id)
        if job.user != caller.name and not caller.admin:
            raise JobNotFoundError(f"there is no job {id!r} of {caller.name}")
        return job

    def _submit(self, spec: JobSpec, request: bytes, caller: Caller) -> Job:
        return self._node.submit(spec, {REQUEST: request}, caller.volumes)

    def _summary(self, folder: str) -> Summary:
        root = (self._node.config.folder / COMPILE_ROOT).resolve()
        found = Path(folder).resolve()
        try:
            if not found.is_relative_to(root):
                raise FileNotFoundError
            return msgspec.json.decode((found / SUMMARY).read_bytes(), type=Summary)
        except (OSError, msgspec.MsgspecError):
            raise InputError(
                f"there is no compiled program in {folder}; compile it again on this appliance"
            ) from None

    def _request_of(self, job: Job) -> Any:
        kind = self._pb.CompileJobRequest if job.spec.kind == "compile" else self._pb.ExecuteJobRequest
        try:
            return kind.FromString(self._node.folder(job.id).file(f"source/{REQUEST}").read_bytes())
        except InputError:
            raise JobNotFoundError(f"{job.id} was not submitted by the vendor's client") from None

    def _events(self, job: Job) -> list[Any]:
        events, _ = self._node.events(job.id)
        return events_of(job, events)


def _workflow(context: Any) -> str | None:
    """The workflow that the client names; its placeholder for none is no name of ours."""
    name = str(dict(context.invocation_metadata()).get("workflow-id", ""))
    return name if name.startswith("wflow-") else None


def _account(context: Any) -> dict[str, str]:
    """Whose connection this is, for the job's own service."""
    uid = peer_uid(context.peer())
    return {} if uid is None else {ACCOUNT_VARIABLE: str(uid)}


def _local(address: str) -> str:
    """The address by a name that the client takes for this machine: others it tries to ping first."""
    host, _, port = address.rpartition(":")
    return f"localhost:{port}" if host in ("127.0.0.1", "localhost") else address
