"""Parts of the protocol that need no job: tensors on the wire, schedules, the watch for failures."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("grpc")
pytest.importorskip("cerebras.appliance")

import torch
from hypothesis import given
from hypothesis import strategies as st

from openwafer.base import InputError, RoleLost, StallError
from openwafer.compat.appliance import wheel
from openwafer.compat.appliance._compiled import CompileOptions, key_of
from openwafer.compat.appliance._compiler import describe_cluster, microbatch_of
from openwafer.compat.appliance._deferred import describe
from openwafer.compat.appliance._job_service import steps_of
from openwafer.compat.appliance._monitor import Monitor, Verdict, verdict_of
from openwafer.compat.appliance._requests import count_systems
from openwafer.compat.appliance._service import CallError
from openwafer.compat.appliance._tensors import element_of, from_bytes, pieces

DTYPES = (torch.bool, torch.int32, torch.int64, torch.uint8, torch.float16, torch.bfloat16, torch.float32)
FAILED = Verdict("WS_RT_CRASH_DETECTED", "system0 is gone", "ACT")


@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 5), max_size=3), chunk=st.integers(1, 64))
def test_a_tensor_arrives_as_it_was_sent(dtype: torch.dtype, shape: list[int], chunk: int) -> None:
    """In pieces of any size; a scalar and an empty tensor are one piece each."""
    value = torch.randint(0, 2, shape).to(dtype)

    sent = list(pieces(value, chunk))
    data = b"".join(piece.tensor.data for piece in sent)
    found = from_bytes(sent[0].dtype, list(sent[0].tensor.shape), data)

    assert found.dtype is dtype
    assert torch.equal(found, value)


def test_a_tensor_with_bytes_missing_is_refused() -> None:
    """A torn stream would else be read as another tensor."""
    with pytest.raises(InputError, match="has 16 bytes, but 12 came"):
        from_bytes(element_of(torch.float32), [2, 2], b"\0" * 12)


def test_a_schedule_names_its_steps_and_its_last() -> None:
    """checkpoint_steps=4 of 10 steps: after the 4th, the 8th and the last, counted from 0."""
    schedule = wheel().status.Schedule()
    schedule.intervals.add(start=3, end=10, step=4, include_last=True)

    assert steps_of(schedule) == {3, 7, 9}


def test_a_failure_reaches_the_poll_that_waits_and_every_later_one() -> None:
    """The client's two threads take turns, and either must hear it; what follows from the first failure is not told."""
    monitor = Monitor()
    threading.Timer(
        0.1, lambda: (monitor.fail(FAILED), monitor.fail(FAILED._replace(message="later")))
    ).start()

    assert monitor.wait(60) == FAILED
    assert monitor.wait(60) == FAILED


def test_a_poll_is_relieved_by_the_next() -> None:
    """One that is relieved rests for its shift, so only the older may be told so."""
    monitor, found = Monitor(), []
    older = threading.Thread(target=lambda: found.append(monitor.wait(60).code))
    older.start()
    time.sleep(0.1)
    newer = threading.Thread(target=lambda: found.append(monitor.wait(60).code))
    newer.start()
    older.join(30)
    monitor.release()
    newer.join(30)

    assert found == ["WS_RT_SUCCESS", "WS_RT_MONITOR_CLEAN"]


@pytest.mark.parametrize(
    ("error", "code", "task"),
    [
        (RoleLost("system0 is gone"), "WS_RT_CRASH_DETECTED", "ACT"),
        (StallError("input worker 0 gave nothing"), "WS_RT_STALL_DETECTED", "WRK"),
        (RoleLost("memoryx is gone"), "WS_RT_CRASH_DETECTED", "WGT"),
        (InputError("something else"), "WS_RT_INTERNAL_ERROR", "CRD"),
    ],
)
def test_failures_have_the_clients_own_codes(error: Exception, code: str, task: str) -> None:
    """The client decides by the code what it says and whether it starts again."""
    assert verdict_of(error) == Verdict(code, str(error), task)


def test_the_compile_cache_tells_options_apart() -> None:
    """The same program for two systems has another plan."""
    one, two = CompileOptions(systems=1), CompileOptions(systems=2)

    assert key_of("module {}", one) == key_of("module {}", one)
    assert len({key_of("module {}", one), key_of("module {}", two), key_of("module { }", one)}) == 3


def test_a_cluster_has_as_many_systems_as_were_asked_for() -> None:
    """The client sends the description back with its execute job, and there the systems are counted."""
    assert count_systems(describe_cluster(3, workers=2)) == 3


def test_the_clients_micro_batch_size_is_read_from_its_settings() -> None:
    """An integer, None, or a search, which is the planner's own."""
    debug = wheel().config.DebugArgs
    chosen, none = debug(), debug()
    chosen.ini.ints["ws_opt_force_max_grad_accum_batch"] = 8
    none.ini.bools["ws_opt_disable_grad_accum"] = True

    assert (microbatch_of(chosen), microbatch_of(none), microbatch_of(debug())) == (8, None, "auto")


def test_a_graph_of_graphs_is_described_for_the_sandbox() -> None:
    """Each argument is a graph, a number or bytes of its own."""
    tensor = wheel().appliance.SendDeferredInputRequest.Tensor(
        shape=[2, 3], dtype=element_of(torch.float32), post_materialize_hooks=b"hook".hex()
    )
    tensor.graph_tensor.graph = "graph(): ..."
    number = tensor.graph_tensor.args.add(dtype=element_of(torch.int64))
    number.scalar_broadcast_tensor.value.dtype = element_of(torch.int64)
    number.scalar_broadcast_tensor.value.scalar.data = torch.tensor(7).numpy().tobytes()
    inner = tensor.graph_tensor.args.add(shape=[3], dtype=element_of(torch.bool))
    inner.rtfx_tensor.CopyFrom(next(iter(pieces(torch.tensor([True, False, True])))))

    value = describe("w", tensor)

    assert (value.name, value.dtype, value.shape, value.hooks) == ("w", "float32", (2, 3), b"hook")
    assert value.args[0].fill == 7
    assert value.args[1].data == b"\1\0\1"


def test_a_tensor_in_s3_is_refused_by_name() -> None:
    """The appliance has no account there."""
    tensor = wheel().appliance.SendDeferredInputRequest.Tensor(dtype=element_of(torch.float32))
    tensor.s3_tensor.bucket = "weights"

    with pytest.raises(CallError, match="fc1 lies in S3 storage"):
        describe("fc1", tensor)
