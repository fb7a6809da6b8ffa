"""An appliance on which the golden MLP is compiled, and which can be told to train it."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from stub_client import Client, Coordinator, golden

from openwafer.appliance import ManagementNode

LOSS = "output_loss"


SHAPES = {
    "state.model.fc1.weight": (64, 32),
    "state.model.fc1.bias": (64,),
    "state.model.fc2.weight": (64, 64),
    "state.model.fc2.bias": (64,),
    "state.model.fc3.weight": (10, 64),
    "state.model.fc3.bias": (10,),
}
_WEIGHT_OF = dict(zip("012345", SHAPES, strict=True))


class Cluster:
    """One appliance for all tests of a file, and the program compiled on it."""

    def __init__(self, node: ManagementNode, client: Client) -> None:
        self.node, self.client = node, client
        self.compiled = compile_mlp(client)

    def started(self, steps: int = 4, **run: Any) -> tuple[str, Coordinator]:
        """A job that trains, with its coordinator."""
        return train(self.client, self.compiled, steps, **run)


def compile_mlp(client: Client) -> Any:
    """The response to compiling the golden MLP."""
    return client.compile(golden("mlp_float16"), batch=16)


def train(client: Client, compiled: Any, steps: int, **run: Any) -> tuple[str, Coordinator]:
    """A job that trains a compiled MLP, with its coordinator."""
    job, coordinator = client.execute(compiled)
    coordinator.run(steps, **run)
    send_weights(coordinator)
    coordinator.call("UnaryStartStreaming")
    return job, coordinator


def send_weights(coordinator: Coordinator) -> None:
    """Send a value for every tensor: weights by stream, the rest as one number each."""
    generator = torch.Generator().manual_seed(0)
    for name, number in coordinator.expected().items():
        if name.startswith("state.model."):
            coordinator.send(name, torch.randn(SHAPES[name], generator=generator) * 0.1)
        elif "exp_avg" in name:
            shape = SHAPES[_WEIGHT_OF[name.split(".")[3]]]
            coordinator.fill(number, list(shape), torch.tensor(0.0))
        elif "power" in name:
            coordinator.fill(number, [], torch.tensor(0.9 if "beta1" in name else 0.99))
        elif name.endswith("loss_scale"):
            coordinator.fill(number, [], torch.tensor(1024.0))
        else:
            coordinator.fill(number, [], torch.tensor(0))


def roles(node: ManagementNode, job: str) -> list[psutil.Process]:
    """The processes in which a job's systems and MemoryX run: those below its own that run our interpreter's spawn."""
    folder = str(node.folder(job).path)
    everyone = [process for process in psutil.process_iter() if _belongs(process, folder)]
    return [process for process in everyone if any("spawn_main" in word for word in process.cmdline())]


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        return process.environ().get("OPENWAFER_JOB") == folder
    except psutil.Error:
        return False
