"""The service of a compile job: a program comes, its plan stays on the appliance."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal, final

from openwafer.appliance import JobFolder
from openwafer.base import InputError, PlanError, WaferError
from openwafer.compat.appliance._compiled import CompileOptions, compile_program
from openwafer.compat.appliance._flops import measured_flops
from openwafer.compat.appliance._job_service import JobService
from openwafer.compat.appliance._wheel import wheel


@final
class Compiler(JobService):
    """Serves cerebras.Appliance to a client that compiles."""

    def __init__(
        self, folder: JobFolder, request: Any, compile_dir: Path, store: Literal["ram", "disk"]
    ) -> None:
        super().__init__(folder)
        self._compile_dir, self._store = compile_dir, store
        self._microbatch = microbatch_of(request.debug_args)
        self._lock = threading.Lock()

    def unary_compile(self, request: Any, context: Any) -> Any:
        """Read, plan, keep. What is wrong with the program is told with its place; see compat.cirh."""
        try:
            return self._compile(request)
        except WaferError as error:
            self.say(f"the program cannot be compiled: {error}")
            self.fail(str(error))
            raise

    def _compile(self, request: Any) -> Any:
        with self._lock:
            if request.num_csx < 1:
                raise InputError(f"the program asks for {request.num_csx} systems; ask for at least one")
            options = CompileOptions(systems=request.num_csx, microbatch=self._microbatch, store=self._store)
            compiled = compile_program(request.cirh_content, options, self._compile_dir, self._say)
            if request.batch_size and compiled.program.batch != request.batch_size:
                raise PlanError(
                    f"the program is for batches of {compiled.program.batch} samples, but the request says "
                    f"{request.batch_size}; is the first dim of each input the batch?"
                )
        response = self.pb.CompileResponse(
            cache_compile_dir=str(compiled.folder),
            cluster_details=describe_cluster(request.num_csx, max(1, request.num_workers_per_csx)),
        )
        # The client multiplies the first with samples a second, and divides by the second.
        response.perf_info.algo_flops = compiled.plan.flops_per_step // compiled.plan.batch
        response.perf_info.supported_flops = measured_flops()
        response.cross_compile_state.microBatch = compiled.plan.microbatches[0]
        response.cross_compile_state.nShards = 1
        return response

    def _say(self, line: str) -> None:
        self.say(line, "COMPILE")


def microbatch_of(debug_args: Any) -> int | Literal["auto"] | None:
    """What the client's micro_batch_size says: a number, None for no division, or "auto" (also for its searches)."""
    if debug_args.ini.bools.get("ws_opt_disable_grad_accum", False):
        return None
    return int(debug_args.ini.ints.get("ws_opt_force_max_grad_accum_batch", 0)) or "auto"


def describe_cluster(systems: int, workers: int) -> Any:
    """The tasks of an execute job: a coordinator, MemoryX, and for each system its input workers."""
    details = wheel().config.ClusterDetails()
    kinds = details.TaskInfo.TaskType
    for kind, count in (("CRD", 1), ("WGT", 1), ("CMD", 1), ("WRK", systems * workers), ("WSE", systems)):
        task = details.tasks.add(task_type=kinds.Value(kind))
        for index in range(count):
            system = index // workers if kind == "WRK" else index if kind == "WSE" else -1
            entry = task.task_map.add()
            entry.task_id.task_id = index
            entry.task_id.wse_id = system
            entry.task_id.wse_ids.extend([system] if system >= 0 else range(systems))
    return details
