"""A client's data pipeline as batches: the same numbers in the same order, from any step on."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
import torch
from client_sources import TENSORS, labels, pipeline, source

from openwafer.base import InputError, RoleLost
from openwafer.compat.inputs import Pipeline, TensorSpec


def numbers(batch: int, first: int, epoch: int) -> list[int]:
    """Samples of batch `first` of a Counting pipeline with epochs of `epoch` samples."""
    return [(batch * first + sample) % epoch for sample in range(batch)]


def sandboxes() -> list[psutil.Process]:
    """Launchers of this process's workers."""
    return [child for child in psutil.Process().children() if "openwafer.sandbox" in child.cmdline()]


def test_batches_are_those_of_the_pipeline_epoch_after_epoch() -> None:
    """An exhausted loader is iterated again, as the client's own worker does."""
    with source(pipeline("Counting", 4, 3)) as batches:
        function = batches.batches(0)
        for number in range(8):
            batch = function(number, True)
            expected = numbers(4, number, 12)
            assert batch["labels"].tolist() == expected
            assert torch.equal(
                batch["images"], torch.tensor(expected, dtype=torch.float32)[:, None].expand(4, 3)
            )


def test_every_system_gets_its_number_of_rows() -> None:
    """A loader that does not ask for its share is cut to it; systems read it on their own, as on the real cluster."""
    with source(pipeline("Counting", 4, 3), rows=[3, 2]) as batches:
        assert labels(batches, range(4), system=0) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
        assert labels(batches, range(4), system=1) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_batches_of_varying_size_are_joined() -> None:
    """Samples are never lost or given twice between two batches."""
    with source(pipeline("ragged")) as batches:
        assert labels(batches, range(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 1, 2], [3, 4, 5, 6]]


def test_workers_of_a_system_take_turns() -> None:
    """Batch n comes from worker n mod w, each of which reads the loader by itself: the client's loaders shard by rank."""
    with source(pipeline("Counting", 4, 3), workers=2) as batches:
        first = [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7], [8, 9, 10, 11]]
        assert labels(batches, range(5)) == first
        assert labels(batches, [3, 4]) == first[3:]


def test_any_batch_can_be_asked_for_again() -> None:
    """A run that goes back to a checkpoint finds the same samples; without a state the pipeline is read from its beginning."""
    log: list[str] = []
    with source(pipeline("Counting", 4, 5), log=log) as batches:
        straight = labels(batches, range(7))

        assert labels(batches, [2, 3, 9, 6]) == [straight[2], straight[3], numbers(4, 9, 20), straight[6]]
    assert log == []


def test_every_dtype_arrives_as_it_is() -> None:
    """bfloat16 has no numpy, and truth values are made of bytes that a stranger wrote."""
    tensors = [
        TensorSpec(name="half", dtype="bfloat16", shape=(), source="input_0_half"),
        TensorSpec(name="truth", dtype="bool", shape=(), source="input_0_deep_0"),
        TensorSpec(name="bytes", dtype="uint8", shape=(), source="input_0_deep_1"),
    ]
    with source(pipeline("kinds"), tensors=tensors, memory_bytes=4 << 30) as batches:
        batch = batches.batches(0)(0, True)

    assert torch.equal(batch["half"], torch.arange(4).to(torch.bfloat16))
    assert batch["truth"].dtype == torch.bool
    assert batch["truth"].tolist() == [True, False, True, True]
    assert batch["bytes"].tolist() == [0, 1, 2, 3]


def test_a_restarted_run_goes_on_from_the_loader_s_state() -> None:
    """The state of step 4 leads to batch 4 and all after it, in another process of another day."""
    made = pipeline("Restartable", 4)
    with source(made, state_steps=[range(0, 100, 2)]) as batches:
        straight = labels(batches, range(9))
        kept = batches.state(4)
        assert batches.restartable
    assert (kept["from"], len(kept["workers"])) == (4, 1)

    with source(made) as again:
        again.restore(kept)
        assert labels(again, range(4, 9)) == straight[4:]


def test_between_two_states_the_pipeline_is_read_on() -> None:
    """A checkpoint that was written at a step whose state nobody asked for is as exact, only later."""
    made = pipeline("Restartable", 4)
    with source(made, state_steps=[range(0, 100, 3)]) as batches:
        straight = labels(batches, range(9))
        kept = batches.state(5)
    assert kept["from"] == 3

    with source(made) as again:
        again.restore(kept)
        assert labels(again, range(5, 9)) == straight[5:]


def test_states_of_all_workers_are_handed_over_together() -> None:
    """The client aggregates them, so it waits until the last worker has come so far."""
    with source(pipeline("Restartable", 4), rows=[4, 4], workers=2, state_steps=[range(3, 4)]) as batches:
        labels(batches, range(3))
        missing = batches.worker_states(3)
        labels(batches, range(3), system=1)
        assert missing is None or len(missing) == 4  # the other system's workers may have run ahead
        assert len(batches.worker_states(3) or []) == 4
        assert batches.worker_states(2) is None


def test_the_state_that_the_client_sends_is_where_the_run_begins() -> None:
    """It is what its own aggregate_state_dict made in an earlier session; here the state after two batches."""
    import pickle

    with source(pipeline("Restartable", 4)) as batches:
        straight = labels(batches, range(4))
    made = pipeline(
        "Restartable", 4, state=pickle.dumps(({"worker0": {"value": straight[1][-1]}}, {"strict": True}))
    )

    with source(made) as batches:
        assert labels(batches, range(2)) == straight[2:]


def test_a_worker_that_is_killed_starts_again_where_it_was() -> None:
    """Neither the run nor the order of samples notices; the log does."""
    log: list[str] = []
    with source(pipeline("Restartable", 4), log=log, state_steps=[range(0, 100, 2)]) as batches:
        straight = labels(batches, range(12))
    with source(pipeline("Restartable", 4), log=log, state_steps=[range(0, 100, 2)]) as batches:
        found = labels(batches, range(5))
        for sandbox in sandboxes():
            family = sandbox.children(recursive=True)
            sandbox.send_signal(signal.SIGKILL)
            psutil.wait_procs([sandbox, *family], timeout=60)  # what it has made ahead still counts
        found += labels(batches, range(5, 12))

    assert found == straight
    assert "starting it again at batch" in "\n".join(log)


def test_nothing_is_left_of_closed_workers() -> None:
    """Not a process and not a descriptor: a management node makes thousands of them."""
    before = len(os.listdir("/proc/self/fd"))
    with source(pipeline("Counting", 4, 3), rows=[4, 4]) as batches:
        batches.start()
        labels(batches, range(2))
        assert len(sandboxes()) == 2
    deadline = time.monotonic() + 60
    while (sandboxes() or len(os.listdir("/proc/self/fd")) > before) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert sandboxes() == []
    assert len(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(RoleLost, match="was closed"):
        batches.batches(0)(2, True)


def test_the_pipeline_s_lines_and_variables_are_its_own() -> None:
    """What it prints is in the job's log under its worker's name; what the client asked for is in its environment only."""
    log: list[str] = []
    made = pipeline("printing", environment={"WANTED": "this"})
    with source(made, log=log) as batches:
        labels(batches, [0])
        deadline = time.monotonic() + 60
        while not log and time.monotonic() < deadline:
            time.sleep(0.01)

    assert log == ["input worker 0 | a line of the pipeline this"]
    assert "WANTED" not in os.environ


def test_a_slow_pipeline_is_called_starvation_with_the_seconds() -> None:
    """An input-bound run is told so while it is one, and not at its end."""
    log: list[str] = []
    stalls: list[tuple[int, float]] = []
    with source(
        pipeline("slow"),
        log=log,
        stall_s=0.3,
        on_stall=lambda system, waited_s: stalls.append((system, waited_s)),
    ) as batches:
        labels(batches, range(3))
        waits = batches.waits(0)

    assert stalls
    assert {system for system, _ in stalls} == {0}
    assert "INPUT_STARVATION: system 0 has waited" in log[0]
    assert waits.batches == 3
    assert waits.total_s >= waits.last_s > 0.3


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (
            "wrong_shape",
            r"samples of 'input_x' are float32 of shape \[2\], but the program was compiled for float32 of shape \[3\]",
        ),
        ("no_y", "a batch has no 'input_y'; it has input_x"),
        ("empty", "gave no batch in an epoch"),
    ],
)
def test_a_pipeline_that_does_not_fit_the_program_is_told_how(builder: str, words: str) -> None:
    """The program was compiled for one shape, and what differs is named."""
    with source(pipeline(builder)) as batches, pytest.raises(InputError, match=words):
        labels(batches, [0])


def test_a_restartable_loader_must_give_its_worker_s_share() -> None:
    """Its state counts its own batches, which must then be ours."""
    with (
        source(pipeline("Restartable", 3)) as batches,
        pytest.raises(InputError, match="get_streaming_batch_size"),
    ):
        labels(batches, [0])


def test_what_cannot_come_from_a_pipeline_is_refused_at_once() -> None:
    """Before any process is started."""
    with pytest.raises(InputError, match="'z' is complex64"):
        source(pipeline("kinds"), tensors=[TensorSpec(name="z", dtype="complex64", shape=())])
    with pytest.raises(InputError, match="declares no inputs"):
        source(pipeline("kinds"), tensors=[])
    with pytest.raises(InputError, match="each needs at least one"):
        source(Pipeline(builder=b""), rows=[4, 0])
    with (
        source(pipeline("kinds"), tensors=TENSORS) as batches,
        pytest.raises(InputError, match="no system 3"),
    ):
        batches.batches(3)
