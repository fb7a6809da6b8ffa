"""What the tests of several hosts share: agents as processes, and a small run. As a script: an agent."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from openwafer.cluster import serve_host
from openwafer.cluster.store import Checkpoint
from openwafer.train import HostsCluster, LocalCluster, Trainer
from openwafer.train.data import Batch, BatchSource
from openwafer.train.optim import AdamW

TOKEN = "a token that only the tests know"
BATCH, FEATURES = 8, 8


class Numbers(BatchSource):
    """Batches (x [B, F], y [B, 4]) made of their step's number."""

    @property
    def batch_size(self) -> int:
        return BATCH

    @property
    def samples(self) -> None:
        return None

    @property
    def steps_per_epoch(self) -> None:
        return None

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(BATCH, FEATURES, generator=generator), torch.randn(BATCH, 4, generator=generator)


def mlp() -> nn.Module:
    """Three layers with weights, and batch statistics, which go home over a link."""
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The loss."""
    return nn.functional.mse_loss(output, target)


def trainer(folder: Path, cluster: LocalCluster, console: Console | None = None) -> Trainer:
    """A run of the MLP."""
    return Trainer(
        mlp,
        optimizer=AdamW(lr=1e-2),
        loss=squared_error,
        cluster=cluster,
        folder=folder,
        name="hosts",
        console=console or Console(file=io.StringIO()),
    )


def options(**more: Any) -> dict[str, Any]:
    """Fields of a cluster whose roles are threads, on ATen's kernels."""
    base = {"processes": False, "execution": "weight_streaming", "matmul": "torch", "threads": 1}
    return {**base, **more}


def over_hosts(folder: Path, port: int, hosts: int = 2, **more: Any) -> HostsCluster:
    """The same cluster with its systems on agents that join at `port`."""
    return HostsCluster(
        **{
            **options(),
            "hosts": hosts,
            "port": port,
            "token_file": str(token_file(folder)),
            "join_s": 60.0,
            **more,
        }
    )


def token_file(folder: Path, token: str = TOKEN) -> Path:
    """A file that holds the token and that nobody else may read."""
    path = folder / "token"
    path.touch(0o600)
    path.write_text(token + "\n")
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Agents:
    """Agents of this machine, each a process, which serve run after run; a context manager that ends them."""

    def __init__(self, port: int, count: int) -> None:
        self.port = port
        command = [sys.executable, __file__, str(port)]
        self.processes = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for _ in range(count)
        ]

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate()


def same_tensors(left: Path, right: Path) -> bool:
    """Whether two checkpoints hold the same weights and optimizer state, bit for bit."""
    a, b = Checkpoint.open(left, verify=True), Checkpoint.open(right, verify=True)
    return a.types == b.types and all(
        torch.equal(
            a.tensor(name).reshape(-1).view(torch.uint8), b.tensor(name).reshape(-1).view(torch.uint8)
        )
        for name in a.types
    )


def shift_clock(ahead_s: float) -> None:
    """Hosts were switched on at different times, and their monotonic clocks count from then."""
    real = time.monotonic
    time.monotonic = lambda: real() + ahead_s


if __name__ == "__main__":
    shift_clock(1e6)
    serve_host("127.0.0.1", int(sys.argv[1]), TOKEN.encode(), stay=True, tell=lambda line: None)
