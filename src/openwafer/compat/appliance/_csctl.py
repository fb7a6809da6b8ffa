"""CsCtlV1: lists and changes jobs, nodes and volumes, as the cluster's command line and the client ask for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, final

import msgspec

from openwafer.appliance import Job, ManagementNode, parse_priority
from openwafer.base import InputError, JobNotFoundError
from openwafer.compat.appliance._callers import Caller, WhoIs, caller_of
from openwafer.compat.appliance._exports import Exports
from openwafer.compat.appliance._states import describe, ending_of, phase_of
from openwafer.compat.appliance._wheel import wheel

_TYPES = ("job", "cluster", "system", "volume")
_COLUMNS = ("NAME", "TYPE", "PRIORITY", "AGE", "DURATION", "PHASE", "SYSTEMS", "USER", "LABELS", "WORKFLOW")


@final
class Csctl:
    """Serves cluster.cluster_mgmt_pb.csctl.CsCtlV1; one method for each call, named as the call is."""

    def __init__(self, node: ManagementNode, who_is: WhoIs) -> None:
        self._node, self._who_is = node, who_is
        self._pb, self._resources = wheel().csctl, wheel().resources
        self._exports = Exports(node)

    def get_server_config(self, request: Any, context: Any) -> Any:
        return self._pb.GetServerConfigResponse(is_user_auth_enabled=False)

    def list_resource_types(self, request: Any, context: Any) -> Any:
        return self._pb.ListResourceTypesResponse(items=[self._pb.ResourceType(name=name) for name in _TYPES])

    def get(self, request: Any, context: Any) -> Any:
        """Jobs, the cluster's systems, or the volumes that jobs may mount."""
        caller = caller_of(context, self._who_is)
        kind = request.type.removesuffix("s") if request.type != "cluster" else "cluster"
        if kind == "job":
            found = self._jobs_found(request.name, request.options, caller)
            raw = self._job_list(found, request.accept, request.representation)
        elif kind in ("cluster", "system", "node"):
            raw = _encode(self._nodes(), request.accept)
        elif kind == "volume":
            raw = _encode(self._volumes(caller), request.accept)
        else:
            raise InputError(f"there is no resource {request.type!r}; there are {', '.join(_TYPES)}")
        return self._pb.GetResponse(type=request.type, content_type=request.accept, raw=raw)

    def list_jobs(self, request: Any, context: Any) -> Iterator[Any]:
        caller = caller_of(context, self._who_is)
        found = self._jobs_found("", request.options.job_options, caller)
        yield self._pb.ListJobResponse(
            content_type=request.accept,
            raw=self._job_list(found, request.accept, request.representation),
        )

    def patch(self, request: Any, context: Any) -> Any:
        """Set labels (an empty value removes one): the body is a Job as JSON, of which meta.labels count."""
        job = self._job(request.name, context)
        try:
            labels = msgspec.json.decode(request.body, type=_Patch).meta.labels
        except msgspec.MsgspecError as error:
            raise InputError(
                f'this is no patch of a job: {error}; write {{"meta": {{"labels": {{"key": "value"}}}}}}'
            ) from None
        changed = self._node.label(job.id, {key: value or None for key, value in labels.items()})
        return self._pb.PatchResponse(
            type=request.type,
            content_type=request.accept,
            raw=_encode(self._job_message(changed), request.accept),
        )

    def cancel_job_v2(self, request: Any, context: Any) -> Any:
        job = self._job(request.job_id, context)
        # The client looks for these words to tell its user who ended the job.
        self._node.cancel(job.id, ending_of(request.job_status), "canceled-by-csctl")
        return self._pb.CancelJobResponse(message=f"{job.id} is being cancelled")

    def update_job_priority(self, request: Any, context: Any) -> Any:
        job = self._job(request.job_id, context)
        changed = self._node.prioritise(job.id, parse_priority(request.job_priority))
        return self._pb.UpdateJobPriorityResponse(message=f"{job.id} has priority {changed.priority}")

    def create_log_export(self, request: Any, context: Any) -> Any:
        """Begin the archive that `wafer job export` gives. It stays on the appliance until it is fetched, at most a day."""
        job = self._job(request.name, context)
        return self._pb.CreateLogExportResponse(export_id=self._exports.create(job.id))

    def get_log_export(self, request: Any, context: Any) -> Any:
        self._job(self._exports.job_of(request.export_id), context)
        state, text = self._exports.state(request.export_id)
        return self._pb.GetLogExportResponse(status=f"LOG_EXPORT_STATUS_{state}", status_detail=text)

    def download_log_export(self, request: Any, context: Any) -> Any:
        self._job(self._exports.job_of(request.export_id), context)
        page = self._exports.page(request.export_id, request.page_token)
        return self._pb.DownloadLogExportResponse(
            chunk=page.data,
            next_page_token=page.next,
            signature=page.signature,
            estimated_remaining_bytes=page.left,
        )

    # --- inner ----------------------------------------------------------------------------------------------

    def _job(self, id: str, context: Any) -> Job:
        caller = caller_of(context, self._who_is)
        job = self._node.job(id)
        if job.user != caller.name and not caller.admin:
            raise JobNotFoundError(f"there is no job {id!r} of {caller.name}")
        return job

    def _jobs_found(self, name: str, options: Any, caller: Caller) -> list[Job]:
        own = None if caller.admin and not options.current_user_only else caller.name
        if name:
            job = self._node.job(name)
            return [job] if own in (None, job.user) else []
        states = () if options.all_states else tuple(_UNENDED)
        return self._node.jobs(
            states=states,
            user=own,
            workflow=options.workflow_id or None,
            labels=dict(options.label_filters) or None,
            limit=options.limit or 1000,
        )

    def _job_list(self, jobs: list[Job], accept: int, representation: int) -> bytes:
        if representation == self._pb.ObjectRepresentation.Value("TABLE_REPRESENTATION"):
            generic = wheel().generic
            table = generic.Table(
                columns=[generic.ColumnDefinition(name=name) for name in _COLUMNS],
                rows=[generic.RowData(cells=_cells(job)) for job in jobs],
            )
            return _encode(table, accept)
        return _encode(self._resources.JobList(items=[self._job_message(job) for job in jobs]), accept)

    def _job_message(self, job: Job) -> Any:
        resources = self._resources
        message = resources.Job(
            meta=resources.ObjectMeta(
                type="job",
                name=job.id,
                labels=job.labels,
                workflow=job.workflow or "",
                namespace="job-operator",
            ),
            spec=resources.JobSpec(
                type=job.spec.kind, priority=str(job.priority), user=resources.JobUser(username=job.user)
            ),
            status=resources.JobStatus(phase=phase_of(job), systems=list(job.systems)),
        )
        message.meta.create_time.FromSeconds(int(job.created))
        if job.started is not None:
            message.status.execution_time.FromSeconds(int(job.started))
        if job.ended is not None:
            message.status.completion_time.FromSeconds(int(job.ended))
        message.status.conditions.add(type=job.state, message=describe(job))
        return message

    def _nodes(self) -> Any:
        resources = self._resources
        return resources.NodeInfoList(
            items=[
                resources.NodeInfo(
                    meta=resources.ObjectMeta(type="system", name=name),
                    role="system",
                    state="error" if out else "ok",
                    notes=out,
                    job_ids=[job] if job else [],
                    wse_in_use=bool(job),
                    hostname=socket.gethostname(),
                )
                for name, job, out in self._node.systems()
            ]
        )

    def _volumes(self, caller: Caller) -> Any:
        """Each folder twice: the client runs on this machine too, and what it sees under a path the appliance sees there.

        As a folder of the machine the client may mount it and looks no further; as a shared file system it may hold the
        client's environment, which would be copied otherwise.
        """
        resources = self._resources
        kinds = resources.Volume
        items = []
        for index, folder in enumerate(caller.may_mount(self._node.config.volumes)):
            meta = resources.ObjectMeta(type="volume", name=f"volume-{index}")
            shared = kinds.NFSVolume(server=socket.gethostname(), server_path=folder, container_path=folder)
            items.append(kinds(meta=meta, nfs=shared))
            items.append(kinds(meta=meta, host_path=kinds.HostPathVolume(container_path=folder)))
        return resources.VolumeList(items=items)


class _Meta(msgspec.Struct):
    labels: dict[str, str] = {}


class _Patch(msgspec.Struct):
    meta: _Meta


_UNENDED = ("created", "queued", "scheduled", "initializing", "running")


def _cells(job: Job) -> list[str]:
    labels = ",".join(f"{key}={value}" for key, value in job.labels.items())
    began, ended = job.started, job.ended
    took = f"{ended - began:.0f}s" if began is not None and ended is not None else ""
    return [
        job.id,
        job.spec.kind,
        str(job.priority),
        f"{time.time() - job.created:.0f}s",
        took,
        job.state.upper(),
        ",".join(job.systems),
        job.user,
        labels,
        job.workflow or "",
    ]


def _encode(message: Any, accept: int) -> bytes:
    if accept == wheel().csctl.SerializationMethod.Value("JSON_METHOD"):
        return str(wheel().json_format.MessageToJson(message)).encode()
    return bytes(message.SerializeToString())
