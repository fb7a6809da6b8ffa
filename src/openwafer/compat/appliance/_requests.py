"""What the client asks of a job, as a spec of the appliance: command, resources, labels, priority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from openwafer.appliance import COMPILE_ROOT, DEFAULT_PRIORITY, JobSpec
from openwafer.base import InputError
from openwafer.compat.appliance._wheel import wheel

REQUEST = "request.bin"
"""In a job's source folder: the client's request, as it came."""
PYTHON_VARIABLE = "OPENWAFER_CLIENT_PYTHON"
"""Of an execute job: the interpreter for its input workers, where whoever runs the appliance has chosen one for all."""
ACCOUNT_VARIABLE = "OPENWAFER_CLIENT_ACCOUNT"
"""Of a client's job: the number of the account that asked for it, which alone (and the appliance's own) may call its service."""
VOLUMES_VARIABLE = "OPENWAFER_VOLUMES"
"""Of an execute job: folders that it may mount, with the system's path separator between them."""
SUMMARY = "summary.json"
"""In the folder of a compiled program, and only there once all of it is."""
_PRIORITIES = {"JOB_PRIORITY_P0": 99, "JOB_PRIORITY_P1": 199, "JOB_PRIORITY_P2": DEFAULT_PRIORITY}
_PRIORITIES["JOB_PRIORITY_P3"] = 399
_COMMAND = ("{python}", "-m", "openwafer.compat.appliance", "{job}")


class Summary(msgspec.Struct, frozen=True):
    """What the management node needs to know of a compiled program."""

    name: str
    systems: int
    memoryx_bytes: int


def compile_folder(state: Path, asked: str) -> Path:
    """Where a client's compile folder lies on the appliance: its programs are cs_<hash> below it.

    Raises InputError for one that would lie elsewhere.
    """
    root = (state / COMPILE_ROOT).resolve()
    # An absolute path is the client's own; it is only a name here.
    found = (root / asked.lstrip("/")).resolve()
    if not found.is_relative_to(root):
        raise InputError(f"compile_dir {asked!r} leads out of the appliance's folder; give a plain name")
    return found


def compile_spec(
    request: Any,
    user: str,
    workflow: str | None,
    lease_s: float,
    state: Path,
    environment: dict[str, str],
) -> JobSpec:
    """The job that compiles: the program itself comes later, to the job's own service."""
    return JobSpec(
        kind="compile",
        name=_name(request),
        user=user,
        command=(
            *_COMMAND,
            str(compile_folder(state, request.compile_dir_relative_path)),
            "--memoryx",
            "{memoryx}",
        ),
        compile_slots=1,
        environment=environment,
        lease_s=lease_s,
        tells_state=True,
        **_common(request, workflow),
    )


def execute_spec(
    request: Any,
    user: str,
    workflow: str | None,
    lease_s: float,
    memoryx_bytes: int,
    environment: dict[str, str],
) -> JobSpec:
    """The job that trains. Raises InputError if it names no system."""
    systems = count_systems(request.job_mode.cluster_details)
    if systems < 1:
        raise InputError("the request names no system; compile the program again")
    mounts = [mount.path for mount in request.mount_dirs]
    return JobSpec(
        kind="execute",
        name=_name(request),
        user=user,
        command=(*_COMMAND, "--memoryx", "{memoryx}", "--threads", "{threads}"),
        systems=systems,
        memoryx_bytes=memoryx_bytes,
        mounts=tuple(mounts),
        environment=environment,
        lease_s=lease_s,
        tells_state=True,
        **_common(request, workflow),
    )


def count_systems(details: Any) -> int:
    """The systems in a client's description of a cluster."""
    kinds = wheel().config.ClusterDetails.TaskInfo.TaskType
    return sum(len(task.task_map) for task in details.tasks if task.task_type == kinds.Value("WSE"))


def _common(request: Any, workflow: str | None) -> dict[str, Any]:
    manager = request.debug_args.debug_mgr
    name = (
        manager.DESCRIPTOR.fields_by_name["job_priority"]
        .enum_type.values_by_number[manager.job_priority]
        .name
    )
    priority = manager.job_priority_value or _PRIORITIES.get(name)
    return {"labels": dict(manager.labels), "priority": priority, "workflow": workflow}


def _name(request: Any) -> str:
    """The client's folder, without its host and what the client adds below it."""
    parts = Path(request.client_workdir.partition(":")[2]).parts
    kept = [part for part in parts if part not in ("executors", "/") and not part.isdigit()]
    return "/".join(kept[-2:])
