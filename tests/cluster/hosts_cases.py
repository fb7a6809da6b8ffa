"""What the tests of several hosts share: agents as processes, and a small run."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from openwafer.train import HostsCluster, LocalCluster, Trainer
from openwafer.train.optim import AdamW
from run_cases import FEATURES, Numbers, same_tensors, squared_error

__all__ = [
    "TOKEN",
    "Agents",
    "Numbers",
    "free_port",
    "mlp",
    "options",
    "over_hosts",
    "same_tensors",
    "token_file",
    "trainer",
]

TOKEN = "a token that only the tests know"
AGENT = Path(__file__).with_name("host_agent.py")


def mlp() -> nn.Module:
    """Three layers with weights, and batch statistics, which go home over a link."""
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )


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
        command = [sys.executable, str(AGENT), str(port), TOKEN]
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
