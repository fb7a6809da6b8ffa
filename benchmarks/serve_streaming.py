"""A model is served with a quarter of its weights in memory; how near the stream of the others comes to the disk.

    python benchmarks/serve_streaming.py --layers 16 --hidden 2048 --batches 5 --rounds 3 --folder /a/folder/with/2GB

The model has random weights in bfloat16. The streamed contestant may not have more private memory than its plan says: it
sets RLIMIT_DATA before it imports torch, and the kernel refuses whatever would make heap, buffers and stacks larger. Where
a control group (version 2) with a limit of memory can be made, it is put into one as well, which counts pages of files,
too. A batch is one new token of each of --sequences sequences.

cold: the stream reads past the page cache, as it does for a model that the machine cannot keep. Bandwidth is the bytes that
were read during --batches batches through the time of these. It stands beside loops that only read the same file with the
same kernel calls, right before and right after: 16 MiB at a time through a cold page cache, as dd does, and past it, into
128 MiB of large pages in turn, 4 MiB at a time, 16 MiB, and 16 MiB by two threads. Of each loop the mean of both times
counts, of the loops the fastest, and of all turns the median: a disk that others use is compared with itself within seconds.

warm: the stream reads through the page cache, which holds the whole file, so no disk limits it; it stands beside resident
execution. All answers must be those of the resident executor.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from _common import describe_machine, entry, finish, need_disk, parser_of, print_table, run_worker, workspace
from _worker import Settings, memory
from larger_than_memory import DataPeak

from openwafer.base import GIB, InputError, NumericsError, format_bytes

READERS = {
    "dd, 16 MiB": (False, 1, 16),
    "4 MiB": (True, 1, 4),
    "16 MiB": (True, 1, 16),
    "2 of 16 MiB": (True, 2, 16),
}
"""Loops that only read: past the page cache or through it, threads, MiB at a time."""
SCRATCH_BYTES = 128 << 20
"""What these loops fill, in turn: weights must come to lie in memory, and not over one another in the CPU's cache."""
PROMPT_TOKENS = 16
TURNS = 4


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048, help="a multiple of 32")
    parser.add_argument("--share", type=float, default=0.25, help="of the weights that stay in memory")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--batches", type=int, default=5, help="of each of the turns of a round")
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
        rounds: list[dict[str, Any]] = []
        for number in range(options.rounds):
            with memory_group(planned["limit"]) as group:
                planned["limited_by"] = ["RLIMIT_DATA", *(["memory.max"] if group else [])]
                cold = run_worker(
                    __file__, "streamed", settings | {"cold": True, "group": group}, environment=environment
                )
            warm = run_worker(
                __file__, "streamed", settings | {"cold": False, "group": None}, environment=environment
            )
            rounds.append({"cold": cold, "warm": warm})
            print(f"round {number + 1} of {options.rounds}", flush=True)
    show(options, planned, resident, rounds)
    finish(options, {"planned": planned, "resident": resident, "rounds": rounds})
    for each in rounds:
        if any(streamed["answers"] != resident["answers"] for streamed in each.values()):
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


def read_alone(path: Path, scratch: memoryview, direct: bool, threads: int, mib: int) -> float:
    """GiB/s of threads that read a file and do nothing with it."""
    nbytes, size = mib << 20, path.stat().st_size
    places = iter(range(0, size, nbytes))  # what several threads take from in turn
    room = len(scratch) // threads  # of each thread, which fills it again and again
    file = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))

    def run(number: int) -> None:
        for count, place in enumerate(places):
            start = number * room + count * nbytes % room
            os.preadv(file, [scratch[start : start + nbytes]], place)

    begun = time.perf_counter()
    readers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    os.close(file)
    return size / (time.perf_counter() - begun) / GIB


def streamed(settings: Settings) -> dict[str, Any]:
    """Worker: limit this process, then import torch, then serve."""
    import resource

    assert "torch" not in sys.modules, "what torch allocates must count"
    resource.setrlimit(resource.RLIMIT_DATA, (settings["limit"], settings["limit"]))
    if settings["group"] is not None:
        Path(settings["group"], "cgroup.procs").write_text(str(os.getpid()))
    peak = DataPeak()
    import torch

    from openwafer.serve.executors import StreamingExecutor
    from openwafer.serve.kernels import set_threads
    from openwafer.serve.model import Checkpoint, Precision, new_tensor

    torch.set_num_threads(settings["threads"])
    set_threads(settings["threads"])
    cold, path = settings["cold"], weights_of(settings)
    executor = StreamingExecutor(
        Checkpoint(settings["folder"]),
        Precision(torch.bfloat16),
        settings["blocks"],
        settings["resident_layers"],
        direct=cold,
    )
    answers, feed = [], Feed(settings["sequences"])

    def batch() -> None:
        executor.submit(feed.batch())
        answers.append(feed.take(executor.collect()))

    scratch = new_tensor((SCRATCH_BYTES,), torch.uint8).numpy().data if cold else memoryview(b"")

    def alone() -> dict[str, float]:
        rates = {}
        for name, how in READERS.items() if cold else ():
            drop(path)
            rates[name] = read_alone(path, scratch, *how)
        return rates

    batch()  # the prompts
    turns = []
    for _ in range(TURNS):
        before = alone()
        moved, begun = executor.bytes_moved, time.perf_counter()
        for _ in range(settings["batches"]):
            batch()
        seconds = time.perf_counter() - begun
        rate = (executor.bytes_moved - moved) / seconds / GIB
        after = alone()
        turns.append(
            {
                "read": {name: (before[name] + after[name]) / 2 for name in before},
                "rate": rate,
                "tokens": settings["sequences"] * settings["batches"] / seconds,
            }
        )
    executor.close()
    return {"turns": turns, "answers": answers, "peak": memory("VmHWM"), "data_peak": peak.stop()}


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
    for _ in range(1 + TURNS * settings["batches"]):
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


@contextmanager
def memory_group(limit: int, root: Path = Path("/")) -> Iterator[str | None]:
    """A control group (version 2) whose processes may take so much memory, pages of files included, and no swap.

    It is made below the nearest group around this process that hands out memory and may be written; None if there is none.
    """
    lines = (
        Path(root, "proc/self/cgroup").read_text().splitlines()
        if Path(root, "proc/self/cgroup").exists()
        else []
    )
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    mount = Path(root, "sys/fs/cgroup")
    around = [] if own is None else [mount / own.strip("/"), *(mount / own.strip("/")).parents]
    made = None
    for parent in around:
        with suppress(OSError):
            if "memory" in Path(parent, "cgroup.subtree_control").read_text().split():
                made = parent / f"serve-streaming-{os.getpid()}"
                made.mkdir()
                Path(made, "memory.max").write_text(str(limit))
                Path(made, "memory.swap.max").write_text("0")
                break
        if parent == mount:
            break
    try:
        yield None if made is None else str(made)
    finally:
        if made is not None:
            with suppress(OSError):
                made.rmdir()


def share_of(turn: dict[str, Any]) -> float:
    """What the stream reached of the fastest loop beside it."""
    return float(turn["rate"] / max(turn["read"].values()))


def show(
    options: Any, planned: dict[str, Any], resident: dict[str, Any], rounds: list[dict[str, Any]]
) -> None:
    """The tables."""
    peak = max(each["cold"]["data_peak"] for each in rounds)
    resident_peak = max(each["cold"]["peak"] for each in rounds)
    print(f"\n{describe_machine()}")
    print(
        f"weights {format_bytes(planned['weights'])}, of which {format_bytes(planned['kept'])} stay "
        f"({100 * planned['kept'] / planned['weights']:.0f} %, {planned['resident_layers']} of {options.layers} layers); a pass "
        f"moves {format_bytes(planned['a_pass'])}"
    )
    print(
        f"limit {format_bytes(planned['limit'])}, by {' and '.join(planned['limited_by'])}; peak of VmData "
        f"{format_bytes(peak)}, VmHWM {format_bytes(resident_peak)}"
    )
    print(
        f"{options.sequences} sequences; resident: {resident['tokens']:.1f} tokens/s, VmHWM {format_bytes(resident['peak'])}\n"
    )
    cold = [turn for each in rounds for turn in each["cold"]["turns"]]
    warm = [turn for each in rounds for turn in each["warm"]["turns"]]
    loops = (f"{name} {statistics.median(turn['read'][name] for turn in cold):.2f}" for name in READERS)
    print(f"reading alone, cold, GiB/s: {', '.join(loops)}\n")
    rows = []
    for name, turns, of in (
        ("cold", cold, f"{100 * statistics.median(map(share_of, cold)):.0f} % of the fastest loop"),
        (
            "warm",
            warm,
            f"{100 * statistics.median(turn['tokens'] for turn in warm) / resident['tokens']:.0f} % of resident",
        ),
    ):
        rate = statistics.median(turn["rate"] for turn in turns)
        tokens = statistics.median(turn["tokens"] for turn in turns)
        rows.append([name, f"{rate:.2f}", f"{tokens:.1f}", of])
    print_table(["page cache", "stream, GiB/s", "tokens/s", "which is"], rows)


WORKERS = {"model": model, "streamed": streamed, "resident": resident}

if __name__ == "__main__":
    entry(main, WORKERS)
