"""The service of an execute job: takes a compiled program, weights and a data pipeline, trains, and gives out the results."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, final

import torch

from openwafer.appliance import JobFolder
from openwafer.base import InputError, StallError, StorageError, WaferError
from openwafer.cluster import Job, StepDone
from openwafer.cluster.store import Checkpoint
from openwafer.compat.appliance._compiled import Compiled, TensorInfo, compiled_folder, open_compiled
from openwafer.compat.appliance._deferred import Deferred
from openwafer.compat.appliance._inputs import confinement_of, open_inputs
from openwafer.compat.appliance._job_service import JobService, steps_of
from openwafer.compat.appliance._monitor import verdict_of
from openwafer.compat.appliance._performance import Performance, trace_events
from openwafer.compat.appliance._run_files import TIMELINE_STEPS, RunFiles
from openwafer.compat.appliance._service import CallError
from openwafer.compat.appliance._session import RunOrder, Session
from openwafer.compat.appliance._tensors import from_bytes, pieces
from openwafer.compat.appliance._weights import Staging, read_state
from openwafer.compat.appliance._wheel import wheel

_MOST_TRACED = 100
"""Steps of a trace; a system's spans of them stay in memory until the run ends."""
WEIGHTS_S = 3600.0
"""For a client to send all its weights."""
_STALL_S = 300.0
_STATE_S = 30.0
"""For the workers to say their state."""
_STEP_NUMBER = 1
"""The client's name of the state of random numbers."""


class Place(NamedTuple):
    """What the node gives the job: see `appliance.JobSpec`."""

    memoryx: str
    threads: int


class _Kept(NamedTuple):
    """A tensor of the repository: the state of an earlier run, or one that was read from there."""

    info: TensorInfo
    checkpoint: Checkpoint


@final
class Coordinator(JobService):
    """Serves cerebras.Appliance to a client that trains or evaluates; several runs, one after another."""

    def __init__(self, folder: JobFolder, request: Any, place: Place) -> None:
        super().__init__(folder)
        self._request, self._place = request, place
        self._compiled: Compiled | None = None
        self._staging: Staging | None = None
        self._deferred: Deferred | None = None
        self._run: Any = None
        self._session: Session | None = None
        self._repository: dict[int, _Kept] = {}
        """By the client's number: state that outlives its run."""
        self._folders: list[Path] = []
        """Checkpoints of runs that are over."""
        self._steps_before = 0
        self._next_number = 0
        """Of the step that comes next: random numbers follow from it and the seed alone."""
        self._sessions = 0
        self._files: RunFiles | None = None
        self._performance = Performance()
        self._profiled = (0, 0)
        """The first and the last step, counted from 1, of which the client wants a trace."""
        self._lock = threading.Lock()

    # --- staging ----------------------------------------------------------------------------------------------

    def unary_init(self, request: Any, context: Any) -> Any:
        return self.pb.InitResponse()

    def unary_check_compile_compatibility(self, request: Any, context: Any) -> Any:
        """A job can take up another program only if it was compiled for as many systems."""
        kinds = _task_counts(request.compile_resp.cluster_details)
        if kinds != _task_counts(request.prev_compile_resp.cluster_details):
            return self.pb.CheckCompileCompatibilityResponse(
                code=_code("WS_RT_JOB_INCOMPATIBLE"),
                message="the new program needs other resources than the job has",
            )
        return self.pb.CheckCompileCompatibilityResponse()

    def unary_load(self, request: Any, context: Any) -> Any:
        """Take up a compiled program."""
        self._leave_session("a new program is loaded")
        self._compiled = open_compiled(compiled_folder(self.folder, request.cache_compile_dir))
        self._staging, self._deferred = Staging(self._compiled.program), None
        asked = request.op_profiler_config
        self._profiled = (asked.start_step, min(asked.end_step, asked.start_step + _MOST_TRACED - 1))
        return self.pb.LoadResponse()

    def unary_run(self, request: Any, context: Any) -> Any:
        """What to run: it begins when the weights have come and the client says so."""
        if request.num_iterations < 1:
            raise InputError(f"a run of {request.num_iterations} steps does nothing; ask for at least one")
        self._run = request
        return self.pb.RunResponse()

    def unary_send_check(self, request: Any, context: Any) -> Any:
        """Which tensors are expected: every state of the program, each a group of its own."""
        compiled = self._loaded()
        names = [info.name for info in compiled.program.states]
        pair = self.pb.SendCheckGroup.NameID
        groups = [
            self.pb.SendCheckGroup(
                tensor_names=[name],
                group_type="weight",
                group_id=index,
                tensor_name_id_pairs=[pair(tensor_name=name, tensor_id=index)],
            )
            for index, name in enumerate(names)
        ]
        return self.pb.SendCheckResponse(
            tensor_ids=range(len(names)), tensor_names=names, tensor_groups=groups
        )

    def start_weight_ingestion(self, request: Any, context: Any) -> Iterator[Any]:
        """Go ahead, then a response for each tensor that has come."""
        staging = self._expecting()
        yield self.pb.StartWeightIngestionResponse()
        for pair in request.tensor_id_shard_ids:
            name = self._name_of(pair)
            staging.wait([name], WEIGHTS_S)
            yield self.pb.StartWeightIngestionResponse(tensor_id=pair.tensor_id)

    def unary_send_deferred_input(self, request: Any, context: Any) -> Any:
        """Tensors of one number, and such as the client's own code makes: those come later, by the sandbox."""
        staging = self._expecting()
        with self._lock:
            if self._deferred is None:
                self._deferred = Deferred(staging, *confinement_of(self._request), self.say)
        for tensor in request.tensors:
            self._deferred.add(self._name_of(tensor), tensor)
        return self.pb.SendDeferredInputResponse()

    def send_input_bidir_stream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """One tensor."""
        staging = self._expecting()
        first, value = yield from self._received(
            requests, lambda request: staging.info(self._name_of(request))
        )
        name = self._name_of(first)
        if first.rtfx_proto.WhichOneof("contents") == "scalar":
            value = value.expand(staging.info(name).shape)
        staging.put(name, value)
        yield self.pb.SendInputResponse(iteration=first.iteration)

    def _received(
        self, requests: Iterator[Any], check: Callable[[Any], object]
    ) -> Generator[Any, None, tuple[Any, torch.Tensor]]:
        """The first request of a stream and the tensor, which comes in pieces: the first has no bytes and waits for a go-ahead.

        check: raises if the tensor is not wanted.
        """
        first, data = None, bytearray()
        for request in requests:
            value = request.rtfx_proto
            if first is None:
                first = request
                check(request)
                if value.WhichOneof("contents") == "tensor":
                    yield self.pb.SendInputResponse()
            part = value.scalar if value.WhichOneof("contents") == "scalar" else value.tensor
            data += part.data
            if not request.has_more:
                break
        if first is None:
            raise InputError("the stream of a tensor ended before it began; send it again")
        value = first.rtfx_proto
        shape = () if value.WhichOneof("contents") == "scalar" else value.tensor.shape
        return first, from_bytes(value.dtype, shape, data)

    def unary_sync(self, request: Any, context: Any) -> Any:
        return self.pb.SyncResponse()

    def unary_program_device(self, request: Any, context: Any) -> Any:
        return _ping_response()

    def unary_runtime_initialized(self, request: Any, context: Any) -> Any:
        return _ping_response()

    def unary_start_streaming(self, request: Any, context: Any) -> Any:
        """Begin: every weight is there."""
        with self._lock:
            if self._session is None:
                self._session = self._begin()
        return self.pb.StartStreamingResponse()

    # --- running ------------------------------------------------------------------------------------------------

    def get_output_stream(self, request: Any, context: Any) -> Iterator[Any]:
        session = self._running()
        name = request.tensor_name or self._name_of(request)
        value = session.fetch(request.iteration, name)
        yield from self._responses(value)

    def unary_data_checkpoint(self, request: Any, context: Any) -> Any:
        """The state of a restartable loader after some steps, as its workers pickled it. Here alone steps count from 1."""
        session = self._running()
        session.wait_for(request.iteration)
        end = time.monotonic() + _STATE_S
        states = self._inputs.worker_states(request.iteration)
        while states is None and self._inputs.restartable is not False and time.monotonic() < end:
            # A worker tells its state beside its batches: it may come a moment after the step that used the last of them.
            time.sleep(0.05)
            states = self._inputs.worker_states(request.iteration)
        if states is None:
            raise CallError(
                "FAILED_PRECONDITION", f"the data pipeline keeps no state at step {request.iteration}"
            )
        return self.pb.DataCheckpointResponse(state_dict_serialized=[state.hex() for state in states])

    def unary_finalize(self, request: Any, context: Any) -> Any:
        """Wait for the run's end; what failed in it is told by its own code."""
        states = self.pb.FinalizeRequest.State
        session = self._session
        if session is None:
            return self.pb.FinalizeResponse()
        self.monitor.release()
        if request.state != states.Value("FS_SUCCESS"):
            session.cancel(f"the client ended the run: {states.Name(request.state)}")
            return self.pb.FinalizeResponse()
        try:
            session.finish()
        except WaferError as error:
            verdict = verdict_of(error)
            return self.pb.FinalizeResponse(code=_code(verdict.code), message=verdict.message)
        return self.pb.FinalizeResponse(
            perf=self._performance.message(str(self.folder.run)), trace_events=self._trace()
        )

    def _trace(self) -> list[Any]:
        """Of the steps that the client asked for when it loaded the program."""
        first, last = self._profiled
        if not first or self._files is None or self._files.timeline is None:
            return []
        return trace_events(self._files.timeline, self._steps_before + first, self._steps_before + last)

    # --- the repository -------------------------------------------------------------------------------------------

    def unary_move_to_ptr(self, request: Any, context: Any) -> Any:
        session = self._running()
        info = session.info(self._name_of(request))
        self._repository[request.ptid] = _Kept(info, session.final())
        return self.pb.MoveToPTRResponse()

    def unary_carry_over_from_ptr(self, request: Any, context: Any) -> Any:
        kept = self._kept(request.ptid)
        self._expecting().put(self._name_of(request), read_state(kept.checkpoint, kept.info))
        if not request.keep_in_repo:
            self._repository.pop(request.ptid, None)
        return self.pb.CarryOverFromPTRResponse()

    def get_from_ptr_stream(self, request: Any, context: Any) -> Iterator[Any]:
        kept = self._kept(request.ptid)
        yield from self._responses(read_state(kept.checkpoint, kept.info))
        if not request.keep_in_repo:
            self._repository.pop(request.ptid, None)

    def unary_delete_from_ptr(self, request: Any, context: Any) -> Any:
        self._repository.pop(request.ptid, None)
        return self.pb.DeleteFromPTRResponse()

    # --- the state of random numbers, which a client carries from one job to the next -----------------------------

    def unary_get_cmd_state_ids(self, request: Any, context: Any) -> Any:
        """One: the number of the step that comes next."""
        return self.pb.GetCMDStateIdsResponse(ids=[_STEP_NUMBER])

    def get_cmd_state_stream(self, request: Any, context: Any) -> Iterator[Any]:
        if request.id != _STEP_NUMBER:
            raise InputError(f"there is no state {request.id} of random numbers; there is {_STEP_NUMBER}")
        session = self._session
        number = session.order.first_number + session.steps_done if session else self._next_number
        yield from self._responses(torch.tensor([number]))

    def send_cmd_state_bidir_stream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        first, value = yield from self._received(requests, lambda request: None)
        if first.tensor_id != _STEP_NUMBER or value.numel() != 1:
            raise InputError(
                "this state of random numbers is none of this appliance; change the seed to drop it"
            )
        self._next_number = max(0, int(value))
        yield self.pb.SendInputResponse(iteration=first.iteration)

    # --- inner ----------------------------------------------------------------------------------------------------

    def cancel(self, why: str) -> None:
        """End what runs, and let go who waits."""
        if self._staging is not None:
            self._staging.stop(why)
        if self._session is not None:
            self._session.cancel(why)

    def end(self, timeout_s: float) -> None:
        """After `cancel`, or when the client has left: wait until every role has gone."""
        if self._session is not None:
            self._session.cancel("the client has left")
            self._session.join(timeout_s)
        if self._files is not None:
            self._files.close()

    def _begin(self) -> Session:
        compiled, run = self._loaded(), self._run
        if run is None or self._staging is None:
            raise InputError(
                "the client streams without having said what to run; this order of calls is not known"
            )
        program, plan = compiled.program, compiled.plan
        self._sessions += 1
        checkpoints = self.folder.run / f"session-{self._sessions}" / "checkpoints"
        if self._sessions == 1:
            checkpoints = self.folder.run / "checkpoints"  # where the node looks for progress
        first = self._next_number
        if program.counters and not self._staging.missing:
            first = max(0, sum(map(self._staging.number, program.counters)))
        start = self._staging.write(plan, checkpoints, first)
        self._staging = None
        self._forget_old()
        steps = frozenset(steps_of(run.checkpoint_schedule))
        every = max(1, run.activation_freq)
        order = RunOrder(
            steps=run.num_iterations,
            checkpoint_steps=steps,
            output_steps=None if every == 1 else frozenset(range(every - 1, run.num_iterations, every)),
            first_number=first,
        )
        rows = [sum(system.rows) for system in plan.systems]
        # The client asks for the state before the first step and after the last one too, also where it takes no checkpoint.
        kept = {0, order.steps, *(step + 1 for step in steps)}
        self._inputs = open_inputs(self._request, run.dataloader, program, rows, kept, self.say)
        if self._files is not None:
            self._files.close()
        self._files = RunFiles(
            self.folder.run, compiled.folder, steps_before=self._steps_before, trains=program.trains
        )
        self._performance = Performance(self._steps_before)
        session = Session(
            program,
            plan,
            order,
            self._inputs,
            start,
            checkpoints,
            job=partial(self._job, compiled),
            progress=partial(self._progressed, order),
            failed=self._failed,
            say=self.say,
        )
        self.tell("state", state="running", message="streaming")
        session.start()
        return session

    def _forget_old(self) -> None:
        """Remove the checkpoints of earlier runs of which nothing is in the repository."""
        used = {kept.checkpoint.folder for kept in self._repository.values()}
        for folder in self._folders:
            if folder not in used:
                shutil.rmtree(folder, ignore_errors=True)
        self._folders = [folder for folder in self._folders if folder in used]

    def _job(self, compiled: Compiled, start: Checkpoint) -> Job:
        kind, _, folders = self._place.memoryx.partition(":")
        places = folders.split(",") if kind == "disk" else [str(self.folder.run / "memoryx")]
        return Job(
            plan=compiled.plan,
            seed=0,
            start=str(start.folder),
            store_folders=tuple(str(Path(place)) for place in places),
            threads=self._place.threads,
            stall_s=_STALL_S,
            keep_checkpoints=1 << 30,
            timeline_steps=max(TIMELINE_STEPS, self._profiled[1]),
        )

    def _progressed(self, order: RunOrder, event: StepDone) -> None:
        now = time.monotonic()
        step = event.step - order.first_number + 1
        # A program whose loss is no sum over its samples (it is divided by the number of tokens) reports it with the update.
        logged = [value for name, value in event.logs.items() if "loss" in name and "scale" not in name]
        loss = logged[0] if logged and not event.metrics else event.loss
        if step == order.steps or now - self._told > 1.0:
            self._told = now
            rate = event.samples / event.seconds if event.seconds > 0 else 0.0
            self.tell("progress", step=step, steps=order.steps, loss=loss, samples_per_s=rate)
        self._performance.add(event)
        if self._files is not None:
            try:
                self._files.stepped(step - 1, event, loss)
            except StorageError as error:
                self.say(f"the job goes on, but its page does not: {error}")
                self._files = None

    _told = 0.0

    def _failed(self, error: WaferError) -> None:
        self.say(f"the run failed: {error}")
        if isinstance(error, StallError):
            self.say(str(error), "STALL")
        self.fail(str(error))
        self.monitor.fail(verdict_of(error))

    def _leave_session(self, why: str) -> None:
        """Before another run: what the last one left stays for the repository."""
        session, self._session = self._session, None
        if session is not None:
            session.cancel(why)
            session.join(_STALL_S)
            self._steps_before += session.steps_done
            self._next_number = session.order.first_number + session.steps_done
            if self._files is not None:
                self._files.close()
            self._folders.extend(session.folders)

    def _responses(self, value: torch.Tensor) -> Iterator[Any]:
        found = list(pieces(value)) if value.nbytes < 1 << 20 else pieces(value)
        for piece in found:
            yield self.pb.GetOutputResponse(rtfx_proto=piece)

    def _loaded(self) -> Compiled:
        if self._compiled is None:
            raise InputError("no program is loaded; this order of calls is not known")
        return self._compiled

    def _expecting(self) -> Staging:
        if self._staging is None:
            raise InputError("no weights are expected now: load a program first")
        return self._staging

    def _running(self) -> Session:
        if self._session is None:
            raise InputError("nothing runs yet; start streaming first")
        return self._session

    def _kept(self, number: int) -> _Kept:
        if number not in self._repository:
            raise InputError(f"there is no tensor {number} in the repository; it was moved or deleted")
        return self._repository[number]

    def _name_of(self, message: Any) -> str:
        """The tensor that a message names, by name or by the number that `unary_send_check` gave it."""
        if message.WhichOneof("info_type") == "tensor_name":
            return str(message.tensor_name)
        states = self._loaded().program.states
        if message.tensor_id >= len(states):
            raise InputError(f"the program has no tensor {message.tensor_id}; it has {len(states)}")
        return str(states[message.tensor_id].name)


def _code(name: str) -> int:
    return int(wheel().status.StatusCode.Value(name))


def _ping_response() -> Any:
    return wheel().status.PingResponse()


def _task_counts(details: Any) -> dict[int, int]:
    return {task.task_type: len(task.task_map) for task in details.tasks}
