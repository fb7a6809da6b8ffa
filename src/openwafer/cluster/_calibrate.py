"""Measure on this machine what a prediction of the step's time needs: each body once, and the disk."""

from __future__ import annotations

import errno
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from openwafer.artifact import Body, DiskSpeed, Plan, TensorType
from openwafer.base import MIB, StorageError
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import Kernels
from openwafer.cluster._matmul import matmul_kernels
from openwafer.cluster.store import aligned_buffer

REPEATS, ENOUGH_S = 3, 0.3
"""Runs of a body that count; fewer where they take longer than this together."""
PROBE_BYTES = 256 * MIB
CHUNK_BYTES = 16 * MIB
ALONE_S, ENOUGH_PRODUCTS, PRODUCT_SIZE = 0.2, 20, 384
"""Square products that are timed beside the disk: some milliseconds each."""
CACHES_BYTES = 64 * MIB
"""More than the caches of the cores of one system hold."""


def measure_bodies(
    plan: Plan, matmul: Literal["torch", "onednn", "auto"], choices: Mapping[str, str], threads: int
) -> dict[str, float]:
    """Seconds of one run of every body of a training step, on made-up data of the right shapes.

    Systems' bodies run on `threads` threads, MemoryX's updates on one. The first run (which sets kernels up and touches
    memory) is left out; the median of the others counts.
    """
    before = torch.get_num_threads()
    try:
        with torch.inference_mode():
            torch.set_num_threads(threads)
            kernels = Kernels(torch.device("cpu"), matmul_kernels(matmul, threads, choices))
            seconds = {key: _measure(plan.body[key], kernels) for key in _executed(plan)}
            torch.set_num_threads(1)
            kernels = Kernels(torch.device("cpu"))
            for entry in plan.update.records:
                for call in (entry.before, entry.apply):
                    if call is not None and call.body not in seconds:
                        seconds[call.body] = _measure(plan.body[call.body], kernels)
            return seconds
    finally:
        torch.set_num_threads(before)


def measure_disks(folders: Sequence[Path], nbytes: int, threads: int) -> DiskSpeed:
    """Direct I/O in these folders, at the same time and together, while `threads` threads compute as in a step.

    Each gets a file that is removed again. nbytes: of each, in whole chunks, PROBE_BYTES at most; a store needs no more
    than its own size. Raises StorageError if there is no room for one of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with ThreadPoolExecutor(len(folders)) as pool:
            alone = _product_times(lambda seconds: seconds < ALONE_S)
            probes = [pool.submit(_measure_disk, folder, nbytes) for folder in folders]
            beside = _product_times(lambda _: not all(probe.done() for probe in probes))
            alone += _product_times(lambda seconds: seconds < ALONE_S)
            each = [probe.result() for probe in probes]
    finally:
        torch.set_num_threads(before)
    return DiskSpeed(
        sum(read for read, _ in each),
        sum(written for _, written in each),
        # Medians: what else the machine does comes in bursts.
        max(1.0, statistics.median(beside) / statistics.median(alone))
        if len(beside) >= ENOUGH_PRODUCTS
        else 1.0,
    )


def _product_times(goes_on: Callable[[float], bool]) -> list[float]:
    """Seconds of each of many matrix products, for as long as `goes_on(seconds so far)`."""
    a, b = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE), torch.ones(PRODUCT_SIZE, PRODUCT_SIZE)
    torch.mm(a, b)
    started, times = time.perf_counter(), []
    while goes_on((before := time.perf_counter()) - started):
        torch.mm(a, b)
        times.append(time.perf_counter() - before)
    return times


def _measure_disk(folder: Path, nbytes: int) -> tuple[float, float]:
    path = folder / f"probe-{os.getpid()}"
    data = aligned_buffer(CHUNK_BYTES)
    data[:] = os.urandom(CHUNK_BYTES)
    chunks = max(1, min(nbytes, PROBE_BYTES) // CHUNK_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = _open_direct(path)
        try:
            started = time.perf_counter()
            for index in range(chunks):
                if os.pwrite(fd, data, index * CHUNK_BYTES) < CHUNK_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = time.perf_counter()
            for index in range(chunks):
                os.preadv(fd, [data], index * CHUNK_BYTES)
            done = time.perf_counter()
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(
            f"{folder} takes no file of {chunks * CHUNK_BYTES // MIB} MiB: {error.strerror}; free some room"
        ) from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return chunks * CHUNK_BYTES / (done - written), chunks * CHUNK_BYTES / (written - started)


def _open_direct(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
    except OSError:
        return os.open(path, flags, 0o600)


def _executed(plan: Plan) -> dict[str, None]:
    """Bodies that a system runs in a training step, in order, each once."""
    found: dict[str, None] = {}
    for layers in plan.layers.values():
        for layer in layers:
            found[layer.forward.body] = None
            if layer.backward is not None:
                found[layer.backward.body] = None
    return found


def _measure(body: Body, kernels: Kernels) -> float:
    """As in a step: what it reads was pushed out of the caches by other layers, and what it makes is kept a while."""
    run = compile_body(body, kernels)
    inputs = [_made_up(kind) for kind in body.inputs]
    run(list(inputs))
    others = torch.ones(CACHES_BYTES // 4)
    seconds: list[float] = []
    made = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_S:
        others.add_(1)
        started = time.perf_counter()
        made.append(run(list(inputs)))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _made_up(kind: TensorType) -> Any:
    """Small random numbers; zeros where an index, a mask or a salt is wanted, which every operator takes."""
    dtype = getattr(torch, kind.dtype)
    if dtype.is_floating_point:
        return torch.randn(kind.shape, dtype=torch.float32).mul_(0.02).to(dtype)
    return torch.zeros(kind.shape, dtype=dtype)
