"""A model whose weights and optimizer state are four times what its process may hold trains from disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openwafer.base import GIB, MIB

LAYERS, WIDTH = 64, 1120
STATE_BYTES = LAYERS * (WIDTH * WIDTH + WIDTH) * 3 * 4  # weight and both moments of AdamW, float32
SHARE = 0.25
STEPS = 3

PROGRAM = f"""
import io, json, resource, sys

import torch
from rich.console import Console
from torch import nn

from openwafer.base import WaferError
from openwafer.train import LocalCluster, Trainer
from openwafer.train.data import BatchSource
from openwafer.train.optim import AdamW

folder, store, room = sys.argv[1], sys.argv[2], int(sys.argv[3])


def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


class Data(BatchSource):
    batch_size, samples, steps_per_epoch = 4, None, None

    def batch(self, step):
        x = torch.randn(4, {WIDTH}, generator=torch.Generator().manual_seed(step))
        return x, 0.5 * x


def model(layers):
    return nn.Sequential(*(nn.Linear({WIDTH}, {WIDTH}) for _ in range(layers)))


def trainer(layers):
    return Trainer(
        lambda: model(layers),
        optimizer=AdamW(lr=1e-5),
        loss=nn.functional.mse_loss,
        cluster=LocalCluster(
            memoryx=store, processes=False, threads=1, execution="weight_streaming", matmul="torch"
        ),
        folder=folder,
        console=Console(file=io.StringIO()),
    )


trainer(2).plan(Data())  # what planning imports belongs to the program, not to the model
data_bytes = status("VmData")
if room:
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + room, data_bytes + room))
try:
    result = trainer({LAYERS}).fit(Data(), steps={STEPS}, keep_checkpoints=1)
except WaferError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
print(json.dumps(dict(losses=result.losses, resident=status("VmHWM"), data=data_bytes)))
"""


@dataclass(frozen=True)
class Ended:
    status: int
    result: dict[str, Any]
    error: str


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Removed at once: gigabytes."""
    if shutil.disk_usage(tmp_path).free < 6 * GIB:
        pytest.skip("needs 6 GiB of disk")
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def run(folder: Path, store: str, room: int) -> Ended:
    """Train in a process that may allocate `room` bytes beyond its code and libraries; 0: any number."""
    # Freed blocks of a megabyte and more go back to the kernel: the limit is on what is in use, not on fragments.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MIB), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), store, str(room)],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    result = json.loads(ended.stdout) if ended.returncode == 0 else {}
    return Ended(ended.returncode, result, ended.stderr)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mapped memory on Linux only")
def test_a_model_four_times_larger_than_memory_trains_from_disk(folder: Path) -> None:
    """To the very losses that it has with memory enough: the store moves bytes and computes nothing.

    The limit is on all that the process allocates: buffers, slots, activations, stacks of threads. The kernel
    enforces it (RLIMIT_DATA), so that one allocation of the model's size would end the run.
    """
    limited = run(folder, "disk", int(STATE_BYTES * SHARE))
    assert limited.status == 0, limited.error
    shutil.rmtree(folder)
    free = run(folder, "ram", 0)
    assert free.status == 0, free.error

    assert limited.result["losses"] == free.result["losses"]
    assert len(set(limited.result["losses"])) == STEPS
    assert free.result["resident"] > STATE_BYTES
    assert limited.result["resident"] < free.result["resident"] - STATE_BYTES // 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mapped memory on Linux only")
def test_the_same_model_in_memory_is_refused_with_what_it_needs(folder: Path) -> None:
    """Before training, and not as a process that the kernel kills."""
    refused = run(folder, "ram", int(STATE_BYTES * SHARE))

    assert refused.status == 1
    assert "StorageError: segment 'store' needs" in refused.error
    assert "let MemoryX keep state on disk" in refused.error
    assert "Traceback" not in refused.error
