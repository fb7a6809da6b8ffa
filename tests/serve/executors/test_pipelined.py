"""Pipelined execution: the numbers of the resident executor, batches in flight, and stages that are lost."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import hanging_stage
import pytest
import torch
from serve_models import Sequences, prompt, save_model

from openwafer.base import MIB, CheckpointError, EngineError, InputError, PlanError
from openwafer.serve.executors import PipelinedExecutor, ResidentExecutor, open_executor, split_layers
from openwafer.serve.executors._stage_watch import _Unchanged
from openwafer.serve.model import Checkpoint, Precision, head_bytes, layer_bytes, make_demo

PROMPTS = {name: prompt(length, length) for name, length in (("a", 5), ("b", 130), ("c", 1), ("d", 64))}
BF16 = Precision(torch.bfloat16)
FP32 = Precision(torch.float32)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"), layers=5, hidden=64)


@pytest.fixture(scope="module")
def pipelines(demo):
    """One of three stages for each dtype, whose processes serve all tests that leave them whole."""
    made = {
        precision.compute: PipelinedExecutor(Checkpoint(demo), precision, 24, 3) for precision in (FP32, BF16)
    }
    yield made
    for executor in made.values():
        executor.close()


@pytest.fixture
def pipeline(demo):
    """A pipeline of two stages that a test may break."""
    executor = PipelinedExecutor(Checkpoint(demo), BF16, 12, 2, stall_s=2.0)
    yield executor
    executor.close()
    assert not any(map(alive, executor.pids))


def alive(pid):
    """Whether there is such a process, and it is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("precision", [FP32, BF16], ids=str)
def test_greedy_answers_are_those_of_the_resident_executor(demo, pipelines, precision):
    """Together and one by one."""
    expected = Sequences(ResidentExecutor(Checkpoint(demo), precision, 24)).greedy(PROMPTS, 16)
    executor = pipelines[precision.compute]

    assert Sequences(executor).greedy(PROMPTS, 16) == expected
    for name, tokens in PROMPTS.items():
        assert Sequences(executor).greedy({name: tokens}, 16)[name] == expected[name]


def test_as_many_batches_are_under_way_as_there_are_stages(demo, pipelines):
    """Submitted one after another, collected in the same order, each with its own logits."""
    executor = pipelines[torch.float32]
    assert executor.in_flight == 3
    resident = Sequences(ResidentExecutor(Checkpoint(demo), FP32, 24))
    names = list(PROMPTS)[:3]
    expected = [resident.run({name: PROMPTS[name]})[name] for name in names]
    sequences = Sequences(executor)
    before = executor.busy_s

    for name in names:
        executor.submit(sequences.batch({name: PROMPTS[name]}))
    got = [executor.collect() for _ in names]

    assert len(before) == 3
    assert all(now > then for now, then in zip(executor.busy_s, before, strict=True))

    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_batch_larger_than_a_slot_travels_in_parts(pipelines):
    """2,900 tokens with all of their logits: 3 MB of logits through slots of 66 KiB, hidden states through slots of 256 KiB."""
    executor = pipelines[torch.float32]
    tokens = prompt(2900)

    whole = Sequences(executor).run({"a": tokens})["a"]
    begin = Sequences(executor).run({"a": tokens[:2000]})["a"]

    assert whole.shape == (2900, executor.config.vocabulary)
    torch.testing.assert_close(whole[:2000], begin, atol=1e-4, rtol=1e-4)


def test_no_logits_are_wanted_of_a_part_of_a_prompt(demo, pipelines):
    """A chunk of a prompt that goes on has no outputs; the next one continues it."""
    executor = pipelines[torch.float32]
    expected = Sequences(ResidentExecutor(Checkpoint(demo), FP32, 24)).run({"a": prompt(30)})["a"]
    sequences = Sequences(executor)
    first = sequences.batch({"a": prompt(30)[:20]})
    object.__setattr__(first, "outputs", ())

    executor.submit(first)

    assert executor.collect().shape == (0, executor.config.vocabulary)
    torch.testing.assert_close(
        sequences.run({"a": prompt(30)[20:]})["a"], expected[20:], atol=1e-5, rtol=1e-5
    )


def test_layers_are_split_by_the_bytes_that_a_token_reads(demo, tmp_path):
    """Contiguous and complete; a large head counts for as many layers as it weighs."""
    config = Checkpoint(demo).config
    assert head_bytes(config, BF16) < layer_bytes(config, BF16)
    assert split_layers(config, BF16, 1) == [range(5)]
    assert split_layers(config, BF16, 2) == [range(3), range(3, 5)]
    assert split_layers(config, BF16, 5) == [range(i, i + 1) for i in range(5)]
    save_model(tmp_path, "llama 2")
    small = Checkpoint(tmp_path).config
    assert split_layers(dataclasses.replace(small, vocabulary=10**4), FP32, 2) == [range(2), range(2, 3)]
    for stages in (0, 4):
        with pytest.raises(PlanError, match=rf"3 layers cannot be shared out among {stages} stages"):
            split_layers(small, FP32, stages)


def test_a_killed_stage_is_named(pipeline):
    """Within seconds, to whoever waits for logits and to whoever submits later."""
    sequences = Sequences(pipeline)
    sequences.run({"a": [5, 6]})
    os.kill(pipeline.pids[1], signal.SIGKILL)
    begun = time.monotonic()

    with pytest.raises(
        EngineError, match=r"stage 1 of 2 \(layers 3 to 4, process \d+\) was killed by signal 9"
    ):
        sequences.run({"a": [7]})
    assert time.monotonic() - begun < 40
    with pytest.raises(EngineError, match="stage 1 of 2"):
        pipeline.submit(sequences.batch({"b": [7]}))


def test_a_first_stage_that_is_killed_is_named(pipeline):
    """The stages after it end because of it; they are not the cause."""
    sequences = Sequences(pipeline)
    os.kill(pipeline.pids[0], signal.SIGKILL)

    with pytest.raises(EngineError, match=r"stage 0 of 2 .*was killed by signal 9"):
        sequences.run({"a": [7]})


def test_a_stopped_stage_is_named(pipeline):
    """It holds its rings and answers nothing; after `stall_s` without a sign of life it is given up, and close() ends it."""
    sequences = Sequences(pipeline)
    sequences.run({"a": [5, 6]})
    os.kill(pipeline.pids[0], signal.SIGSTOP)

    with pytest.raises(EngineError, match=r"stage 0 of 2 .* gave no sign of life for \d+ s"):
        sequences.run({"a": [7]})


def test_a_stage_that_hangs_is_named(demo, monkeypatch):
    """Its process lives and has time, but a layer never ends. Stages that wait for it, before it and after it, are not blamed.

    Four stages, four batches, each of two parts: the third hangs, so the second waits to hand on, and the last for a batch.
    """
    monkeypatch.setattr("openwafer.serve.executors._stage_watch.run_stage", hanging_stage.run_stage)
    executor = PipelinedExecutor(Checkpoint(demo), BF16, 40, 4, hang_s=4.0)
    try:
        sequences = Sequences(executor)
        sequences.run({"a": [5, 6]})
        os.kill(executor.pids[2], signal.SIGUSR1)
        for name in "bcde":
            executor.submit(sequences.batch({name: prompt(1100)}))

        with pytest.raises(EngineError, match=r"stage 2 of 4 .* lives, but did nothing for \d+ s on a batch"):
            executor.collect()
        with pytest.raises(EngineError, match="stage 2 of 4"):
            executor.submit(sequences.batch({"f": [7]}))
    finally:
        executor.close()
    assert not any(map(alive, executor.pids))


def test_only_time_that_was_watched_counts_against_a_stage():
    """A value that changes is alive again, and nobody looks while there is nothing to do: such gaps are nobody's silence."""
    unchanged = _Unchanged(now=0.0)

    assert unchanged.seconds(1, now=10.0, unseen=10.0) == 0.0
    assert unchanged.seconds(1, now=10.5, unseen=0.5) == 0.5
    assert unchanged.seconds(1, now=11.25, unseen=0.75) == 1.25
    assert unchanged.seconds(1, now=99.25, unseen=88.0) == 1.25
    assert unchanged.seconds(2, now=99.5, unseen=0.25) == 0.0


def test_a_stage_that_fails_tells_why(pipeline):
    """A token beyond the vocabulary: the text of the error is that of the stage."""
    with pytest.raises(EngineError, match=r"stage 0 of 2 .* failed: IndexError"):
        Sequences(pipeline).run({"a": [1, 9999]})


def test_collect_without_a_batch_and_after_close(demo, pipeline):
    """Both are the caller's fault and said so; close() may be called twice."""
    with pytest.raises(EngineError, match="no batch was submitted"):
        pipeline.collect()
    pipeline.close()
    pipeline.close()
    with pytest.raises(EngineError, match="was closed"):
        pipeline.submit(Sequences(pipeline).batch({"a": [1]}))


def test_a_stage_that_cannot_load_raises_what_it_raised(demo, tmp_path):
    """The file was cut after it was opened here: CheckpointError, from the process that reads the end of it."""
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    checkpoint = Checkpoint(folder)
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(os.path.getsize(folder / "model.safetensors") // 2)

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        PipelinedExecutor(checkpoint, BF16, 4, 2)


def test_opening_reports_progress_to_its_end(demo):
    """Bytes of all stages together: they grow, and end at what is to be read in all."""
    seen = []

    executor = open_executor(
        demo,
        systems=2,
        device="cpu",
        blocks=12,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    executor.close()

    assert isinstance(executor, PipelinedExecutor)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] > 0
    assert {what.split(",")[0] for what, _, _ in seen} == {"stage 0", "stage 1"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"systems": 0}, InputError, "cannot run on 0 systems"),
        ({"systems": 2, "execution": "weight_streaming"}, InputError, "on one system and not on 2"),
        ({"systems": 6}, PlanError, "take 1 to 5 systems"),
        ({"execution": "pipelined", "memory_bytes": 900 * MIB}, PlanError, "does not fit"),
    ],
)
def test_what_cannot_be_piped_is_refused(demo, options, error, says):
    """Before a process is started."""
    with pytest.raises(error, match=says):
        open_executor(demo, device="cpu", **options)


def test_ctrl_c_leaves_no_process(demo):
    """SIGINT goes to all processes of a terminal: stages ignore it and end with the one that started them."""
    code = """
        import sys, time
        from openwafer.serve.executors import open_executor
        executor = open_executor(sys.argv[1], execution="pipelined", device="cpu", blocks=4, systems=2)
        print(*executor.pids, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), demo],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        stages = [int(word) for word in process.stdout.readline().split()]
        assert len(stages) == 2
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        end = time.monotonic() + 60
        while any(map(alive, stages)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(alive, stages))
    finally:
        process.kill()
        process.wait()
