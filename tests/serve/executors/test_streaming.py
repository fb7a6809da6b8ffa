"""Weight streaming: the numbers of the resident executor, the order of reading, the memory, and failures."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import pytest
import torch
from serve_models import CASES, Sequences, prompt, save_model

from openwafer.base import GIB, MIB, EngineError, InputError, PlanError
from openwafer.serve.executors import (
    ResidentExecutor,
    StreamingExecutor,
    open_executor,
    resident_plan,
    streaming_plan,
)
from openwafer.serve.executors._streaming import resident_layers
from openwafer.serve.executors._weight_chunks import CHUNK_BYTES, layer_chunks, slot_bytes, slot_places
from openwafer.serve.model import (
    Checkpoint,
    ModelConfig,
    Precision,
    Rope,
    layer_bytes,
    layer_plan,
    make_demo,
)

PROMPTS = {name: prompt(length, length) for name, length in (("a", 5), ("b", 130), ("c", 1), ("d", 64))}
BF16, FP32 = Precision(torch.bfloat16), Precision(torch.float32)
WIDE = ModelConfig(
    family="llama",
    vocabulary=32000,
    hidden=4096,
    intermediate=11008,
    layers=32,
    heads=32,
    heads_kv=32,
    head_dim=128,
    norm_epsilon=1e-5,
    context_tokens=4096,
    rope=Rope(theta=10000.0),
    windows=(None,) * 32,
    tied=False,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=False,
    bos_token=1,
    eos_tokens=(2,),
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"), layers=5, hidden=64)


@pytest.fixture
def streaming():
    """Makes executors that are closed at the end."""
    made = []

    def make(folder, precision=BF16, blocks=12, resident=1, slots=2, direct=None):
        made.append(StreamingExecutor(Checkpoint(folder), precision, blocks, resident, slots, direct=direct))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def shifted(folder, shift):
    """The folder, whose weights begin so many bytes later in their file."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(
        (header - 8 + shift).to_bytes(8, "little") + data[8:header] + b" " * shift + data[header:]
    )
    return folder


def until(condition):
    """Wait for what another thread does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("resident", "slots"), [(0, 1), (0, 3), (2, 2), (4, 3), (5, 3)])
def test_greedy_answers_are_those_of_the_resident_executor(demo, streaming, dtype, resident, slots):
    """Together and one by one, in the stored dtype and in others, with any part of the layers streamed."""
    precision = Precision(dtype)
    expected = Sequences(ResidentExecutor(Checkpoint(demo), precision, 12)).greedy(PROMPTS, 16)

    executor = streaming(demo, precision, resident=resident, slots=slots)

    assert Sequences(executor).greedy(PROMPTS, 16) == expected
    for name, tokens in PROMPTS.items():
        assert Sequences(executor).greedy({name: tokens}, 16)[name] == expected[name]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_every_family_has_the_logits_of_the_resident_executor(tmp_path, streaming, case, direct):
    """Bit for bit, also where layers differ in their windows, and with biases and norms of heads; from several files."""
    save_model(tmp_path, case, shard_size="60KB")
    precision = Precision(torch.float32)
    resident = Sequences(ResidentExecutor(Checkpoint(tmp_path), precision, 12))
    streamed = Sequences(streaming(tmp_path, precision, resident=0, direct=direct))

    for more in ({"a": prompt(200)}, {"a": [7], "b": prompt(30)}, {"a": [8], "b": [9]}):
        expected, got = resident.run(more), streamed.run(more)
        assert all(torch.equal(got[name], expected[name]) for name in more)


def test_a_batch_moves_the_streamed_layers_once(demo, streaming):
    """Whatever its size; and no more is read ahead than the ring has slots."""
    checkpoint = Checkpoint(demo)
    layer = layer_bytes(checkpoint.config, BF16)
    executor = streaming(demo, resident=2, slots=2)
    sequences = Sequences(executor)
    until(lambda: executor.bytes_moved == 2 * layer)

    for count, new in enumerate((PROMPTS, {"a": [5]}, {"a": [6], "c": [7]}), 1):
        sequences.run(new)
        until(lambda count=count: executor.bytes_moved == (3 * count + 2) * layer)

    time.sleep(0.1)
    assert executor.bytes_moved == (3 * 3 + 2) * layer


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 6])
def test_tensors_may_begin_at_any_byte(tmp_path, streaming, direct, dtype, shift):
    """Direct reads are of whole pages, and numbers may lie across their ends: layers of 9.5 MB in chunks of 8 MiB."""
    shifted(make_demo(tmp_path, layers=3, hidden=640), shift)
    prompts = {"a": prompt(20), "b": [7]}
    expected = Sequences(ResidentExecutor(Checkpoint(tmp_path), Precision(dtype), 4)).run(prompts)

    executor = streaming(tmp_path, Precision(dtype), blocks=4, resident=0, direct=direct)

    got = [Sequences(executor).run(prompts) for _ in range(2)]
    assert all(torch.equal(logits[name], expected[name]) for logits in got for name in prompts)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("shards", ["1GB", "5MB"])
def test_chunks_are_a_layer_in_the_order_of_its_files(tmp_path, shards, direct):
    """Every byte of its tensors once, every place of the slot once, and reads end with a page or with what is wanted."""
    save_model(tmp_path, "qwen 2", torch.bfloat16, shard_size=shards)
    make_demo(tmp_path / "large", layers=2, hidden=640)
    for checkpoint in (Checkpoint(tmp_path), Checkpoint(tmp_path / "large")):
        for layer in range(checkpoint.config.layers):
            begins = slot_places(checkpoint, BF16, layer, direct)
            chunks = layer_chunks(checkpoint, BF16, layer, begins)

            sources = [
                checkpoint.tensors[name]
                for plan in layer_plan(checkpoint.config, layer).values()
                for name, _ in plan.sources
            ]
            wanted = sorted((stored.path, stored.offset, stored.nbytes) for stored in sources)
            parts = [(chunk, part) for chunk in chunks for part in chunk.parts]
            read = [(chunk.path, chunk.offset + part.start, part.nbytes) for chunk, part in parts]
            assert _joined(read) == _joined(wanted)
            assert all(part.nbytes % part.stored.itemsize == 0 for _, part in parts)
            places = sorted((part.place, part.place + part.nbytes) for _, part in parts)
            assert all(end <= begin for (_, end), (begin, _) in pairwise(places))
            assert places[-1][1] <= slot_bytes(checkpoint.config, BF16)
            for chunk, following in pairwise(chunks):
                assert chunk.nbytes <= CHUNK_BYTES
                end = chunk.offset + chunk.nbytes
                assert end % 4096 == 0 or (chunk.path, end) != (following.path, following.offset)


@pytest.mark.parametrize(
    ("shift", "dtype", "straight"), [(0, BF16, 0.98), (6, BF16, 0.98), (1, BF16, 0), (0, FP32, 0)]
)
def test_pages_within_a_tensor_are_read_to_their_place(tmp_path, shift, dtype, straight):
    """Nearly all of a layer, if numbers may lie where they lie in the file, and are computed with as they are stored."""
    checkpoint = Checkpoint(shifted(make_demo(tmp_path, layers=2, hidden=640), shift))
    for layer in range(2):
        chunks = layer_chunks(checkpoint, dtype, layer, slot_places(checkpoint, dtype, layer, True))
        split = [(chunk, *chunk.split(dtype.compute)) for chunk in chunks]

        for chunk, pages, left in split:
            assert all(page.offset % 4096 == page.nbytes % 4096 == page.place % 4096 == 0 for page in pages)
            read = [(chunk.path, chunk.offset + part.start, part.nbytes) for part in left]
            read += [(chunk.path, page.offset, page.nbytes) for page in pages]
            assert _joined(sorted(read)) == [(chunk.path, chunk.offset, chunk.nbytes)]
        whole = sum(chunk.nbytes for chunk in chunks)
        assert sum(page.nbytes for _, pages, _ in split for page in pages) >= straight * whole
        assert straight or not any(pages for _, pages, _ in split)


def _joined(stretches):
    """(path, begin, bytes), where one goes on as another ends taken for one."""
    whole = []
    for path, begin, nbytes in stretches:
        if whole and whole[-1][0] == path and sum(whole[-1][1:]) == begin:
            nbytes += whole[-1][2]
            begin = whole.pop()[1]
        whole.append((path, begin, nbytes))
    return whole


@pytest.mark.parametrize("refused", ["open", "read"])
def test_files_that_cannot_be_read_past_the_cache_are_read_through_it(demo, streaming, monkeypatch, refused):
    """Some file systems refuse to open a file so, some only to read it; the numbers are the same."""
    real_open, real_read, direct = os.open, os.preadv, set()

    def open_(path, flags, *more):
        if flags & os.O_DIRECT and refused == "open":
            raise OSError(errno.EINVAL, "Invalid argument")
        file = real_open(path, flags, *more)
        if flags & os.O_DIRECT:
            direct.add(file)
        else:
            direct.discard(file)
        return file

    def read(file, *more):
        if file in direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_read(file, *more)

    expected = Sequences(ResidentExecutor(Checkpoint(demo), BF16, 12)).run(PROMPTS)
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "preadv", read)

    executor = streaming(demo, resident=0, direct=True)

    got = Sequences(executor).run(PROMPTS)
    assert all(torch.equal(got[name], expected[name]) for name in PROMPTS)


@pytest.mark.parametrize(("free", "direct"), [(10 * GIB, False), (MIB // 4, True), (None, True)])
def test_the_page_cache_is_used_where_it_can_hold_what_is_streamed(
    demo, streaming, monkeypatch, free, direct
):
    """With the machine's memory, of which the process may not have all. A file read in turn leaves nothing in a smaller one."""
    monkeypatch.setattr("openwafer.serve.executors._streaming.available_memory_bytes", lambda: free)

    assert streaming(demo, resident=0).direct == direct


def test_resident_layers_stand_evenly_among_the_streamed():
    """So that the ring is refilled while each of them computes, and not only once in a pass."""
    assert resident_layers(8, 2) == (0, 4)
    assert resident_layers(7, 3) == (0, 2, 4)
    assert resident_layers(3, 3) == (0, 1, 2)
    assert resident_layers(3, 0) == ()


def test_int8_is_refused(demo, streaming):
    """The files hold no int8, and quantising at every pass would take longer than reading."""
    with pytest.raises(InputError, match="weights cannot be streamed as int8"):
        streaming(demo, Precision(torch.bfloat16, "int8"))
    with pytest.raises(InputError, match="choose another dtype"):
        open_executor(demo, execution="weight_streaming", dtype="int8", device="cpu")


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_that_is_cut_short_ends_in_an_engine_error(demo, streaming, tmp_path, direct):
    """A batch that waits for the layer gets the reason, later ones get it at once, and close() still works."""
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    executor = streaming(folder, resident=0, slots=2, direct=direct)
    sequences = Sequences(executor)
    sequences.run({"a": [5]})

    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(40_000)

    # two layers may have been read before, which is no whole pass
    with pytest.raises(EngineError, match=r"could not be read again: .*model.safetensors became shorter"):
        sequences.run({"a": [5]})
    with pytest.raises(EngineError, match="became shorter"):
        executor.submit(sequences.batch({"a": [5]}))


def test_a_file_that_is_replaced_is_read_on(demo, streaming, tmp_path):
    """What was opened is what is read: a download into the same folder does not mix two models."""
    folder = tmp_path / "model"
    shutil.copytree(demo, folder)
    expected = Sequences(ResidentExecutor(Checkpoint(demo), BF16, 12)).run({"a": [5]})["a"]
    executor = streaming(folder, resident=0)

    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(bytes(1 << 20))

    for _ in range(3):
        assert torch.equal(Sequences(executor).run({"a": [5]})["a"], expected)


def test_a_batch_that_fails_ends_the_executor(demo, streaming):
    """Layers come in a fixed order: after half a pass the next batch would meet the wrong ones."""
    executor = streaming(demo, resident=0)
    sequences = Sequences(executor)

    with pytest.raises(EngineError, match="a batch of 2 tokens of 1 sequences failed on cpu"):
        executor.submit(sequences.batch({"a": [1, 9999]}))
    with pytest.raises(EngineError, match="a batch of 2 tokens"):
        executor.submit(sequences.batch({"b": [1]}))


def test_close_ends_the_thread_and_says_so_later(demo, streaming):
    """May be called twice, and while the thread waits for a slot."""
    executor = streaming(demo)
    batch = Sequences(executor).batch({"a": [1]})

    executor.close()
    executor.close()

    with pytest.raises(EngineError, match="was closed"):
        executor.submit(batch)


def test_memory_goes_to_the_ring_then_to_the_cache_and_to_layers():
    """Everything beyond the least is shared: a quarter at most to the cache, layers from the rest, and nothing is exceeded."""
    layer = layer_bytes(WIDE, BF16)
    tight, wide = streaming_plan(WIDE, BF16, 5 * GIB), streaming_plan(WIDE, BF16, 9 * GIB)

    assert tight.memory.blocks >= 2048 // 128
    assert 0 <= tight.resident < wide.resident < 32
    for plan in (tight, wide):
        assert 0 <= plan.memory.budget_bytes - plan.memory.total_bytes < layer
    assert wide.memory.cache_bytes - tight.memory.cache_bytes <= 4 * GIB / 4 + wide.memory.block_bytes
    assert streaming_plan(WIDE, BF16, 9 * GIB, blocks=8).resident > wide.resident


def test_a_plan_that_does_not_fit_says_what_is_needed():
    """The memory that it names suffices."""
    with pytest.raises(
        PlanError, match=r"even with all of its layers streamed: .* there are 1.00 GiB"
    ) as refusal:
        streaming_plan(WIDE, BF16, GIB)

    needed = float(str(refusal.value).partition("which make ")[2].split()[0])
    assert streaming_plan(WIDE, BF16, round((needed + 0.1) * GIB)).resident == 0
    with pytest.raises(PlanError, match="a cache of fewer blocks"):
        streaming_plan(WIDE, BF16, 3 * GIB, blocks=1000)


def test_what_does_not_fit_is_streamed(tmp_path):
    """`auto`: where all layers find room they stay, with 40 MiB less some of 24 layers of 5.8 MiB pass through."""
    make_demo(tmp_path, layers=24, hidden=512)
    checkpoint = Checkpoint(tmp_path)
    enough = resident_plan(checkpoint.config, BF16, GIB, blocks=16).total_bytes

    resident = open_executor(tmp_path, device="cpu", blocks=16, memory_bytes=enough)
    streamed = open_executor(tmp_path, device="cpu", blocks=16, memory_bytes=enough - 40 * MIB)

    assert isinstance(resident, ResidentExecutor)
    assert isinstance(streamed, StreamingExecutor)
    streamed.close()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits private memory on Linux")
def test_the_process_stays_inside_its_memory(tmp_path):
    """The kernel refuses the process more private memory than the plan was given, and it still answers."""
    make_demo(tmp_path, layers=56, hidden=768)
    code = """
        import os, resource, sys
        limit = 700 << 20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        sys.path.insert(0, sys.argv[2])
        from serve_models import Sequences, prompt
        from openwafer.serve.executors import open_executor
        weights = os.path.getsize(os.path.join(sys.argv[1], "model.safetensors"))
        executor = open_executor(sys.argv[1], device="cpu", blocks=8, memory_bytes=limit)
        answers = Sequences(executor).greedy({"a": prompt(300), "b": prompt(5)}, 4)
        print(type(executor).__name__, weights > limit, executor.bytes_moved > weights, len(answers["a"]))
        executor.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path, __file__.rpartition("/")[0]],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["StreamingExecutor", "True", "True", "4"]
