"""A model is served with a quarter of its weights in memory; how near the stream of the others comes to the disk.

    python benchmarks/serve_streaming.py --layers 24 --hidden 2048 --batches 12 --folder /a/folder/with/3GB

The model has random weights in bfloat16. The streamed contestant may not have more private memory than its plan says: it
sets RLIMIT_DATA before it imports torch, and the kernel refuses whatever would make heap, buffers and stacks larger. Pages
of the file in the page cache are not its own, and the kernel drops them when it needs room; `cold` rows drop them before
every batch, `warm` rows do not. A batch is one new token of each of --sequences sequences.

Bandwidth is the bytes that were read during batches through the time of these batches, what was read between batches left
out of both. It stands beside that of a loop that does nothing but read the same file, 16 MiB at a time, cold and warm.
Both take turns, --rounds times; of the loop the best time counts, of the stream the median. The answers must be those of
the resident executor.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from _common import describe_machine, entry, finish, need_disk, parser_of, print_table, run_worker, workspace
from _worker import Settings, memory
from larger_than_memory import DataPeak

from openwafer.base import GIB, InputError, NumericsError, format_bytes

CHUNK_BYTES = 16 << 20
READS = 3
PROMPT_TOKENS = 48


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=2048, help="a multiple of 32")
    parser.add_argument("--share", type=float, default=0.25, help="of the weights that stay in memory")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--batches", type=int, default=12, help="that are measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.hidden < 32 or options.hidden % 32 or min(options.layers, options.batches, options.rounds) < 1:
        raise InputError("give --hidden a multiple of 32, and --layers, --batches and --rounds at least 1")

    with workspace(options.folder) as folder:
        settings: Settings = {
            name: getattr(options, name)
            for name in ("layers", "hidden", "share", "sequences", "batches", "threads")
        }
        settings["folder"] = str(folder / "model")
        need_disk(folder, 24 * options.layers * options.hidden**2 + GIB // 8, "the weights")
        planned = run_worker(__file__, "model", settings)
        settings |= planned
        environment = {"OMP_NUM_THREADS": str(options.threads), "MALLOC_ARENA_MAX": "1"}
        resident = run_worker(__file__, "resident", settings, environment=environment)
        rounds = []
        for number in range(options.rounds):
            read = run_worker(__file__, "read", settings)
            streamed = run_worker(__file__, "streamed", settings, environment=environment)
            rounds.append({"read": read, "streamed": streamed})
            print(f"round {number + 1} of {options.rounds}", flush=True)
    show(options, planned, resident, rounds)
    finish(options, {"planned": planned, "resident": resident, "rounds": rounds})
    for each in rounds:
        if each["streamed"]["answers"] != resident["answers"]:
            raise NumericsError(
                "the streamed answers are not those of the resident executor; one of them computes something else"
            )


def model(settings: Settings) -> dict[str, Any]:
    """Worker: write the model, and plan how much memory leaves room for the wanted share of its weights."""
    import torch

    from openwafer.serve.executors import streaming_plan
    from openwafer.serve.model import (
        Checkpoint,
        Precision,
        embedding_bytes,
        head_bytes,
        layer_bytes,
        make_demo,
        model_bytes,
    )

    folder = make_demo(settings["folder"], layers=settings["layers"], hidden=settings["hidden"])
    config, precision = Checkpoint(folder).config, Precision(torch.bfloat16)
    whole, layer = model_bytes(config, precision), layer_bytes(config, precision)
    ends = embedding_bytes(config, precision) + head_bytes(config, precision)
    resident = round(max(0.0, settings["share"] * whole - ends) / layer)
    blocks = settings["sequences"]
    least = streaming_plan(
        config, precision, 1 << 62, blocks
    )  # everything: all of it but the layers is fixed
    limit = least.memory.total_bytes - (least.resident - resident) * layer
    plan = streaming_plan(config, precision, limit, blocks)
    os.sync()
    return {
        "weights": whole,
        "kept": ends + plan.resident * layer,
        "resident_layers": plan.resident,
        "limit": limit,
        "blocks": blocks,
        "a_pass": (config.layers - plan.resident) * layer,
        "plan": str(plan),
    }


def read(settings: Settings) -> dict[str, Any]:
    """Worker: GiB/s of a loop that only reads the file, cold and warm; the best of a few times."""
    path = weights_of(settings)
    buffer = bytearray(CHUNK_BYTES)
    rates = {"cold": 0.0, "warm": 0.0}
    for name in ("cold", "warm") * READS:
        if name == "cold":
            drop(path)
        begun, done = time.perf_counter(), 0
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                done += count
        rates[name] = max(rates[name], done / (time.perf_counter() - begun) / GIB)
    return rates


def streamed(settings: Settings) -> dict[str, Any]:
    """Worker: limit this process, then import torch, then serve."""
    import resource

    assert "torch" not in sys.modules, "what torch allocates must count"
    resource.setrlimit(resource.RLIMIT_DATA, (settings["limit"], settings["limit"]))
    peak = DataPeak()
    import torch

    from openwafer.serve.executors import StreamingExecutor, open_executor
    from openwafer.serve.kernels import set_threads

    torch.set_num_threads(settings["threads"])
    set_threads(settings["threads"])
    executor = open_executor(
        settings["folder"],
        execution="weight_streaming",
        dtype="bf16",
        device="cpu",
        memory_bytes=settings["limit"],
        blocks=settings["blocks"],
    )
    assert isinstance(executor, StreamingExecutor)
    path = weights_of(settings)
    found: dict[str, Any] = {}
    answers, feed = [], Feed(settings["sequences"])
    for name in ("prompt", "cold", "warm"):
        seconds, moved = [], 0
        for _ in range(1 if name == "prompt" else settings["batches"]):
            if name == "cold":
                drop(path)
            before, begun = executor.bytes_moved, time.perf_counter()
            executor.submit(feed.batch())
            answers.append(feed.take(executor.collect()))
            seconds.append(time.perf_counter() - begun)
            moved += executor.bytes_moved - before
        found[name] = {
            "seconds": seconds,
            "rate": moved / sum(seconds) / GIB,
            "tokens": settings["sequences"] * len(seconds) / sum(seconds),
        }
    executor.close()
    return {**found, "answers": answers, "peak": memory("VmHWM"), "data_peak": peak.stop()}


def resident(settings: Settings) -> dict[str, Any]:
    """Worker: the same batches with all weights in memory, without limit."""
    import torch

    from openwafer.serve.executors import ResidentExecutor
    from openwafer.serve.kernels import set_threads
    from openwafer.serve.model import Checkpoint, Precision

    torch.set_num_threads(settings["threads"])
    set_threads(settings["threads"])
    executor = ResidentExecutor(
        Checkpoint(settings["folder"]), Precision(torch.bfloat16), settings["blocks"], "cpu"
    )
    answers, seconds, feed = [], [], Feed(settings["sequences"])
    for _ in range(1 + 2 * settings["batches"]):
        begun = time.perf_counter()
        executor.submit(feed.batch())
        answers.append(feed.take(executor.collect()))
        seconds.append(time.perf_counter() - begun)
    tokens = settings["sequences"] * (len(seconds) - 1) / sum(seconds[1:])
    return {"answers": answers, "tokens": tokens, "peak": memory("VmHWM")}


class Feed:
    """Batches of so many sequences, each with a block of its own: a short prompt, then the likeliest token again and again."""

    def __init__(self, sequences: int) -> None:
        self._new = [[(7 * s + 3 * t) % 256 for t in range(PROMPT_TOKENS)] for s in range(sequences)]
        self._length = 0

    def batch(self) -> Any:
        """The next batch."""
        import torch

        from openwafer.serve.executors import BLOCK_TOKENS, Batch

        count, each = len(self._new), len(self._new[0])
        start, self._length = self._length, self._length + each
        if self._length > BLOCK_TOKENS:
            raise InputError(f"a sequence has {BLOCK_TOKENS} tokens at most here; give fewer --batches")
        return Batch(
            tokens_T=torch.tensor(self._new).flatten(),
            positions_T=torch.arange(start, self._length).repeat(count),
            starts=tuple(range(0, count * each + 1, each)),
            contexts=(self._length,) * count,
            tables_SB=torch.arange(count, dtype=torch.int32)[:, None],
            outputs=tuple(range(each - 1, count * each, each)),
        )

    def take(self, logits: Any) -> list[int]:
        """The likeliest token of each sequence, which is what the next batch brings."""
        best: list[int] = logits.argmax(1).tolist()
        self._new = [[token] for token in best]
        return best


def weights_of(settings: Settings) -> Path:
    return Path(settings["folder"], "model.safetensors")


def drop(path: Path) -> None:
    """Have the kernel forget its pages of a file. Other machines between this one and the disk may remember them."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def show(
    options: Any, planned: dict[str, Any], resident: dict[str, Any], rounds: list[dict[str, Any]]
) -> None:
    """The tables."""
    rows = []
    for name in ("cold", "warm"):
        alone = max(each["read"][name] for each in rounds)
        stream = statistics.median(each["streamed"][name]["rate"] for each in rounds)
        tokens = statistics.median(each["streamed"][name]["tokens"] for each in rounds)
        rows.append([name, f"{alone:.2f}", f"{stream:.2f}", f"{100 * stream / alone:.0f} %", f"{tokens:.1f}"])
    peak = max(each["streamed"]["data_peak"] for each in rounds)
    resident_peak = max(each["streamed"]["peak"] for each in rounds)
    print(f"\n{describe_machine()}")
    print(
        f"weights {format_bytes(planned['weights'])}, of which {format_bytes(planned['kept'])} stay "
        f"({100 * planned['kept'] / planned['weights']:.0f} %, {planned['resident_layers']} of {options.layers} layers); a pass "
        f"moves {format_bytes(planned['a_pass'])}"
    )
    print(
        f"limit of VmData {format_bytes(planned['limit'])}; peak of VmData {format_bytes(peak)}, VmHWM "
        f"{format_bytes(resident_peak)}"
    )
    print(
        f"{options.sequences} sequences; resident: {resident['tokens']:.1f} tokens/s, VmHWM {format_bytes(resident['peak'])}\n"
    )
    print_table(["page cache", "reading alone, GiB/s", "stream, GiB/s", "of it", "tokens/s"], rows)


WORKERS = {"model": model, "read": read, "streamed": streamed, "resident": resident}

if __name__ == "__main__":
    entry(main, WORKERS)
